// Edits of what a session's sequences hold: moved, dropped, grouped and replaced tokens.
#include <algorithm>
#include <cstring>

#include "graphs.h"
#include "mica/ops.h"
#include "session.h"

namespace mica_llama {
namespace {

mica_llama_span one_span(uint32_t seq, const std::vector<int32_t>& tokens) {
  return {seq, static_cast<uint32_t>(tokens.size())};
}

size_t common_start(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(ends.first - a.begin());
}
size_t common_end(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto ends = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend());
  return static_cast<size_t>(ends.first - a.rbegin());
}

}  // namespace

Graph Session::build_shift() {
  Graph graph = new_graph(context_.get());
  StepGraph step{};
  step.graph = graph.get();
  step.cache = cache_.get();
  step.weights = model_->weights();
  step.model = model_.get();
  step.n_tokens = mica_graph_extent(step.graph, "n_tokens", 1);
  const Hparams& h = model_->hparams();
  for (uint32_t i = 0; i < h.n_layers; ++i) {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    model_->architecture().kv_layer(h, i, layer);
    if (layer.source != MICA_KV_NO_SOURCE) continue;  // the layer that owns the storage is shifted
    const mica_kv kv = mica_graph_kv(step.graph, cache_.get(), i, step.n_tokens);
    const mica_rope_params rope = model_->architecture().rope(h, step, i);
    mica_kv_shift(step.graph, &kv, &rope);
  }
  check_graph(step.graph);
  return graph;
}

mica_plan* Session::shift_plan() {
  if (shift_plan_ != nullptr) return shift_plan_;
  const std::lock_guard<std::mutex> lock(model_->mutex());
  const Graph graph = build_shift();
  mica_graph* const handle = graph.get();
  mica_plan* plan = nullptr;
  check(mica_session_compile(session_.get(), 1, &handle, &plan), context_.get());
  check(mica_session_allocate(session_.get()), context_.get());
  return shift_plan_ = plan;
}

template <class Change>
void Session::change_and_shift(const Change& change) {
  const bool waited = shifts_wait_;
  try {
    all_or_nothing([&] {
      change();
      run_shifts(false);
    });
  } catch (Failure& failure) {
    if (shifts_wait_ && !waited)
      failure.text += "; the cells were moved, and the next decode rotates those that are left";
    throw;
  }
}

void Session::run_shifts(bool all) {
  shifts_wait_ = true;
  for (;;) {
    uint64_t n_cells = 0;
    check(mica_kv_reserve_shift(cache_.get(), all ? 1 : 0, &n_cells), context_.get());
    if (n_cells == 0) break;
    mica_kv_abandon(cache_.get());
    fetch();  // the plan's memory may be that of the last step's rows
    mica_plan* const plan = shift_plan();
    last_plan_ = nullptr;
    check(mica_kv_reserve_shift(cache_.get(), all ? 1 : 0, &n_cells), context_.get());
    const mica_status status = mica_plan_run(plan);
    for (uint32_t i = 0; status != MICA_OK && i < n_seqs_; ++i)  // it may have emptied the cache
      if (mica_kv_seq_next(cache_.get(), i) == 0) lines_[i] = {};
    check(status, context_.get());
  }
  shifts_wait_ = false;
}

