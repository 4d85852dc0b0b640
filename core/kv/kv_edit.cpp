// Edits of what the sequences of a KV cache hold: tables and references, never K or V.
#include <algorithm>

#include "core/base/device.h"
#include "core/kv/kv_cache.h"

namespace mica {
namespace {

constexpr int64_t kNoEnd = int64_t{INT32_MAX} + 1;  // positions are below it

struct Cells {  // of an entry: [from, to)
  int32_t from, to;
};
// The cells of `e` with positions in [p0, p1).
Cells cells_in(const KvEntry& e, int64_t p0, int64_t p1) {
  const auto clip = [&](int64_t p) {
    return static_cast<int32_t>(std::clamp<int64_t>(p * e.div - e.base, 0, e.n_cells));
  };
  return {clip(p0), clip(p1)};
}
KvEntry part(const KvEntry& e, Cells cells) {
  return {e.page,
          e.first_cell + cells.from,
          cells.to - cells.from,
          e.base + cells.from,
          e.div,
          e.key_base + cells.from,
          e.key_div};
}

struct Range {
  int64_t p0, p1;
};
Range normal_range(int64_t p0, int64_t p1) {
  p0 = std::clamp<int64_t>(p0, 0, kNoEnd);
  return {p0, p1 < 0 || p1 > kNoEnd ? kNoEnd : p1};
}

// True when a sequence that goes on at `next` would miss some of the group's first positions, which
// stay visible whatever the window.
bool misses_first(const KvGroup& g, const KvSeq& s, int64_t from, int64_t next) {
  return std::max(s.lost_from, from) < std::min({s.lost_to, next, int64_t{g.n_first}});
}

// True when a sequence that goes on at `next` would miss positions from `from` on that the group
// released because of its window.
bool misses(const KvGroup& g, const KvSeq& s, int64_t from, int64_t next) {
  if (g.window == 0) return false;
  return misses_first(g, s, from, next) ||
         std::max({s.lost_from, from, next - g.window + 1}) < std::min(s.lost_to, next);
}

mica_status fail_window(mica_kv_cache& c, const KvSeq& s, uint32_t seq, const KvGroup& g,
                        int64_t next) {
  return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq,
                                " cannot go on at position ", next, ": the window of ", g.window,
                                " has released positions ", s.lost_from, " to ", s.lost_to - 1,
                                "; mica_kv_seq_rewind says where to run it again from");
}

mica_status check_idle(const mica_kv_cache& c) {
  if (!c.pending) return MICA_OK;
  return c.device->error().fail(MICA_BUSY, "kv cache: a reserve is pending; commit or abandon it");
}

mica_status fail_seq(const mica_kv_cache& c, uint32_t seq) {
  return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq,
                                " of a cache with max_seqs ", c.max_seqs);
}

// One past the largest position below `limit` that the sequence holds in the group, 0 if none.
int64_t end_in(const KvGroup& g, uint32_t seq, int64_t limit) {
  for (uint32_t i = g.seqs[seq].n_entries; i > 0; --i) {
    const KvEntry& e = g.of(seq)[i - 1];
    const int32_t n = cells_in(e, 0, limit).to;
    if (n > 0) return (int64_t{e.base} + n - 1) / e.div + 1;
  }
  return 0;
}

// The same for the sequence. A group without a window knows; where all have one, positions that a
// window has released count too.
int64_t end_before(const mica_kv_cache& c, uint32_t seq, int64_t limit) {
  int64_t end = 0;
  for (const KvGroup& g : c.groups) {
    const KvSeq& s = g.seqs[seq];
    if (g.window == 0) return end_in(g, seq, limit);
    end = std::max(end, end_in(g, seq, limit));
    if (s.lost_from < std::min(s.lost_to, limit)) end = std::max(end, std::min(s.lost_to, limit));
  }
  return end;
}

// What an edit does to the cells in a range of positions.
struct Change {
  enum Kind { kRemove, kAdd, kDivide } kind;
  int64_t by;
  int64_t wanted;  // by the caller; `by` is cut where every position would be out of range
};
constexpr Change kRemoved = {Change::kRemove, 0, 0};

// One position.
int64_t changed(const Change& change, int64_t position) {
  return change.kind == Change::kAdd ? position + change.by : position / change.by;
}

// A part of an entry that is touched. False: its positions do not fit in an entry.
bool apply(const Change& change, KvEntry& e) {
  int64_t base = e.base;
  int64_t div = e.div;
  if (change.kind == Change::kAdd) base += change.by * div;
  // base + i is below INT32_MAX: divided by that or by more it is 0.
  if (change.kind == Change::kDivide) div = std::min<int64_t>(div * change.by, INT32_MAX);
  if (base < 0 || base + e.n_cells > INT32_MAX) return false;
  e.base = static_cast<int32_t>(base);
  e.div = static_cast<int32_t>(div);
  return true;
}

