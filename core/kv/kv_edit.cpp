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
  return {e.page, e.first_cell + cells.from, cells.to - cells.from, e.base + cells.from, e.div};
}

struct Range {
  int64_t p0, p1;
};
Range normal_range(int64_t p0, int64_t p1) {
  p0 = std::clamp<int64_t>(p0, 0, kNoEnd);
  return {p0, p1 < 0 || p1 > kNoEnd ? kNoEnd : p1};
}

// True when a sequence that goes on at `next` would miss positions from `from` on that the group
// released because of its window.
bool misses(const KvGroup& g, const KvSeq& s, int64_t from, int64_t next) {
  if (g.window == 0) return false;
  return std::max({s.lost_from, from, next - g.window + 1}) < std::min(s.lost_to, next);
}

mica_status fail_window(mica_kv_cache& c, uint32_t seq, const KvGroup& g, int64_t next) {
  const KvSeq& s = g.seqs[seq];
  return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", seq,
                                " cannot go on at position ", next, ": the window of ", g.window,
                                " has released positions ", s.lost_from, " to ", s.lost_to - 1);
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

mica_status check_remove(mica_kv_cache& c, uint32_t seq, Range r) {
  const bool is_tail = r.p1 >= c.next[seq] && r.p0 < c.next[seq];
  const int64_t next = is_tail ? end_before(c, seq, r.p0) : c.next[seq];
  for (const KvGroup& g : c.groups) {
    const KvSeq& s = g.seqs[seq];
    if (is_tail && misses(g, s, 0, next)) return fail_window(c, seq, g, next);
    if (s.n_entries < g.max_seq_entries) continue;
    for (uint32_t i = 0; i < s.n_entries; ++i) {
      const KvEntry& e = g.of(seq)[i];
      const Cells cut = cells_in(e, r.p0, r.p1);
      if (cut.from > 0 && cut.from < cut.to && cut.to < e.n_cells)
        return c.device->error().fail(MICA_CACHE_FULL, "the KV cache has no room: sequence ", seq,
                                      " has ", s.n_entries,
                                      " table entries, the most, and the cut needs one more");
    }
  }
  return MICA_OK;
}

void remove_lost(KvSeq& s, Range r) {
  if (r.p0 <= s.lost_from) s.lost_from = std::max(s.lost_from, std::min(r.p1, s.lost_to));
  if (r.p1 >= s.lost_to) s.lost_to = std::min(s.lost_to, std::max(r.p0, s.lost_from));
}

void remove_entries(KvGroup& g, uint32_t seq, Range r) {
  KvSeq& s = g.seqs[seq];
  KvEntry* entries = g.of(seq);
  uint32_t n = 0;
  for (uint32_t i = 0; i < s.n_entries; ++i) {
    const KvEntry e = entries[i];
    const Cells cut = cells_in(e, r.p0, r.p1);
    const Cells left = {0, cut.from};
    const Cells right = {cut.to, e.n_cells};
    if (cut.from >= cut.to) {
      entries[n++] = e;
    } else if (left.to > 0 && right.from < right.to) {
      // The only entry touched, so n == i: make room for its second part.
      std::copy_backward(entries + i + 1, entries + s.n_entries, entries + s.n_entries + 1);
      entries[i] = part(e, left);
      entries[i + 1] = part(e, right);
      ++g.page_refs[static_cast<size_t>(e.page)];
      n = s.n_entries + 1;
      break;
    } else if (left.to > 0) {
      entries[n++] = part(e, left);
    } else if (right.from < right.to) {
      entries[n++] = part(e, right);
    } else {
      g.drop(e.page);
    }
  }
  s.n_entries = n;
}

void remove(mica_kv_cache& c, uint32_t seq, Range r) {
  for (KvGroup& g : c.groups) {
    remove_entries(g, seq, r);
    remove_lost(g.seqs[seq], r);
  }
  if (r.p1 >= c.next[seq]) c.next[seq] = end_before(c, seq, kNoEnd);
}