void Session::seq_rm(uint32_t seq, int64_t p0, int64_t p1) {
  const auto is_meant = [&](uint32_t i) { return seq == MICA_KV_ALL_SEQS || seq == i; };
  for (uint32_t i = 0; i < n_seqs_; ++i)
    if (is_meant(i) && p1 >= 0) lines_[i].prepare();
  check(mica_kv_seq_rm(cache_.get(), seq, p0, p1), context_.get());
  for (uint32_t i = 0; i < n_seqs_; ++i)
    if (is_meant(i)) forget_tokens(i, p0, p1);
}
void Session::seq_cp(uint32_t src, uint32_t dst, int64_t p0, int64_t p1) {
  if (src < n_seqs_ && dst < n_seqs_) lines_[dst].prepare(lines_[src].size());
  check(mica_kv_seq_cp(cache_.get(), src, dst, p0, p1), context_.get());
  lines_[dst].copy(lines_[src], p0, p1);
}
void Session::seq_keep(uint32_t seq) {
  check(mica_kv_seq_keep(cache_.get(), seq), context_.get());
  for (uint32_t i = 0; i < n_seqs_; ++i)
    if (i != seq) forget_tokens(i, 0, -1);
}
void Session::seq_add(uint32_t seq, int64_t p0, int64_t p1, int64_t delta) {
  change_and_shift([&] { move_tokens(seq, p0, p1, delta); });
}
void Session::seq_div(uint32_t seq, int64_t p0, int64_t p1, int64_t divisor) {
  change_and_shift([&] { divide_tokens(seq, p0, p1, divisor); });
}
void Session::move_tokens(uint32_t seq, int64_t p0, int64_t p1, int64_t delta) {
  if (seq < n_seqs_) lines_[seq].prepare();
  check(mica_kv_seq_add(cache_.get(), seq, p0, p1, delta), context_.get());
  lines_[seq].add(p0, p1, delta);
}
void Session::divide_tokens(uint32_t seq, int64_t p0, int64_t p1, int64_t divisor) {
  if (seq < n_seqs_) lines_[seq].prepare();
  check(mica_kv_seq_div(cache_.get(), seq, p0, p1, divisor), context_.get());
  lines_[seq].divide(p0, p1, divisor);
}
int64_t Session::seq_next(uint32_t seq) const {
  return seq < n_seqs_ ? mica_kv_seq_next(cache_.get(), seq) : -1;
}

void Session::note_tokens(const Chunk& chunk) {
  std::span<const int32_t> tokens(chunk.tokens);
  for (const mica_kv_span& span : chunk.spans) {
    const int64_t first = mica_kv_seq_next(cache_.get(), span.seq) - int64_t{span.n_tokens};
    lines_[span.seq].append(first, tokens.first(span.n_tokens));
    tokens = tokens.subspan(span.n_tokens);
  }
}

void Session::forget_tokens(uint32_t seq, int64_t p0, int64_t p1) {
  Line& line = lines_[seq];
  const int64_t next = mica_kv_seq_next(cache_.get(), seq);
  if (next == 0) {
    line = {};
    return;
  }
  line.remove(p0, p1);
  line.grouped = std::min(line.grouped, next);
}

void Session::end_at(uint32_t seq, int64_t position) {
  if (mica_kv_seq_rm(cache_.get(), seq, position, -1) != MICA_OK) {
    (void)mica_kv_seq_rm(cache_.get(), seq, 0, -1);  // nothing can refuse it
    position = 0;
  }
  forget_tokens(seq, position, -1);
}

const std::vector<int32_t>& Session::tokens_of(uint32_t seq) const {
  if (seq >= n_seqs_)
    fail(MICA_INVALID_ARGUMENT, "there is no sequence " + std::to_string(seq) +
                                    ", the session has " + std::to_string(n_seqs_));
  if (!lines_[seq].is_known)
    fail(MICA_INVALID_ARGUMENT, "the tokens of sequence " + std::to_string(seq) +
                                    " are not known by position, because it has gaps or was moved; "
                                    "remove all of it first");
  return lines_[seq].tokens;
}
Line& Session::known_line(uint32_t seq) {
  (void)tokens_of(seq);
  return lines_[seq];
}

Session::Drop Session::plan_drop(uint32_t seq, uint32_t n) const {
  const Line& line = lines_[seq];
  const int64_t held = line.size(), need = held + int64_t{n} - int64_t{n_ctx_};
  if (seq_next(seq) + int64_t{n} > INT32_MAX)
    fail(MICA_INVALID_ARGUMENT,
         "decode: sequence " + std::to_string(seq) + " would pass position 2147483647");
  if (need <= 0) return {};
  const int64_t keep = n_drop_ == 0 ? held : line.whole(std::min<int64_t>(n_keep_, held));
  const int64_t most = held - keep;
  if (need > most)
    fail(MICA_CACHE_FULL,
         "the context of " + std::to_string(n_ctx_) + " tokens is full: sequence " +
             std::to_string(seq) + " holds " + std::to_string(held) +
             (n_drop_ == 0 ? "" : ", of which " + std::to_string(keep) + " are to be kept") + ", " +
             std::to_string(n) + " more were to come");
  const int64_t wanted = n_drop_ == MICA_LLAMA_DROP_HALF ? most / 2 : int64_t{n_drop_};
  return {keep, line.whole(keep + std::clamp(wanted, need, most))};
}

