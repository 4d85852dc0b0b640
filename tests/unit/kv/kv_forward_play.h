// Random operations on a session: steps with tokens, whose outputs are held against the oracle's,
// between edits.
#pragma once
#include "tests/unit/kv/kv_forward_lines.h"

namespace mica::kv_test {

class Play : public Lines {
 public:
  Play(const char* backend, const Net& net, const Kinds& first, const Kinds& second, uint32_t seed)
      : Lines(backend, net, first, second, seed) {}

  void round() {
    const uint32_t kind = pick(100), seq = pick(kSeqs);
    if (kind < 40)
      step(random_spans());
    else if (kind < 46)
      (void)change(seq, random_range(seq), {Change::kRemove, 0});
    else if (kind < 54)
      copy(seq);
    else if (kind < 66)
      move(false);
    else if (kind < 70)
      move(true);
    else if (kind < 74)
      random_seek(seq);
    else if (kind < 78)
      rewind(seq);
    else if (kind < 83)
      edit(seq);
    else if (kind < 86)
      fork(seq);
    else if (kind < 89)
      shift(pick(2) == 0);
    else if (kind < 92)
      save_and_load(seq);
    else if (kind < (home_ ? 94 : 97))
      migrate(seq);
    else if (kind < 98)
      remove_others(seq);
    else
      check_storage({});
    for (const Line& line : lines_) n_held += line.size();
    if (failed()) return;
    for (uint32_t s = 0; s < kSeqs && !failed(); ++s)
      if (lines_[s].size() > 400) remove(s);
    if (!failed()) check_lines();
  }
  // The largest error of a row in units of its limit.
  double worst = 0;
  uint64_t n_tokens = 0, n_held = 0, n_cancelled = 0;

 private:
  // Numbers that a token gives a layer: roughly normal, always the same.
  void numbers(uint64_t input, uint32_t layer, std::vector<float>& out) const {
    uint64_t x = input * kLayers + layer;
    for (size_t i = 0; i < net_.x_size(); ++i) {
      int64_t sum = 0;
      for (int k = 0; k < 3; ++k) {
        x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
        sum += static_cast<int64_t>((x ^ x >> 29) & 0xffff) - 0x8000;
      }
      out.push_back(static_cast<float>(sum) / 32768);
    }
  }

  Spans random_spans() {
    Spans spans;
    std::set<uint32_t> used;
    uint32_t left = Machine::kTokens;
    for (uint32_t k = 1 + pick(3); k > 0; --k) {
      const uint32_t seq = pick(kSeqs), n = 1 + pick(pick(3) == 0 ? 70 : 6);
      if (n > left || !used.insert(seq).second) continue;
      spans.push_back({seq, n});
      left -= n;
    }
    return spans;
  }
  bool fits(const mica_kv_span& s) {
    for (int64_t p = next_[s.seq]; p < next_[s.seq] + s.n_tokens; ++p)
      if (p >= redo_[s.seq] && holds(s.seq, p)) return false;
    return true;
  }

  void step(const Spans& spans) { step(spans, pick(30), true); }
  void step(const Spans& spans, uint32_t fate, bool again) {
    bool fit = true, moved = false;
    for (const mica_kv_span& s : spans) {
      fit = fit && fits(s);
      moved = moved || needs_shift(s.seq);
    }
    const Bytes before = fate < kRuns ? here_->save() : snapshot();
    const mica_status status = here_->reserve(spans);
    if (status == MICA_OK) {
      ASSERT_TRUE(lossy_ || (fit && !moved));
      if (!fit) return mica_kv_abandon(cache());  // over positions that windows let go
      return run(spans, fate, before);
    }
    const std::string error = here_->error();
    check_same(before);
    if (has(error, "kv_shift step") || has(error, "reserve_shift")) {
      ASSERT_TRUE(status == MICA_CACHE_FULL || moved) << error;
      shift(status == MICA_CACHE_FULL);
      if (!failed() && again) step(spans, kRuns, false);
      return;
    }
    if (status == MICA_CACHE_FULL) return make_room();
    ASSERT_EQ(status, MICA_INVALID_ARGUMENT) << error;
    ASSERT_TRUE(!fit && has(error, "already")) << error;
    for (const mica_kv_span& s : spans) end_seek(s.seq);
  }

