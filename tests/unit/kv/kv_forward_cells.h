// The cells of a session's cache and what the oracle knows of them; shift steps.
#pragma once
#include <map>
#include <unordered_set>

#include "tests/unit/kv/kv_forward_machine.h"

namespace mica::kv_test {

// The types of cells, and how far apart two neighbours are, as a part of the largest element of a
// block: by so much an encoder may differ that rounds F32 rather than double.
struct CellType {
  mica_dtype dtype;
  double step;
};
constexpr CellType kCellTypes[] = {
    {MICA_F32, 1e-6},     {MICA_F16, 1.0 / 1024}, {MICA_BF16, 1.0 / 128}, {MICA_Q8_0, 1.0 / 127},
    {MICA_Q4_0, 1.0 / 8}, {MICA_Q4_1, 2.0 / 15},  {MICA_Q5_0, 1.0 / 16},  {MICA_Q5_1, 2.0 / 31},
};

class Cells {
 public:
  Cells(const char* backend, const Net& net, const Kinds& first, const Kinds& second, uint32_t seed)
      : net_(net), oracle_(net_),
        here_(std::make_unique<Machine>(backend, net_, first,
                                        first.keys == MICA_KV_KEYS_UNROTATED ? 12 : 7)),
        there_(std::make_unique<Machine>(backend, net_, second, 0)), random_(seed) {
    for (const mica_kv_layer& l : net_.layers) lossy_ = lossy_ && l.window != 0;
  }

  static bool failed() { return testing::Test::HasFatalFailure(); }
  uint64_t n_full = 0, n_refused = 0, n_moves = 0, n_shifted = 0, n_differ = 0, n_loads = 0;

 protected:
  static constexpr uint32_t kSeqs = Machine::kSeqs;

  uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  mica_kv_keys keys() const { return here_->kinds.keys; }
  mica_kv_cache* cache() const { return here_->cache.get(); }
  static int64_t end_of(const Line& line) { return line.empty() ? 0 : line.back().position() + 1; }
  static Line::iterator first_at(Line& line, int64_t position) {
    return std::lower_bound(line.begin(), line.end(), position,
                            [](const Token& t, int64_t p) { return t.position() < p; });
  }
  bool holds(uint32_t seq, int64_t position) {
    const auto at = first_at(lines_[seq], position);
    return at != lines_[seq].end() && at->position() == position;
  }
  bool needs_shift(uint32_t seq) const {
    return std::any_of(lines_[seq].begin(), lines_[seq].end(),
                       [&](const Token& t) { return t.needs_shift(keys()); });
  }
  // What must be the same after a call that failed; sometimes, as it takes time.
  Bytes snapshot() { return pick(3) == 0 ? here_->save() : Bytes(); }
  void check_same(const Bytes& before) {
    if (before.empty()) return;
    ASSERT_TRUE(here_->save() == before) << "what failed changed the cache";
  }
  void check_lines() {
    for (uint32_t s = 0; s < kSeqs; ++s) {
      ASSERT_EQ(mica_kv_seq_next(cache(), s), next_[s]) << "sequence " << s;
      if (lossy_) continue;
      ASSERT_EQ(mica_kv_seq_cells(cache(), s), lines_[s].size()) << "sequence " << s;
      int64_t from = 0, to = 0;
      ASSERT_EQ(mica_kv_seq_range(cache(), s, &from, &to), MICA_OK);
      ASSERT_EQ(from, lines_[s].empty() ? -1 : lines_[s][0].position());
      ASSERT_EQ(to, end_of(lines_[s]) - 1);
    }
  }

  // Where a sequence goes on behind all that it holds; what windows let go counts too.
  int64_t end_now(uint32_t seq) const {
    const int64_t end = end_of(lines_[seq]);
    return lossy_ ? std::max(end, mica_kv_seq_next(cache(), seq)) : end;
  }

  void remove(uint32_t seq) {
    ASSERT_EQ(mica_kv_seq_rm(cache(), seq, 0, -1), MICA_OK);
    lines_[seq].clear();
    next_[seq] = redo_[seq] = 0;
  }
  void make_room() {
    ++n_full;
    if (pick(2) == 0) remove(pick(kSeqs));
  }

  // Steps that rotate K, until there is nothing left to do. `all`: also what queries could be
  // rotated for.
  void shift(bool all) {
    const auto is_due = [&](const Token& t) {
      return all ? t.is_moved(keys()) : t.needs_shift(keys());
    };
    const auto any_due = [&] {
      bool any = false;
      for (const Line& line : lines_) any = any || std::any_of(line.begin(), line.end(), is_due);
      return any;
    };
    for (bool is_first = true;; is_first = false) {
      const Bytes before = snapshot();
      uint64_t n = 0;
      const mica_status status = mica_kv_reserve_shift(cache(), all ? 1 : 0, &n);
      if (status == MICA_CACHE_FULL) {
        check_same(before);
        ++n_full;
        remove(pick(kSeqs));
        if (failed()) return;
        continue;
      }
      ASSERT_EQ(status, MICA_OK) << here_->error();
      ASSERT_TRUE(!is_first || (n > 0) == any_due() || (lossy_ && n == 0));
      if (n == 0) break;
      if (pick(8) == 0) {
        mica_kv_abandon(cache());
        check_same(before);
      } else if (pick(8) == 0) {
        ASSERT_EQ(here_->run_shift(0), MICA_CANCELLED);
        check_same(before);
      } else {
        ASSERT_EQ(here_->run_shift(-1), MICA_OK) << here_->error();
      }
      if (failed()) return;
    }
    std::unordered_set<const Rows*> turned;
    for (Line& line : lines_)
      for (Token& t : line)
        if (is_due(t)) turn(t, turned);
    check_storage(turned);
  }