mica_status check_copy(mica_kv_cache& c, uint32_t src, uint32_t dst, Range r) {
  for (const KvGroup& g : c.groups) {
    const KvSeq& s = g.seqs[src];
    if (misses(g, s, r.p0, r.p1)) return fail_window(c, src, g, r.p1);
    uint32_t n = g.seqs[dst].n_entries;
    for (uint32_t i = 0; i < s.n_entries; ++i) {
      const Cells cells = cells_in(g.of(src)[i], r.p0, r.p1);
      n += cells.from < cells.to ? 1u : 0u;
    }
    if (n > g.max_seq_entries)
      return c.device->error().fail(MICA_CACHE_FULL, "the KV cache has no room: sequence ", dst,
                                    " would have ", n, " table entries, ", g.max_seq_entries,
                                    " is the most");
  }
  return MICA_OK;
}

void copy_group(KvGroup& g, uint32_t src, uint32_t dst, Range r) {
  const KvSeq& from = g.seqs[src];
  KvSeq& to = g.seqs[dst];
  KvEntry* out = g.of(dst);
  for (uint32_t i = 0; i < from.n_entries; ++i) {
    const KvEntry& e = g.of(src)[i];
    const Cells cells = cells_in(e, r.p0, r.p1);
    if (cells.from >= cells.to) continue;
    out[to.n_entries++] = part(e, cells);
    ++g.page_refs[static_cast<size_t>(e.page)];
  }
  const int64_t lost_from = std::max(from.lost_from, r.p0);
  const int64_t lost_to = std::min(from.lost_to, r.p1);
  if (lost_from < lost_to) to.lose(lost_from, lost_to);
}

}  // namespace
}  // namespace mica

using mica::Range;

extern "C" {

mica_status mica_kv_seq_rm(mica_kv_cache* cache, uint32_t seq, int64_t p0, int64_t p1) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_idle(c));
  const bool all = seq == MICA_KV_ALL_SEQS;
  if (!all && seq >= c.max_seqs) return mica::fail_seq(c, seq);
  const Range r = mica::normal_range(p0, p1);
  if (r.p0 >= r.p1) return MICA_OK;
  const uint32_t begin = all ? 0 : seq;
  const uint32_t end = all ? c.max_seqs : seq + 1;
  for (uint32_t s = begin; s < end; ++s) MICA_TRY(mica::check_remove(c, s, r));
  for (uint32_t s = begin; s < end; ++s) mica::remove(c, s, r);
  return MICA_OK;
}

mica_status mica_kv_seq_cp(mica_kv_cache* cache, uint32_t src, uint32_t dst, int64_t p0,
                           int64_t p1) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_idle(c));
  if (src >= c.max_seqs) return mica::fail_seq(c, src);
  if (dst >= c.max_seqs) return mica::fail_seq(c, dst);
  if (src == dst)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", src,
                                  " cannot be copied to itself");
  Range r = mica::normal_range(p0, p1);
  r.p1 = mica::end_before(c, src, r.p1);
  if (r.p0 >= r.p1) return MICA_OK;
  if (c.next[dst] > r.p0)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv cache: sequence ", dst,
                                  " already holds position ", c.next[dst] - 1,
                                  ", not before the copied range");
  MICA_TRY(mica::check_copy(c, src, dst, r));
  for (mica::KvGroup& g : c.groups) mica::copy_group(g, src, dst, r);
  c.next[dst] = mica::end_before(c, dst, mica::kNoEnd);
  return MICA_OK;
}

mica_status mica_kv_seq_keep(mica_kv_cache* cache, uint32_t seq) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_idle(c));
  if (seq >= c.max_seqs) return mica::fail_seq(c, seq);
  for (uint32_t s = 0; s < c.max_seqs; ++s)
    if (s != seq) mica::remove(c, s, {0, mica::kNoEnd});
  return MICA_OK;
}

}  // extern "C"