  // Puts tokens in the place of others, as mica_llama_edit does: what lies behind is moved.
  void edit(uint32_t seq) {
    const int64_t end = end_of(lines_[seq]);
    if (end < 3) return step({{seq, 20}});
    const int64_t a = pick(static_cast<uint32_t>(std::min<int64_t>(end, 300)));
    const int64_t b = std::min(end, a + pick(30)), n = pick(30);
    if (!change(seq, {a, b}, {Change::kRemove, 0}) || failed()) return;
    if (!change(seq, {b, -1}, {Change::kAdd, n - (b - a)}) || failed() || n == 0) return;
    seek(seq, a);
    if (failed() || next_[seq] != a) return;
    step({{seq, static_cast<uint32_t>(n)}});
    if (!failed()) end_seek(seq);
  }

  // Two sequences that share all but the last tokens of one go on in one step.
  void fork(uint32_t src) {
    const uint32_t dst = (src + 1 + pick(kSeqs - 1)) % kSeqs;
    const auto n = static_cast<uint32_t>(lines_[src].size());
    if (n == 0) return step({{src, 40}});
    remove(dst);
    if (!failed())
      copy_to(src, {0, lines_[src][n - 1 - pick(std::min(n, 20u))].position()}, dst, 0);
    if (failed()) return;
    const uint32_t first = pick(2) == 0 ? src : dst;
    step({{first, 1 + pick(9)}, {first == src ? dst : src, 1 + pick(9)}},
         pick(3) == 0 ? kRuns - 1 : kRuns, true);
  }

  // A step that is reserved. Of 30 steps 2 are abandoned, 2 cancelled and 3 cancelled on their way.
  static constexpr uint32_t kRuns = 7;
  void run(const Spans& spans, uint32_t fate, const Bytes& before) {
    if (fate < 2) {
      mica_kv_abandon(cache());
      return check_same(before);
    }
    std::vector<uint64_t> inputs;
    for (const mica_kv_span& s : spans)
      for (int64_t p = next_[s.seq]; p < next_[s.seq] + s.n_tokens; ++p) {
        const auto at = first_at(lines_[s.seq], p);
        const bool held = at != lines_[s.seq].end() && at->position() == p;
        inputs.push_back(held ? at->input : ++last_input_);
      }
    std::array<std::vector<float>, kLayers> in;
    for (uint32_t i = 0; i < kLayers; ++i)
      for (const uint64_t input : inputs) numbers(input, i, in[i]);
    const int cancel_after = fate < 4 ? 0 : fate < kRuns ? static_cast<int>(1 + pick(800)) : -1;
    mica_status status = here_->run(in, cancel_after);
    if (cancel_after >= 0 && status == MICA_CANCELLED) {
      ++n_cancelled;
      check_same(before);
      if (failed() || cancel_after == 0) return;
      // What follows must not depend on whether the flag came in time.
      ASSERT_EQ(here_->reserve(spans), MICA_OK) << here_->error();
      status = here_->run(in, -1);
    }
    ASSERT_EQ(status, MICA_OK) << here_->error();
    check_step(spans, inputs, in);
  }

  void check_step(const Spans& spans, const std::vector<uint64_t>& inputs,
                  const std::array<std::vector<float>, kLayers>& in) {
    const Step s = here_->read_step(inputs.size());
    for (uint32_t i = 0; i < kLayers; ++i)
      for (size_t k = 0; k < in[i].size(); ++k)
        ASSERT_EQ(s.x[i][k], i == 0 ? in[i][k] : in[i][k] + s.y[i - 1][k]);
    size_t t = 0;
    for (const mica_kv_span& span : spans) {
      Line line = lines_[span.seq];
      for (uint32_t k = 0; k < span.n_tokens; ++k) {
        add_token(s, t + k, next_[span.seq] + k, inputs[t + k], line);
        if (failed()) return;
      }
      for (uint32_t k = 0; k < span.n_tokens; ++k)
        ASSERT_EQ(s.positions[t + k], next_[span.seq] + k);
      for (uint32_t i = 0; i < kLayers; ++i) {
        check_attention(i, line, s, t, span);
        if (failed()) return;
      }
      lines_[span.seq] = std::move(line);
      next_[span.seq] += span.n_tokens;
      t += span.n_tokens;
    }
    n_tokens += t;
  }