// The entries of a sequence after an edit, put together in a group's `step`.
class Rewrite {
 public:
  Rewrite(mica_kv_cache& c, KvGroup& g, uint32_t seq) : c_(c), g_(g), seq_(seq) {}
  const KvEntry* entries() const { return g_.step.data(); }
  uint32_t size() const { return n_; }

  // The cells of `seq_` with their change made.
  mica_status change(Range r, const Change& change) {
    const KvEntry* from = g_.of(seq_);
    const uint32_t n_from = g_.seqs[seq_].n_entries;
    for (uint32_t i = 0; i < n_from; ++i) {
      const Cells cut = cells_in(from[i], r.p0, r.p1);
      MICA_TRY(push(part(from[i], {0, cut.from})));
      MICA_TRY(push(part(from[i], {std::max(cut.from, cut.to), from[i].n_cells})));
    }
    for (uint32_t i = 0; change.kind != Change::kRemove && i < n_from; ++i) {
      const Cells cut = cells_in(from[i], r.p0, r.p1);
      if (cut.from < cut.to) MICA_TRY(insert(part(from[i], cut), change));
    }
    return finish();
  }
  // The cells of `seq_`, and those of `src` in a range with a change made.
  mica_status add(uint32_t src, Range r, const Change& change) {
    for (uint32_t i = 0; i < g_.seqs[seq_].n_entries; ++i) MICA_TRY(push(g_.of(seq_)[i]));
    for (uint32_t i = 0; i < g_.seqs[src].n_entries; ++i) {
      const Cells cut = cells_in(g_.of(src)[i], r.p0, r.p1);
      if (cut.from < cut.to) MICA_TRY(insert(part(g_.of(src)[i], cut), change));
    }
    return finish();
  }

 private:
  mica_status fail_room(uint64_t n) {
    return c_.device->error().fail(MICA_CACHE_FULL, "the KV cache has no room: sequence ", seq_,
                                   " would have ", n, " table entries, ", g_.max_seq_entries,
                                   " is the most");
  }
  // Behind the others, as one with the last where that can be. Room for all is checked at the end;
  // `step` holds at least as many as a sequence may have.
  mica_status push(const KvEntry& e) {
    if (e.n_cells == 0) return MICA_OK;
    if (n_ > 0 && kv_is_next(g_.step[n_ - 1], e)) {
      g_.step[n_ - 1].n_cells += e.n_cells;
      return MICA_OK;
    }
    if (n_ == g_.step.size()) return fail_room(uint64_t{n_} + 1);
    g_.step[n_++] = e;
    return MICA_OK;
  }
  // Among the others by its changed positions; they come in rising order.
  mica_status insert(KvEntry e, const Change& change) {
    const int64_t was = e.first();
    if (!apply(change, e)) return fail_position(e, change);
    if (kv_fits_anywhere(c_, e)) {
      e.key_base = e.base;
      if (c_.keys == MICA_KV_KEYS_NONE) e.key_div = e.div;
    }
    uint32_t at = n_;
    while (at > 0 && g_.step[at - 1].first() > e.first()) --at;
    // What was put there before is of this edit or was there: only the latter may not be met.
    if (at < n_ && g_.step[at].first() <= e.last()) return fail_taken(was, e, g_.step[at].first());
    if (at > 0 && at != next_ && g_.step[at - 1].last() >= e.first())
      return fail_taken(was, e, std::max(e.first(), g_.step[at - 1].first()));
    if (n_ == g_.step.size()) return fail_room(uint64_t{n_} + 1);
    std::copy_backward(g_.step.begin() + at, g_.step.begin() + n_, g_.step.begin() + n_ + 1);
    g_.step[at] = e;
    ++n_;
    next_ = at + 1;
    return MICA_OK;
  }
  // Of divided cells the largest position is less, as the table holds what was divided.
  mica_status fail_position(const KvEntry& e, const Change& change) {
    Error& error = c_.device->error();
    const int64_t was = change.by < 0 ? e.first() : e.last(), most = (INT32_MAX - 1) / e.div;
    int64_t to = 0;
    if (change.kind == Change::kAdd && __builtin_add_overflow(was, change.wanted, &to))
      return error.fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq_, ": position ", was,
                        " moved by ", change.wanted, " would be above ", most);
    if (change.kind != Change::kAdd) to = changed(change, was);
    return error.fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq_, ": position ", was,
                      " would become ", to, ", which is below 0 or above ", most);
  }
  mica_status fail_taken(int64_t was, const KvEntry& e, int64_t taken) {
    return c_.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq_,
                                   ": positions from ", was, " on would become ", e.first(), " to ",
                                   e.last(), ", but position ", taken, " is taken");
  }
  mica_status finish() {
    const uint32_t n = n_;
    n_ = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const KvEntry e = g_.step[i];
      MICA_TRY(push(e));
    }
    return n_ <= g_.max_seq_entries ? MICA_OK : fail_room(n_);
  }

  mica_kv_cache& c_;
  KvGroup& g_;
  uint32_t seq_;
  uint32_t n_ = 0;
  uint32_t next_ = UINT32_MAX;  // behind the last that insert put: only those may share positions
};