// What is left behind them moves to where they began.
void Session::drop_tokens(uint32_t seq, const Drop& drop) {
  Line& line = lines_[seq];
  const int64_t first = line.position(drop.from), held = line.size();
  const int64_t end = drop.to < held ? line.position(drop.to) : seq_next(seq);
  const bool was_known = line.is_known;
  const int64_t exact = std::min(line.exact, drop.from);
  line.prepare();
  mica_status status = mica_kv_seq_rm(cache_.get(), seq, first, end);
  const bool removed = status == MICA_OK;
  if (removed) status = mica_kv_seq_add(cache_.get(), seq, end, -1, first - end);
  if (status == MICA_INVALID_ARGUMENT && (was_known || removed)) {
    // A window let go what is seen from where the rest would be: the rest is run again, or, of
    // tokens that are not known, stays where it is.
    if (was_known)
      compute_from(seq, first, {line.tokens.begin() + end, line.tokens.end()});
    else
      line.remove(first, end);
    return;
  }
  check(status, context_.get());
  if (was_known) {
    line.tokens.erase(line.tokens.begin() + first, line.tokens.begin() + end);
    line.exact = exact;
  } else {
    line.remove(first, end);
    line.add(end, -1, first - end);
  }
  if (line.grouped > first) line.grouped = std::max(first, line.grouped - (end - first));
}

// A step that rotates what was moved cannot be undone: whether there is room is asked before it.
void Session::check_pages(uint32_t seq, uint32_t n) {
  const mica_kv_span span = {seq, std::min(n, n_batch_)};
  const mica_status status = mica_kv_reserve(cache_.get(), 1, &span);
  mica_kv_abandon(cache_.get());
  if (status == MICA_CACHE_FULL) check(status, context_.get());
}

bool Session::wants_room(uint32_t seq, uint32_t n) const {
  const Line& line = lines_[seq];
  const int64_t ungrouped = int64_t{extend_window_} + extend_window_ / std::max(extend_factor_, 1u);
  return line.size() + int64_t{n} > int64_t{n_ctx_} ||
         (extend_factor_ != 0 && seq_next(seq) >= line.grouped + ungrouped);
}

void Session::make_room(uint32_t seq, uint32_t n) {
  const Drop drop = plan_drop(seq, n);
  if (drop.from < drop.to) {
    drop_tokens(seq, drop);
    if (keys_ == MICA_KV_KEYS_ROTATED) check_pages(seq, n);
  }
  if (extend_factor_ != 0) extend_groups(seq);
  if (drop.from < drop.to) run_shifts(false);
}

// The next window of tokens becomes groups: first it is moved where nothing is and where its first
// position is a multiple of the factor, divided there, and moved back; what is behind it closes up.
// Only the first of these moves cuts the cache's table, so that only it can find no room there.
void Session::extend_groups(uint32_t seq) {
  Line& line = lines_[seq];
  const int64_t factor = extend_factor_, window = extend_window_;
  bool moved = false;
  for (;;) {
    const int64_t next = seq_next(seq), i = line.before(line.grouped);
    if (i < line.size()) line.grouped = line.position(i);  // a gap is no part of a group
    if (next < line.grouped + window + window / factor) break;
    shifts_wait_ = true;
    const int64_t first = line.grouped, far = next + window;
    move_tokens(seq, first, first + window, far * factor - first);
    divide_tokens(seq, far * factor, far * factor + window, factor);
    move_tokens(seq, far, far + window / factor, first - far);
    move_tokens(seq, first + window, -1, window / factor - window);
    line.grouped += window / factor;
    moved = true;
  }
  if (moved) run_shifts(false);
}