  // A step's token as the cache has it now. One that is run again keeps the layers that hold it.
  void add_token(const Step& s, size_t t, int64_t position, uint64_t input, Line& line) {
    const int64_t key = s.key_positions[t];
    if (keys() != MICA_KV_KEYS_RELATIVE) {
      ASSERT_EQ(key, keys() == MICA_KV_KEYS_UNROTATED ? 0 : position);
    }
    auto at = first_at(line, position);
    if (at == line.end() || at->position() != position) {
      const bool none = keys() == MICA_KV_KEYS_UNROTATED;
      at = line.insert(at, {position, 1, key, none ? INT32_MAX : 1, input, {}});
    }
    for (uint32_t i = 0; i < kLayers; ++i) {
      if (!net_.owns(i)) continue;
      const float* x = s.x[i].data() + t * net_.x_size();
      const float* k = s.k[i].data() + t * net_.kv_size();
      check_key(i, x, key, k);
      if (failed()) return;
      if (s.slots[i][t] < 0) {
        ASSERT_NE(at->rows[i], nullptr) << "layer " << i << " stores no " << position;
        continue;
      }
      Rows rows;
      rows.k = stored(here_->kinds.k, k, net_.head_dim);
      rows.v = stored(here_->kinds.v, x + net_.kv_size(), net_.head_dim);
      at->rows[i] = std::make_shared<const Rows>(std::move(rows));
    }
  }

  // The op rope in F32: two products of elements that are exact to F32 and their sum.
  void check_key(uint32_t layer, const float* x, int64_t key, const float* k) const {
    std::vector<double> want(x, x + net_.kv_size());
    for (uint32_t h = 0; h < kKvHeads && keys() != MICA_KV_KEYS_NONE; ++h)
      oracle_.rope(layer).apply(want.data() + h * net_.head_dim, key);
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(double{k[i]}, want[i], 4e-6) << "layer " << layer << " K's element " << i;
  }

  void check_attention(uint32_t layer, const Line& line, const Step& s, size_t t0,
                       const mica_kv_span& span) {
    const Seen seen = oracle_.see(layer, line, keys());
    const size_t dim = net_.head_dim;
    std::vector<double> q(dim), y(dim);
    for (uint32_t k = 0; k < span.n_tokens; ++k) {
      const int64_t position = next_[span.seq] + k;
      if (position < redo_[span.seq]) continue;  // run again: not exact
      for (uint32_t h = 0; h < kHeads; ++h) {
        const size_t at = (t0 + k) * net_.x_size() + h * dim;
        std::copy_n(s.x[layer].data() + at, dim, q.data());
        if (keys() != MICA_KV_KEYS_NONE) oracle_.rope(layer).apply(q.data(), position);
        const double size = oracle_.attend(layer, seen, position, h, q.data(), y.data());
        double square = 0;
        for (size_t d = 0; d < dim; ++d)
          square += (y[d] - double{s.y[layer][at + d]}) * (y[d] - double{s.y[layer][at + d]});
        const double error = std::sqrt(square / static_cast<double>(dim));
        worst = std::max(worst, error / (kLimit * size));
        ASSERT_LE(error, kLimit * size) << "layer " << layer << " sequence " << span.seq
                                        << " position " << position << " head " << h;
      }
    }
  }

  // Scores are sums of at most 64 products, of operands that were rotated at most three times: off
  // by some tens of units of F32's rounding, 6e-8, and so are the weights. A cell too many or too
  // few, or one that is a position off, moves a row by its weight, 1e-3 and more.
  static constexpr double kLimit = 4e-6;

  uint64_t last_input_ = 0;
};

}  // namespace mica::kv_test