// Positions that a window let go, after an edit: what is touched moves with the cells around it.
// One range holds all that are lost, so what lies between two of them counts too.
KvSeq lost_after(KvSeq s, Range r, const Change& change) {
  const int64_t from = std::max(s.lost_from, r.p0), to = std::min(s.lost_to, r.p1);
  if (from >= to) return s;
  KvSeq out;
  out.n_entries = s.n_entries;
  if (s.lost_from < r.p0) out.lose(s.lost_from, r.p0);
  if (s.lost_to > r.p1) out.lose(r.p1, s.lost_to);
  if (change.kind != Change::kRemove)
    out.lose(std::max<int64_t>(0, changed(change, from)),
             std::max<int64_t>(0, changed(change, to - 1) + 1));
  return out;
}

// One past the largest position that the sequence holds once the change is made.
int64_t end_after(const mica_kv_cache& c, uint32_t seq, Range r, const Change& change) {
  const int64_t end = end_before(c, seq, kNoEnd);
  int64_t after = end > r.p1 ? end : end_before(c, seq, r.p0);
  const int64_t moved = end_before(c, seq, r.p1);
  if (change.kind != Change::kRemove && moved > r.p0)
    after = std::max(after, changed(change, moved - 1) + 1);
  return after;
}

// Positions that windows let go count too, and no cell of theirs is there to be refused.
mica_status check_next(mica_kv_cache& c, uint32_t seq, int64_t next) {
  if (next <= INT32_MAX) return MICA_OK;
  return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq,
                                " would go on at position ", next, ", which is above 2147483647");
}

// Leaves the entries as they are to be in each group's `step`.
mica_status check_change(mica_kv_cache& c, uint32_t seq, Range r, const Change& what) {
  const int64_t next = end_after(c, seq, r, what);
  // Where a removal leaves the end as it was, the sequence could go on before and still can.
  const bool same_end =
      what.kind == Change::kRemove && next == end_before(c, seq, kNoEnd) && next == c.next[seq];
  for (KvGroup& g : c.groups) {
    Rewrite rewrite(c, g, seq);
    MICA_TRY(rewrite.change(r, what));
    g.n_rewritten = rewrite.size();
    const KvSeq after = lost_after(g.seqs[seq], r, what);
    if (!same_end && misses(g, after, 0, next)) return fail_window(c, g.seqs[seq], seq, g, next);
  }
  return check_next(c, seq, next);
}

// Makes the change that was checked last.
void make_change(mica_kv_cache& c, uint32_t seq, Range r, const Change& what) {
  const int64_t next = end_after(c, seq, r, what);
  for (KvGroup& g : c.groups) {
    kv_replace(g, seq, g.step.data(), g.n_rewritten);
    g.seqs[seq] = lost_after(g.seqs[seq], r, what);
  }
  kv_set_next(c, seq, next);
}

mica_status change(mica_kv_cache& c, uint32_t seq, Range r, const Change& what) {
  MICA_TRY(check_change(c, seq, r, what));
  make_change(c, seq, r, what);
  return MICA_OK;
}

bool has_full_group(const mica_kv_cache& c) {
  for (const KvGroup& g : c.groups)
    if (g.window == 0) return true;
  return false;
}

// Positions that a window let go of `dst` once it holds a range of `src`, moved by `by`.
KvSeq lost_with(const KvGroup& g, uint32_t src, uint32_t dst, Range r, int64_t by) {
  KvSeq out = g.seqs[dst];
  const int64_t from = std::max(g.seqs[src].lost_from, r.p0);
  const int64_t to = std::min(g.seqs[src].lost_to, r.p1);
  if (from < to) out.lose(from + by, to + by);
  return out;
}