void Session::decode_span(uint32_t seq, const std::vector<int32_t>& tokens) {
  const mica_llama_span span = one_span(seq, tokens);
  mica_llama_batch batch{};
  batch.struct_size = sizeof batch;
  batch.n_spans = 1;
  batch.spans = &span;
  batch.tokens = tokens.data();
  decode(batch, true);
}

uint64_t Session::compute_from(uint32_t seq, int64_t keep, std::vector<int32_t> tokens) {
  int64_t from = keep;
  check(mica_kv_seq_rewind(cache_.get(), seq, keep, &from), context_.get());
  Line& line = lines_[seq];
  tokens.insert(tokens.begin(), line.tokens.begin() + from, line.tokens.begin() + keep);
  const int64_t exact = std::min(line.exact, keep);
  line.tokens.resize(static_cast<size_t>(from));  // until those before `keep` were run again
  line.exact = std::min(line.exact, from);
  if (!tokens.empty()) decode_span(seq, tokens);
  line.exact = exact == keep ? static_cast<int64_t>(line.tokens.size()) : exact;
  return tokens.size();
}

uint64_t Session::edit_moving(uint32_t seq, int64_t p0, int64_t p1, std::span<const int32_t> tokens,
                              uint32_t n_recompute) {
  const std::vector<int32_t> old = lines_[seq].tokens;
  const auto size = static_cast<int64_t>(old.size());
  // Behind the edit: `again` tokens are run with the new ones, the rest is moved.
  const int64_t again = std::min<int64_t>(n_recompute, size - p1);
  std::vector<int32_t> fresh(tokens.begin(), tokens.end());
  fresh.insert(fresh.end(), old.begin() + p1, old.begin() + p1 + again);
  const int64_t moved = p1 + again;
  const int64_t delta = p0 + static_cast<int64_t>(fresh.size()) - moved;
  std::vector<int32_t> all(old.begin(), old.begin() + p0);
  all.insert(all.end(), fresh.begin(), fresh.end());
  all.insert(all.end(), old.begin() + moved, old.end());
  uint64_t n_computed = fresh.size();
  const auto know = [&] {
    lines_[seq].is_known = true;
    lines_[seq].positions.clear();
  };
  const auto move = [&] {
    check(mica_kv_seq_rm(cache_.get(), seq, p0, moved), context_.get());
    check(mica_kv_seq_add(cache_.get(), seq, moved, -1, delta), context_.get());
    lines_[seq].is_known = false;
    run_shifts(false);
    if (!fresh.empty()) {
      check(mica_kv_seq_seek(cache_.get(), seq, p0), context_.get());
      decode_span(seq, fresh);
      check(mica_kv_seq_seek(cache_.get(), seq, -1), context_.get());
    }
    know();
    Line& line = lines_[seq];
    line.tokens = all;
    line.exact = line.exact < p0 ? line.exact : p0 + static_cast<int64_t>(fresh.size());
    const auto last = static_cast<int64_t>(all.size()) - 1;
    if (moved != size) n_computed += compute_from(seq, last, {all.back()});  // else it is fresh
  };
  try {
    move();
    return n_computed;
  } catch (const Failure& failure) {
    know();
    // What a window let go may be needed where it was not before, or there is room for the tokens
    // but not for the pieces that they are in: then nothing behind is kept.
    const bool retry = failure.status == MICA_INVALID_ARGUMENT || failure.status == MICA_CACHE_FULL;
    if (retry && mica_kv_seq_next(cache_.get(), seq) >= p0)
      return compute_from(seq, p0, {all.begin() + p0, all.end()});
    end_at(seq, std::min(p0, mica_kv_seq_next(cache_.get(), seq)));
    throw;
  } catch (const std::bad_alloc&) {
    know();
    end_at(seq, std::min(p0, mica_kv_seq_next(cache_.get(), seq)));
    throw;
  }
}

