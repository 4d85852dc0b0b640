// Shift steps of a KV cache: which cells the op kv_shift is to rotate, and what is true once it
// has.
#include <algorithm>

#include "core/base/device.h"
#include "core/kv/kv_cache.h"

namespace mica {
namespace {

// Does another entry, of any sequence, name one of the cells? Rotated in place they would be wrong
// there.
bool is_shared(const mica_kv_cache& c, const KvGroup& g, const KvEntry& e) {
  uint32_t n_overlapping = 0;
  for (uint32_t seq = 0; seq < c.max_seqs; ++seq)
    for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i) {
      const KvEntry& o = g.of(seq)[i];
      n_overlapping += o.page == e.page && o.first_cell < e.first_cell + e.n_cells &&
                       e.first_cell < o.first_cell + o.n_cells;
    }
  return n_overlapping > 1;
}

// Does the step rotate one of these cells of a page already? A sequence may hold a cell twice.
bool is_listed(const KvGroup& g, int32_t page, const KvEntry& e) {
  for (uint32_t i = 0; i < g.n_shifts; ++i) {
    const int32_t* o = g.shifts.data() + 1 + size_t{i} * MICA_KV_SHIFT_WORDS;
    if (o[MICA_KV_SHIFT_PAGE] == page && o[MICA_KV_SHIFT_FIRST_CELL] < e.first_cell + e.n_cells &&
        e.first_cell < o[MICA_KV_SHIFT_FIRST_CELL] + o[MICA_KV_SHIFT_N_CELLS])
      return true;
  }
  return false;
}

// A copy of the entry's page that this step has made for its sequence already, or a new one; -1: no
// page is free.
int32_t copied_page(mica_kv_cache& c, uint32_t group, uint32_t seq, const KvEntry& e,
                    uint32_t first_copy) {
  KvGroup& g = c.groups[group];
  for (uint32_t i = first_copy; i < c.n_copies; ++i) {
    const auto copy = static_cast<int32_t>(c.copies[i].dst);
    if (c.copies[i].src == static_cast<uint32_t>(e.page) && c.copy_seqs[i] == seq &&
        !is_listed(g, copy, e))
      return copy;
  }
  if (g.n_taken == g.free_pages.size()) return -1;
  const int32_t fresh = g.free_pages[g.free_pages.size() - ++g.n_taken];
  c.copy_seqs[c.n_copies] = seq;
  c.copies[c.n_copies++] = {group, static_cast<uint32_t>(e.page), static_cast<uint32_t>(fresh)};
  return fresh;
}

// Lists an entry. The cells of a shared page are rotated in a copy of it.
mica_status list(mica_kv_cache& c, uint32_t group, uint32_t seq, uint32_t index,
                 uint32_t first_copy) {
  KvGroup& g = c.groups[group];
  const KvEntry& e = g.of(seq)[index];
  int32_t page = e.page;
  if (g.page_refs[static_cast<size_t>(page)] > 1 && is_shared(c, g, e)) {
    page = copied_page(c, group, seq, e, first_copy);
    if (page < 0)
      return c.device->error().fail(MICA_CACHE_FULL, "the KV cache has no room: cells of sequence ",
                                    seq, " are shared and must be copied to be rotated; the step ",
                                    "needs ", g.n_taken + 1, " pages, ",
                                    uint64_t{g.free_pages.size()}, " of ", g.n_pages, " are free");
  }
  int32_t* out = g.shifts.data() + 1 + g.n_shifts * MICA_KV_SHIFT_WORDS;
  out[MICA_KV_SHIFT_PAGE] = page;
  out[MICA_KV_SHIFT_FIRST_CELL] = e.first_cell;
  out[MICA_KV_SHIFT_N_CELLS] = e.n_cells;
  out[MICA_KV_SHIFT_FROM] = e.key_base;
  out[MICA_KV_SHIFT_FROM_DIV] = e.key_div;
  out[MICA_KV_SHIFT_TO] = e.base;
  out[MICA_KV_SHIFT_TO_DIV] = c.keys == MICA_KV_KEYS_UNROTATED ? INT32_MAX : e.div;
  g.shifted[g.n_shifts++] = {seq, index, page};
  return MICA_OK;
}

mica_status list_group(mica_kv_cache& c, uint32_t group, bool all, uint64_t* n_cells) {
  KvGroup& g = c.groups[group];
  g.n_shifts = g.n_taken = 0;
  const uint32_t first_copy = c.n_copies;
  for (uint32_t seq = 0; seq < c.max_seqs; ++seq)
    for (uint32_t i = 0; i < g.seqs[seq].n_entries && g.n_shifts < g.max_shifts; ++i) {
      const KvEntry& e = g.of(seq)[i];
      if (!(all ? kv_is_moved(c, e) : kv_needs_shift(c, e))) continue;
      MICA_TRY(list(c, group, seq, i, first_copy));
      *n_cells += static_cast<uint64_t>(e.n_cells);
    }
  g.shifts[0] = static_cast<int32_t>(g.n_shifts);
  // A table without sequences, for a plan that has other ops of the cache too.
  std::fill_n(g.table.data(), MICA_KV_TABLE_ENTRIES(c.max_seqs), 0);
  g.n_words = MICA_KV_TABLE_ENTRIES(c.max_seqs);
  return MICA_OK;
}

}  // namespace

void kv_adopt_shift(mica_kv_cache& c) {
  for (KvGroup& g : c.groups) {
    for (uint32_t i = 0; i < g.n_taken; ++i) g.free_pages.pop();
    for (uint32_t i = 0; i < g.n_shifts; ++i) {
      const KvShift& s = g.shifted[i];
      KvEntry& e = g.of(s.seq)[s.index];
      g.page_end[static_cast<size_t>(s.page)] = g.page_end[static_cast<size_t>(e.page)];
      g.hold(s.page);
      g.drop(e.page);
      e.page = s.page;
      e.key_base = e.base;
      e.key_div = c.keys == MICA_KV_KEYS_UNROTATED ? INT32_MAX : e.div;
    }
    g.n_shifts = 0;
  }
  for (uint32_t seq = 0; seq < c.max_seqs; ++seq) {
    const int64_t again = c.again[seq];
    kv_set_next(c, seq, c.next[seq]);
    c.again[seq] = again;
  }
}

}  // namespace mica

extern "C" mica_status mica_kv_reserve_shift(mica_kv_cache* cache, int32_t all,
                                             uint64_t* out_n_cells) {
  if (out_n_cells != nullptr) *out_n_cells = 0;
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  if (c.pending)
    return c.device->error().fail(MICA_BUSY, "kv reserve: the last reserve is neither committed ",
                                  "nor abandoned");
  c.n_spans = c.n_copies = c.n_step_tokens = 0;
  c.n_turns = mica::kv_first_turns(c);
  uint64_t n_cells = 0;
  for (uint32_t g = 0; g < c.groups.size(); ++g) {
    uint64_t of_group = 0;
    MICA_TRY(mica::list_group(c, g, all != 0, &of_group));
    if (n_cells == 0) n_cells = of_group;
  }
  c.pending = c.is_shift = n_cells > 0;
  if (out_n_cells != nullptr) *out_n_cells = n_cells;
  return MICA_OK;
}