mica_status copy(mica_kv_cache& c, uint32_t src, uint32_t dst, Range r, int64_t by) {
  const Change what = {Change::kAdd, by, by};
  // Where all groups have windows, what they let go of either sequence may lie in the other.
  if (!has_full_group(c) && end_before(c, dst, kNoEnd) > r.p0 + by)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", dst,
                                  " holds or held positions behind ", r.p0 + by - 1,
                                  ", and no group is without a window");
  const int64_t next = std::max(end_before(c, dst, kNoEnd), r.p1 + by);
  for (KvGroup& g : c.groups) {
    const KvSeq& s = g.seqs[src];
    if (misses(g, s, r.p0, r.p1)) return fail_window(c, s, src, g, r.p1);
    Rewrite rewrite(c, g, dst);
    MICA_TRY(rewrite.add(src, r, what));
    const KvSeq after = lost_with(g, src, dst, r, by);
    if (misses(g, after, 0, next)) return fail_window(c, after, dst, g, next);
  }
  MICA_TRY(check_next(c, dst, next));
  for (KvGroup& g : c.groups) {
    Rewrite rewrite(c, g, dst);
    MICA_TRY(rewrite.add(src, r, what));
    kv_replace(g, dst, rewrite.entries(), rewrite.size());
    g.seqs[dst] = lost_with(g, src, dst, r, by);
  }
  kv_set_next(c, dst, next);
  return MICA_OK;
}

bool holds(const KvGroup& g, uint32_t seq, int64_t position) {
  for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i) {
    const KvEntry& e = g.of(seq)[i];
    if (e.first() <= position && position <= e.last()) return true;
  }
  return false;
}

// Up to which position a group keeps what it holds although tokens are run again: all without a
// window, else the first ones, unless some of them are gone.
int64_t kept_by_rewind(const KvGroup& g, uint32_t seq, int64_t position) {
  if (g.window == 0) return position;
  return misses_first(g, g.seqs[seq], 0, position) ? 0 : std::min<int64_t>(g.n_first, position);
}

// From where a sequence is to be run again to go on at `position`: so far before it that the layers
// with windows, each of which sees its window before what the next one sees, see no further; but
// from its start when a first position is gone, and not what every group keeps.
int64_t rewind_from(const mica_kv_cache& c, uint32_t seq, int64_t position) {
  bool missing = false;
  bool first = false;
  for (const KvGroup& g : c.groups) {
    missing |= misses(g, g.seqs[seq], 0, position);
    first |= misses_first(g, g.seqs[seq], 0, position);
  }
  if (!missing) return position;
  if (first) return 0;
  int64_t from = position;
  for (const KvLayer& l : c.layers)
    if (l.desc.window != 0) from = std::max<int64_t>(0, from - (int64_t{l.desc.window} - 1));
  int64_t kept = position;
  for (const KvGroup& g : c.groups)
    kept = std::min({kept, kept_by_rewind(g, seq, position), kv_held_until(g, seq, from)});
  return std::max(from, kept);
}

// What is run again counts as lost until it is there (adopt_group in kv_step.cpp).
void rewind_group(mica_kv_cache& c, KvGroup& g, uint32_t seq, int64_t position, int64_t from) {
  const bool again = from < position && g.window != 0;
  const int64_t end = again ? std::max(from, kept_by_rewind(g, seq, position)) : position;
  Rewrite rewrite(c, g, seq);
  (void)rewrite.change({end, kNoEnd}, kRemoved);  // never more entries than before
  KvSeq s = lost_after(g.seqs[seq], {position, kNoEnd}, kRemoved);
  if (again && end < position) s.lose(end, position);
  kv_replace(g, seq, rewrite.entries(), rewrite.size());
  s.n_entries = g.seqs[seq].n_entries;
  g.seqs[seq] = s;
}

mica_status check_edit(const mica_kv_cache& c, uint32_t seq) {
  MICA_TRY(check_idle(c));
  return seq < c.max_seqs ? MICA_OK : fail_seq(c, seq);
}

}  // namespace

void kv_set_next(mica_kv_cache& c, uint32_t seq, int64_t next) {
  c.next[seq] = c.next_key[seq] = next;
  c.again[seq] = 0;
  if (c.keys != MICA_KV_KEYS_RELATIVE) return;
  for (const KvGroup& g : c.groups)
    for (uint32_t i = g.seqs[seq].n_entries; i > 0; --i) {
      const KvEntry& e = g.of(seq)[i - 1];
      if (e.div != 1 || e.key_div != 1 || e.base >= next || e.base + int64_t{e.n_cells} < next)
        continue;
      const int64_t key = next + e.key_base - e.base;
      if (key >= 0 && key <= kMostKey) c.next_key[seq] = key;
      return;
    }
}

}  // namespace mica