  void turn(Token& t, std::unordered_set<const Rows*>& turned) {
    const int64_t by = (keys() == MICA_KV_KEYS_UNROTATED ? 0 : t.position()) - t.key();
    t.key_base = t.base;
    t.key_div = keys() == MICA_KV_KEYS_UNROTATED ? INT32_MAX : t.div;
    if (by == 0) return;
    ++n_shifted;
    for (uint32_t i = 0; i < kLayers; ++i) {
      if (!net_.owns(i)) continue;
      Rows rows = *t.rows[i];
      std::vector<double> k(rows.k.begin(), rows.k.end());
      for (uint32_t h = 0; h < kKvHeads; ++h)
        oracle_.rope(i).turn(k.data() + h * net_.head_dim, by);
      for (size_t d = 0; d < k.size(); ++d) rows.k[d] = static_cast<float>(k[d]);
      rows.k = stored(here_->kinds.k, rows.k.data(), net_.head_dim);
      t.rows[i] = std::make_shared<const Rows>(std::move(rows));
      turned.insert(t.rows[i].get());
    }
  }

  // The cells that the cache's tables name hold what the oracle says; of those that were turned,
  // K is within a step of its type, and then is what the cache has.
  void check_storage(const std::unordered_set<const Rows*>& turned) {
    uint64_t n_elements = 0, n_other = 0;
    for (uint32_t i = 0; i < kLayers; ++i) {
      if (!net_.owns(i)) continue;
      const KvGroup& g = cache()->groups[cache()->layers[i].group];
      std::map<int32_t, std::array<std::vector<float>, 2>> pages;
      for (uint32_t seq = 0; seq < kSeqs; ++seq)
        for (uint32_t e = 0; e < g.seqs[seq].n_entries; ++e) {
          const KvEntry& entry = g.of(seq)[e];
          std::array<std::vector<float>, 2>& page = pages[entry.page];
          for (const bool is_v : {false, true})
            if (page[is_v].empty()) page[is_v] = here_->page(i, is_v, entry.page);
          for (int32_t k = 0; k < entry.n_cells; ++k) {
            const size_t at = static_cast<size_t>(entry.first_cell + k) * net_.kv_size();
            check_cell(i, seq, (int64_t{entry.base} + k) / entry.div, page[0].data() + at,
                       page[1].data() + at, turned, n_elements, n_other);
            if (failed()) return;
          }
        }
    }
    n_differ += n_other;
    ASSERT_LE(n_other, 64 + n_elements / 100) << "of " << n_elements << " elements";
  }
  void check_cell(uint32_t layer, uint32_t seq, int64_t position, const float* k, const float* v,
                  const std::unordered_set<const Rows*>& turned, uint64_t& n_elements,
                  uint64_t& n_other) {
    Line& line = lines_[seq];
    auto at = first_at(line, position);
    // Several cells may share a position: V tells them apart.
    const auto is_this = [&](const Token& t) {
      return std::equal(v, v + net_.kv_size(), t.rows[layer]->v.begin());
    };
    while (at != line.end() && at->position() == position && !is_this(*at)) ++at;
    ASSERT_TRUE(at != line.end() && at->position() == position)
        << "layer " << layer << " sequence " << seq << " position " << position << " holds other V";
    const Rows& rows = *at->rows[layer];
    if (std::equal(k, k + net_.kv_size(), rows.k.begin())) {
      n_elements += turned.count(&rows) != 0 ? net_.kv_size() : 0;
      return;
    }
    ASSERT_EQ(turned.count(&rows), 1u) << "layer " << layer << " sequence " << seq << " position "
                                       << position << ": K that was not shifted is another";
    n_elements += net_.kv_size();
    const uint32_t block = std::max(32u, mica_dtype_get(here_->kinds.k)->block_elems);
    for (size_t d = 0; d < net_.kv_size(); ++d) {
      const size_t head = d / net_.head_dim * net_.head_dim;
      const size_t from = head + (d - head) / block * block;
      const size_t to = std::min<size_t>(from + block, head + net_.head_dim);
      double most = 0;
      for (size_t j = from; j < to; ++j) most = std::max(most, std::fabs(double{rows.k[j]}));
      const double error = std::fabs(double{k[d]} - double{rows.k[d]});
      n_other += error > 1e-6 * most;
      ASSERT_LE(error, 1.05 * step_of(here_->kinds.k) * most)
          << "layer " << layer << " sequence " << seq << " position " << position << " element "
          << d;
    }
    Rows as_stored = rows;
    std::copy_n(k, net_.kv_size(), as_stored.k.begin());
    at->rows[layer] = std::make_shared<const Rows>(std::move(as_stored));
  }
  static double step_of(mica_dtype dtype) {
    for (const CellType& t : kCellTypes)
      if (t.dtype == dtype) return t.step;
    return 0;
  }

  const Net net_;
  const Oracle oracle_;
  std::unique_ptr<Machine> here_, there_;
  bool home_ = true;   // `here_` is the first
  bool lossy_ = true;  // every layer has a window: the lines have more than the cache
  std::mt19937_64 random_;
  std::array<Line, kSeqs> lines_;
  std::array<int64_t, kSeqs> next_{}, redo_{};
};

}  // namespace mica::kv_test