void Session::check_edit(int64_t size, int64_t p0, int64_t p1, std::span<const int32_t> tokens,
                         const mica_llama_edit_params& params) const {
  int mode = 0;  // as bytes: a C program may put any number into an enum
  std::memcpy(&mode, &params.mode, sizeof mode);
  if (mode != MICA_LLAMA_EDIT_EXACT && mode != MICA_LLAMA_EDIT_REUSED)
    fail(MICA_INVALID_ARGUMENT,
         "edit: mode " + std::to_string(mode) + " is neither EXACT nor REUSED");
  if (p0 < 0 || p0 > p1 || p1 > size)
    fail(MICA_INVALID_ARGUMENT, "edit: positions " + std::to_string(p0) + " to " +
                                    std::to_string(p1) + " of a sequence of " +
                                    std::to_string(size));
  check_count(tokens.size(), p0 + size - p1);
  for (const int32_t id : tokens)
    if (id < 0 || static_cast<uint32_t>(id) >= model_->hparams().n_vocab)
      fail(MICA_INVALID_ARGUMENT, "edit: token " + std::to_string(id) + ", there are " +
                                      std::to_string(model_->hparams().n_vocab));
  if (p0 + size - p1 == 0 && tokens.empty())
    fail(MICA_INVALID_ARGUMENT, "edit: nothing would be left; remove the sequence");
}

// Before the tokens are read: a wrong count reads no further than the context is long.
void Session::check_count(size_t n_tokens, int64_t n_others) const {
  if (n_tokens <= n_ctx_ && n_others + static_cast<int64_t>(n_tokens) <= int64_t{n_ctx_}) return;
  fail(MICA_CACHE_FULL, "the context of " + std::to_string(n_ctx_) +
                            " tokens is full: the edit would make " +
                            std::to_string(uint64_t{n_tokens} + static_cast<uint64_t>(n_others)));
}

mica_llama_edit_info Session::edit(uint32_t seq, int64_t p0, int64_t p1,
                                   std::span<const int32_t> tokens,
                                   const mica_llama_edit_params& params) {
  const Line& line = known_line(seq);
  const auto size = static_cast<int64_t>(line.tokens.size());
  if (p1 < 0) p1 = size;
  check_edit(size, p0, p1, tokens, params);
  const int64_t total = p0 + static_cast<int64_t>(tokens.size()) + size - p1;
  mica_llama_edit_info info{static_cast<uint64_t>(total), 0, 0};
  const auto run = [&] {
    if (params.mode == MICA_LLAMA_EDIT_REUSED && p1 < size) {
      info.n_computed = edit_moving(seq, p0, p1, tokens, params.n_recompute);
    } else {
      std::vector<int32_t> all(line.tokens.begin(), line.tokens.begin() + p0);
      all.insert(all.end(), tokens.begin(), tokens.end());
      all.insert(all.end(), line.tokens.begin() + p1, line.tokens.end());
      auto keep = static_cast<int64_t>(common_start(line.tokens, all));
      keep = std::min(keep, total - 1);  // the last token's logits are wanted
      if (params.mode == MICA_LLAMA_EDIT_EXACT) keep = std::min(keep, line.exact);
      info.n_computed = compute_from(seq, keep, {all.begin() + keep, all.end()});
    }
  };
  try {
    all_or_nothing(run);
  } catch (Failure& failure) {
    if (line.size() != size)
      failure.text += "; sequence " + std::to_string(seq) + " holds " +
                      std::to_string(line.size()) + " tokens now";
    throw;
  }
  info.n_reused = info.n_tokens - std::min(info.n_tokens, info.n_computed);
  return info;
}

mica_llama_edit_info Session::edit_to(uint32_t seq, std::span<const int32_t> tokens,
                                      const mica_llama_edit_params& params) {
  const std::span<const int32_t> old(known_line(seq).tokens);
  check_count(tokens.size(), 0);
  const size_t start = common_start(old, tokens);
  const size_t end = common_end(old.subspan(start), tokens.subspan(start));
  return edit(seq, static_cast<int64_t>(start), static_cast<int64_t>(old.size() - end),
              tokens.subspan(start, tokens.size() - start - end), params);
}

}  // namespace mica_llama