using mica::Range;

extern "C" {

mica_status mica_kv_seq_rm(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  const bool all = seq == MICA_KV_ALL_SEQS;
  MICA_TRY(mica::check_edit(c, all ? 0 : seq));
  const Range r = mica::normal_range(p0, p1);
  const uint32_t begin = all ? 0 : seq;
  const uint32_t end = all ? c.max_seqs : seq + 1;
  for (uint32_t s = begin; s < end; ++s) MICA_TRY(mica::check_change(c, s, r, mica::kRemoved));
  for (uint32_t s = begin; s < end; ++s) MICA_TRY(mica::change(c, s, r, mica::kRemoved));
  return MICA_OK;
}

mica_status mica_kv_seq_cp(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                           int64_t p1) {
  return mica_kv_seq_cp_to(cache, src, dst, p0, p1, p0 < 0 ? 0 : p0);
}

mica_status mica_kv_seq_cp_to(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                              int64_t p1, int64_t to) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_edit(c, src));
  MICA_TRY(mica::check_edit(c, dst));
  if (src == dst)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", src,
                                  " cannot be copied to itself");
  Range r = mica::normal_range(p0, p1);
  r.p1 = std::min(r.p1, mica::end_before(c, src, r.p1));
  if (r.p0 >= r.p1) return mica::change(c, dst, {0, 0}, mica::kRemoved);
  if (to < 0 || to > INT32_MAX)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: position ", to,
                                  " to copy to is below 0 or above 2147483646");
  return mica::copy(c, src, dst, r, to - r.p0);
}

mica_status mica_kv_seq_keep(mica_kv_cache* cache, uint32_t seq) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  MICA_TRY(mica::check_edit(*cache, seq));
  for (uint32_t s = 0; s < cache->max_seqs; ++s)
    if (s != seq) MICA_TRY(mica::change(*cache, s, {0, mica::kNoEnd}, mica::kRemoved));
  return MICA_OK;
}

mica_status mica_kv_clear(mica_kv_cache* cache) {
  return mica_kv_seq_rm(cache, MICA_KV_ALL_SEQS, 0, -1);
}

mica_status mica_kv_seq_add(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1,
                            int64_t delta) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  MICA_TRY(mica::check_edit(*cache, seq));
  const Range r = mica::normal_range(p0, p1);
  // Beyond it every position is out of range, and sums could be too.
  const mica::Change what = {mica::Change::kAdd, std::clamp(delta, -mica::kNoEnd, mica::kNoEnd),
                             delta};
  return mica::change(*cache, seq, r, what);
}

mica_status mica_kv_seq_div(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1,
                            int64_t divisor) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  MICA_TRY(mica::check_edit(*cache, seq));
  if (divisor < 1)
    return cache->device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: divisor ", divisor,
                                       " is below 1");
  const Range r = mica::normal_range(p0, p1);
  const mica::Change what = {mica::Change::kDivide, std::min(divisor, mica::kNoEnd), divisor};
  return mica::change(*cache, seq, r, what);
}

mica_status mica_kv_seq_seek(mica_kv_cache* cache, uint32_t seq, int64_t position) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_edit(c, seq));
  if (position < 0) position = mica::end_before(c, seq, mica::kNoEnd);
  if (position >= INT32_MAX)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: position ", position,
                                  " is above 2147483646");
  for (const mica::KvGroup& g : c.groups) {
    if (mica::holds(g, seq, position))
      return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq,
                                    " holds position ", position, " already");
    if (mica::misses(g, g.seqs[seq], 0, position))
      return mica::fail_window(c, g.seqs[seq], seq, g, position);
  }
  mica::kv_set_next(c, seq, position);
  return MICA_OK;
}

mica_status mica_kv_seq_rewind(mica_kv_cache* cache, uint32_t seq, int64_t position,
                               int64_t* out_from) {
  if (out_from != nullptr) *out_from = -1;
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_edit(c, seq));
  const int64_t end = mica::end_before(c, seq, mica::kNoEnd);
  if (out_from == nullptr || position < 0 || position > end)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq, " holds ", end,
                                  " positions; it cannot be rewound to ", position,
                                  ", or there is nowhere to write from where to run it again");
  const int64_t from = mica::rewind_from(c, seq, position);
  for (mica::KvGroup& g : c.groups) mica::rewind_group(c, g, seq, position, from);
  mica::kv_set_next(c, seq, from);
  c.again[seq] = position;
  *out_from = from;
  return MICA_OK;
}

}  // extern "C"
