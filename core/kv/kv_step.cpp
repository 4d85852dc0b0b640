// Steps of a KV cache: reserve writes the tables as they will be, commit adopts them.
#include <algorithm>

#include "core/base/device.h"
#include "core/kv/kv_cache.h"

namespace mica {
namespace {

mica_status check_spans(mica_kv_cache& c, uint32_t n_spans, const mica_kv_span* spans) {
  Error& error = c.device->error();
  if (c.pending)
    return error.fail(MICA_BUSY, "kv reserve: the last reserve is neither committed nor abandoned");
  if (n_spans == 0 || spans == nullptr)
    return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: there are no spans");
  std::fill(c.in_step.begin(), c.in_step.end(), uint8_t{0});
  uint64_t n_tokens = 0;
  for (uint32_t i = 0; i < n_spans; ++i) {
    const mica_kv_span s = spans[i];
    if (s.seq >= c.max_seqs)
      return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: sequence ", s.seq,
                        " of a cache with max_seqs ", c.max_seqs);
    if (c.in_step[s.seq] != 0)
      return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: sequence ", s.seq, " has two spans");
    if (s.n_tokens == 0)
      return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: the span of sequence ", s.seq,
                        " has no tokens");
    if (c.next[s.seq] + s.n_tokens > INT32_MAX)
      return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: sequence ", s.seq,
                        " would pass position 2147483647");
    c.in_step[s.seq] = 1;
    n_tokens += s.n_tokens;
    if (n_tokens > c.max_step_tokens)
      return error.fail(MICA_INVALID_ARGUMENT, "kv reserve: the spans have more than ",
                        c.max_step_tokens, " tokens, the most of a step");
  }
  return MICA_OK;
}

// May the sequence append to its last page `page`, used up to cell `end`, without copying it? Not
// while anyone else holds it. Holders that leave it in this step (they copy it) do not count, as
// long as what they committed, which an abandon returns to, lies before `end`.
bool must_copy(const mica_kv_cache& c, uint32_t group, uint32_t n_before, int32_t page, int32_t end,
               uint32_t n_own) {
  const KvGroup& g = c.groups[group];
  const auto p = static_cast<size_t>(page);
  uint32_t others = g.page_refs[p] - n_own;
  if (others == 0) return false;
  for (uint32_t i = 0; i < n_before; ++i)
    if (g.appends[i].copied_page == page) others -= g.appends[i].n_own;
  return others != 0 || g.page_end[p] > end;
}

// Can tokens go on in the cells behind entry `tail`, and how many own entries has its page?
bool can_extend(const mica_kv_cache& c, const KvGroup& g, uint32_t seq, uint32_t tail,
                const KvAppend& a, uint32_t* n_own) {
  const KvEntry* entries = g.of(seq);
  const KvEntry& e = entries[tail];
  const int32_t end = e.first_cell + e.n_cells;
  bool fits = end < kPageCells && e.div == 1 && e.key_div == kv_key_div(c) &&
              int64_t{e.base} + e.n_cells == c.next[seq] + a.n_held &&
              int64_t{e.key_base} + e.n_cells == c.next_key[seq] + a.n_held;
  *n_own = 1;
  if (!fits || g.page_refs[static_cast<size_t>(e.page)] == 1) return fits;
  for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i) {
    if (i == tail || entries[i].page != e.page) continue;
    ++*n_own;
    fits &= entries[i].first_cell + entries[i].n_cells <= end;
  }
  return fits;
}

uint64_t cell_bits(int32_t first, int32_t n) {
  return n <= 0 ? 0 : ~uint64_t{0} >> (kPageCells - n) << first;
}

// Calls f(page, first_cell, n_cells) for free cells of pages that the sequence alone holds, until
// it says false. Cells behind the tail that this step takes are not free.
template <class F>
void each_hole(KvGroup& g, uint32_t seq, const KvAppend& a, const F& f) {
  const KvEntry* entries = g.of(seq);
  const uint32_t n = g.seqs[seq].n_entries;
  const auto page_of = [&](uint32_t i) { return static_cast<size_t>(entries[i].page); };
  for (uint32_t i = 0; i < n; ++i) g.page_used[page_of(i)] = g.page_own[page_of(i)] = 0;
  for (uint32_t i = 0; i < n; ++i) {
    g.page_used[page_of(i)] |= cell_bits(entries[i].first_cell, entries[i].n_cells);
    ++g.page_own[page_of(i)];
  }
  if (a.n_tail > 0) {
    const KvEntry& tail = entries[a.at - 1];
    g.page_used[page_of(a.at - 1)] |=
        cell_bits(tail.first_cell + tail.n_cells, static_cast<int32_t>(a.n_tail));
  }
  for (uint32_t i = 0; i < n; ++i) {
    uint64_t& used = g.page_used[page_of(i)];
    while (used != ~uint64_t{0} && g.page_own[page_of(i)] == g.page_refs[page_of(i)]) {
      const int first = __builtin_ctzll(~used);
      const uint64_t behind = used >> first;
      const int cells = behind == 0 ? kPageCells - first : __builtin_ctzll(behind);
      used |= cell_bits(first, cells);
      if (!f(entries[i].page, first, cells)) return;
    }
  }
}

// Puts as many tokens into holes as it takes to do without `n_pages` pages.
void use_holes(const mica_kv_cache& c, KvGroup& g, uint32_t i_span, uint64_t n_pages) {
  KvAppend& a = g.appends[i_span];
  const mica_kv_span span = c.spans[i_span];
  const uint32_t left = span.n_tokens - a.n_held - a.n_tail;
  const auto pages = static_cast<uint32_t>(std::min<uint64_t>(n_pages, a.n_pages));
  const uint32_t kept = (a.n_pages - pages) * kPageCells;
  const uint32_t wanted = left > kept ? left - kept : 0;
  if (wanted == 0) return;
  each_hole(g, span.seq, a, [&](int32_t, int32_t, int32_t cells) {
    a.n_in_holes = std::min(wanted, a.n_in_holes + static_cast<uint32_t>(cells));
    ++a.n_holes;
    return a.n_in_holes < wanted;
  });
  a.n_pages = (left - a.n_in_holes + kPageCells - 1) / kPageCells;
}

KvAppend plan_append(const mica_kv_cache& c, uint32_t group, uint32_t i_span) {
  const KvGroup& g = c.groups[group];
  const mica_kv_span span = c.spans[i_span];
  const KvSeq& s = g.seqs[span.seq];
  const KvEntry* entries = g.of(span.seq);
  KvAppend a = {s.n_entries, 0, -1, 0, 0, 0, 0, 0};
  const int64_t held = kv_held_until(g, span.seq, c.next[span.seq]) - c.next[span.seq];
  a.n_held = static_cast<uint32_t>(std::min<int64_t>(held, span.n_tokens));
  const int64_t first = c.next[span.seq] + a.n_held;
  const uint32_t left = span.n_tokens - a.n_held;
  while (a.at > 0 && entries[a.at - 1].first() >= first) --a.at;
  if (left > 0 && a.at > 0 && can_extend(c, g, span.seq, a.at - 1, a, &a.n_own)) {
    const KvEntry& tail = entries[a.at - 1];
    const int32_t end = tail.first_cell + tail.n_cells;
    a.n_tail = std::min(left, static_cast<uint32_t>(kPageCells - end));
    if (must_copy(c, group, i_span, tail.page, end, a.n_own)) a.copied_page = tail.page;
  }
  a.n_pages = (left - a.n_tail + kPageCells - 1) / kPageCells;
  return a;
}

mica_status fail_taken(const mica_kv_cache& c, const mica_kv_span& span, int64_t position) {
  const int64_t next = c.next[span.seq];
  return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv reserve: sequence ", span.seq,
                                " holds position ", position, " already; there is room for ",
                                position - next, " of ", span.n_tokens, " tokens from position ",
                                next);
}

mica_status check_taken(const mica_kv_cache& c, const KvGroup& g, const KvAppend& a,
                        const mica_kv_span& span) {
  const int64_t end = c.next[span.seq] + span.n_tokens;
  const int64_t again = std::max(c.next[span.seq], c.again[span.seq]);
  if (c.next[span.seq] + a.n_held > again) return fail_taken(c, span, again);
  if (a.at == g.seqs[span.seq].n_entries || g.of(span.seq)[a.at].first() >= end) return MICA_OK;
  return fail_taken(c, span, g.of(span.seq)[a.at].first());
}

mica_status check_moved(const mica_kv_cache& c, const KvGroup& g, uint32_t seq) {
  for (uint32_t i = 0; i < g.seqs[seq].n_entries; ++i)
    if (kv_needs_shift(c, g.of(seq)[i]))
      return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv reserve: sequence ", seq,
                                    " has moved cells whose K is not rotated to position ",
                                    g.of(seq)[i].first(),
                                    " yet; run a kv_shift step (mica_kv_reserve_shift) first");
  return MICA_OK;
}

mica_status plan_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  Error& error = c.device->error();
  uint64_t pages = 0;
  uint64_t entries = 0;
  for (uint32_t i = 0; i < c.n_spans; ++i) {
    const KvAppend a = g.appends[i] = plan_append(c, group, i);
    MICA_TRY(check_taken(c, g, a, c.spans[i]));
    pages += a.n_pages + (a.copied_page >= 0 ? 1u : 0u);
  }
  // Whole pages first, for attention reads those best.
  for (uint32_t i = 0; i < c.n_spans && pages > g.free_pages.size(); ++i) {
    const uint32_t before = g.appends[i].n_pages;
    use_holes(c, g, i, pages - g.free_pages.size());
    pages -= before - g.appends[i].n_pages;
  }
  for (uint32_t i = 0; i < c.n_spans; ++i) {
    const KvAppend& a = g.appends[i];
    const uint64_t own = uint64_t{g.seqs[c.spans[i].seq].n_entries} + a.n_holes + a.n_pages;
    entries += own;
    if (own > g.max_seq_entries)
      return error.fail(MICA_CACHE_FULL, "the KV cache has no room: sequence ", c.spans[i].seq,
                        " would have ", own, " table entries, ", g.max_seq_entries, " is the most");
  }
  if (pages > g.free_pages.size())
    return error.fail(MICA_CACHE_FULL, "the KV cache has no room: the step needs ", pages,
                      " pages, ", uint64_t{g.free_pages.size()}, " of ", g.n_pages, " are free");
  if (entries > g.max_entries)
    return error.fail(MICA_CACHE_FULL, "the KV cache has no room: the step needs ", entries,
                      " table entries, ", g.max_entries, " is the most");
  g.n_taken = static_cast<uint32_t>(pages);
  // Last, so that a program learns before its shift step whether there will be room behind it.
  for (uint32_t i = 0; i < c.n_spans; ++i) MICA_TRY(check_moved(c, g, c.spans[i].seq));
  return MICA_OK;
}

// Writes one span's entries as they will be, and its slots. Returns the end of the entries.
KvEntry* write_span(mica_kv_cache& c, uint32_t group, uint32_t i_span, KvEntry* out,
                    const int32_t*& free_page, int32_t*& slot) {
  KvGroup& g = c.groups[group];
  const mica_kv_span span = c.spans[i_span];
  const KvAppend& a = g.appends[i_span];
  const uint32_t n = g.seqs[span.seq].n_entries;
  KvEntry* const first = out;
  std::copy_n(g.of(span.seq), a.at, out);
  out += a.at;
  for (uint32_t i = 0; i < a.n_held; ++i) *slot++ = -1;
  if (a.n_tail > 0) {
    KvEntry& tail = out[-1];
    const int32_t cell = tail.first_cell + tail.n_cells;
    const int32_t page = a.copied_page >= 0 ? *--free_page : tail.page;
    tail.page = page;
    for (uint32_t i = 0; i < a.n_tail; ++i)
      *slot++ = page * kPageCells + cell + static_cast<int32_t>(i);
    tail.n_cells += static_cast<int32_t>(a.n_tail);
  }
  const int32_t tail_page = a.n_tail > 0 ? out[-1].page : -1;
  const uint32_t n_before = a.n_held + a.n_tail;
  auto base = static_cast<int32_t>(c.next[span.seq] + n_before);
  auto key = static_cast<int32_t>(c.next_key[span.seq] + n_before);
  auto left = static_cast<int32_t>(span.n_tokens - n_before);
  const auto put = [&](int32_t page, int32_t cell0, int32_t m) {
    for (int32_t i = 0; i < m; ++i) *slot++ = page * kPageCells + cell0 + i;
    *out++ = {page, cell0, m, base, 1, key, kv_key_div(c)};
    base += m, key += m, left -= m;
  };
  uint32_t n_holes = 0;
  auto in_holes = static_cast<int32_t>(a.n_in_holes);
  if (a.n_holes > 0)
    each_hole(g, span.seq, a, [&](int32_t page, int32_t cell0, int32_t cells) {
      const int32_t m = std::min(in_holes, cells);
      put(page, cell0, m);
      in_holes -= m;
      return ++n_holes < a.n_holes;
    });
  for (uint32_t i = 0; i < a.n_pages; ++i) put(*--free_page, 0, std::min(left, kPageCells));
  out = std::copy_n(g.of(span.seq) + a.at, n - a.at, out);
  if (a.copied_page < 0) return out;
  c.copies[c.n_copies++] = {group, static_cast<uint32_t>(a.copied_page),
                            static_cast<uint32_t>(tail_page)};
  for (KvEntry* e = first; e < out; ++e)
    if (e->page == a.copied_page) e->page = tail_page;
  return out;
}

// Adds a row to the step's turns; max_turns: there is no room.
uint32_t add_turn(mica_kv_cache& c, int64_t by) {
  if (c.n_turns == c.max_turns) return c.max_turns;
  c.turns[c.n_turns] = static_cast<int32_t>(by);
  return c.n_turns++;
}

// Which row of the step's turns is the entry's (mica/kv_table.h); max_turns: there is no room.
uint32_t turn_row(mica_kv_cache& c, const KvEntry& e) {
  int64_t by = 0;
  if (c.keys == MICA_KV_KEYS_UNROTATED) {
    // Sequences begin at the same multiples of 64; a row that another one displaced is added again.
    by = e.first() / kPageCells * kPageCells;
    uint32_t& row = c.turn_rows[static_cast<size_t>(by / kPageCells % kTurnRows)];
    if (row < MICA_KV_OFFSET_TURNS || row >= c.n_turns || c.turns[row] != by) row = add_turn(c, by);
    return row;
  }
  if (c.keys != MICA_KV_KEYS_RELATIVE || !e.turn(&by)) return 0;
  for (uint32_t i = c.n_turns; i > 0; --i)
    if (c.turns[i - 1] == by) return i - 1;
  return add_turn(c, by);
}

mica_status fail_turns(const mica_kv_cache& c) {
  if (c.keys == MICA_KV_KEYS_UNROTATED)
    return c.device->error().fail(
        MICA_CACHE_FULL, "the KV cache has no room: the step's cells lie at more than ",
        c.max_turns - MICA_KV_OFFSET_TURNS, " different multiples of 64 positions (max_turns)");
  return c.device->error().fail(
      MICA_CACHE_FULL, "the KV cache has no room: cells were moved by more than ", c.max_turns - 1,
      " different numbers of positions; ", "mica_kv_reserve_shift makes them one");
}

mica_status write_entries(mica_kv_cache& c, KvGroup& g, uint32_t n) {
  int32_t* out = g.table.data() + MICA_KV_TABLE_ENTRIES(c.max_seqs);
  for (uint32_t i = 0; i < n; ++i, out += MICA_KV_ENTRY_WORDS) {
    const KvEntry& e = g.step[i];
    const uint32_t turn = turn_row(c, e);
    if (turn == c.max_turns) return fail_turns(c);
    out[MICA_KV_ENTRY_PAGE] = e.page;
    out[MICA_KV_ENTRY_FIRST_CELL] = e.first_cell;
    out[MICA_KV_ENTRY_N_CELLS] = e.n_cells;
    out[MICA_KV_ENTRY_BASE] = e.base;
    out[MICA_KV_ENTRY_DIV] = e.div;
    out[MICA_KV_ENTRY_TURN] = static_cast<int32_t>(turn);
  }
  g.n_words = static_cast<uint32_t>(out - g.table.data());
  return MICA_OK;
}

mica_status write_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  int32_t* table = g.table.data();
  int32_t* span_start = table + MICA_KV_TABLE_SPANS;
  int32_t* entry_start = table + MICA_KV_TABLE_STARTS(c.max_seqs);
  KvEntry* out = g.step.data();
  const int32_t* free_page = g.free_pages.end();
  int32_t* slot = g.slots.data();
  table[0] = static_cast<int32_t>(c.n_spans);
  // Words past the last span repeat the ends, so that spans beyond n_seqs read as empty.
  for (uint32_t i = 0; i <= c.max_seqs; ++i) {
    span_start[i] = static_cast<int32_t>(slot - g.slots.data());
    entry_start[i] = static_cast<int32_t>(out - g.step.data());
    if (i < c.n_spans) out = write_span(c, group, i, out, free_page, slot);
  }
  return write_entries(c, g, static_cast<uint32_t>(out - g.step.data()));
}

// What the next query of the sequence, at position `next`, cannot see is never seen again.
void release_unseen(KvGroup& g, uint32_t seq, int64_t next) {
  KvSeq& s = g.seqs[seq];
  KvEntry* entries = g.of(seq);
  uint32_t begin = 0;
  while (begin < s.n_entries && entries[begin].first() < g.n_first) ++begin;
  uint32_t end = begin;
  while (end < s.n_entries && entries[end].last() <= next - g.window) ++end;
  if (begin == end) return;
  s.lose(entries[begin].first(), entries[end - 1].last() + 1);
  for (uint32_t i = begin; i < end; ++i) g.drop(entries[i].page);
  std::copy(entries + end, entries + s.n_entries, entries + begin);
  s.n_entries -= end - begin;
}

// The tokens of a step reach where a rewind went to: what was run again is lost no more as far as
// it is seen from there. The rest is not exact, but for the first positions.
void end_rewind(const KvGroup& g, KvSeq& s, int64_t position) {
  if (s.lost_to != position) return;
  s.lost_from = std::max<int64_t>(s.lost_from, g.n_first);
  s.lost_to = std::max(s.lost_from, s.lost_to - (int64_t{g.window} - 1));
}

// Makes one of entries that go on where those before them end: tokens put into holes one at a time
// would otherwise take an entry each. Returns how many are left.
uint32_t join_entries(KvEntry* entries, uint32_t n) {
  uint32_t n_left = 0;
  for (uint32_t i = 0; i < n; ++i) {
    if (n_left > 0 && kv_is_next(entries[n_left - 1], entries[i])) {
      entries[n_left - 1].n_cells += entries[i].n_cells;
    } else {
      entries[n_left++] = entries[i];
    }
  }
  return n_left;
}

// The pages that reserve took from the top of the free list now belong to the sequences.
void adopt_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  KvEntry* from = g.step.data();
  for (uint32_t i = 0; i < g.n_taken; ++i) g.free_pages.pop();
  for (uint32_t i = 0; i < c.n_spans; ++i) {
    const KvAppend& a = g.appends[i];
    const uint32_t seq = c.spans[i].seq;
    const uint32_t n_new = a.n_holes + a.n_pages;
    const uint32_t n = g.seqs[seq].n_entries + n_new;
    for (uint32_t k = a.n_tail > 0 ? a.at - 1 : a.at; k < a.at + n_new; ++k) {
      int32_t& end = g.page_end[static_cast<size_t>(from[k].page)];
      const bool in_hole = k >= a.at && k < a.at + a.n_holes;
      end = std::max(in_hole ? end : 0, from[k].first_cell + from[k].n_cells);
    }
    kv_replace(g, seq, from, join_entries(from, n));
    from += n;
    if (g.window == 0) continue;
    const int64_t next = c.next[seq] + c.spans[i].n_tokens;
    if (c.next[seq] < c.again[seq] && c.again[seq] <= next)
      end_rewind(g, g.seqs[seq], c.again[seq]);
    release_unseen(g, seq, next);
  }
}

}  // namespace

const int32_t* kv_step_data(const mica_kv_cache* c, uint32_t table, uint32_t* n_words) {
  *n_words = kv_step_tokens(c);
  if (table == kKvPositions) return c->positions.data();
  if (table == kKvKeyPositions) return c->key_positions.data();
  if (table == kKvTurns) {
    *n_words = c->n_turns;
    return c->turns.data();
  }
  const uint32_t group = (table - kKvGroupTables) / 3;
  const KvGroup& g = c->groups[group];
  if (table == kv_slots_of(group)) return g.slots.data();
  const bool is_table = table == kv_table_of(group);
  *n_words = !c->pending ? 0 : is_table ? g.n_words : 1 + g.n_shifts * MICA_KV_SHIFT_WORDS;
  return is_table ? g.table.data() : g.shifts.data();
}

mica_status kv_check_plan(const mica_kv_cache* c, const uint8_t* has_table) {
  Error& error = c->device->error();
  bool appends = false;
  for (uint32_t g = 0; g < kv_n_groups(c); ++g) {
    appends |= has_table[kv_slots_of(g)] != 0;
    if (c->is_shift && c->groups[g].n_shifts > 0 && has_table[kv_shifts_of(g)] == 0)
      return error.fail(MICA_INVALID_ARGUMENT, "the reserve is a shift of cells with window ",
                        c->groups[g].window, ", which the plan has no kv_shift for in each layer");
  }
  for (uint32_t i = 0; i < kv_step_tokens(c) && appends && has_table[kKvKeyPositions] == 0; ++i)
    if (c->positions[i] != c->key_positions[i])
      return error.fail(MICA_INVALID_ARGUMENT,
                        "the plan rotates K to positions, but the cache wants ",
                        "it rotated to mica_kv.key_positions");
  return MICA_OK;
}

int64_t kv_held_until(const KvGroup& g, uint32_t seq, int64_t from) {
  int64_t held = from;
  for (uint32_t i = 0; i < g.seqs[seq].n_entries && g.of(seq)[i].first() <= held; ++i)
    held = std::max(held, g.of(seq)[i].last() + 1);
  return held;
}

void kv_replace(KvGroup& g, uint32_t seq, const KvEntry* entries, uint32_t n) {
  KvSeq& s = g.seqs[seq];
  for (uint32_t i = 0; i < n; ++i) g.hold(entries[i].page);
  for (uint32_t i = 0; i < s.n_entries; ++i) g.drop(g.of(seq)[i].page);
  std::copy_n(entries, n, g.of(seq));
  s.n_entries = n;
}

}  // namespace mica

extern "C" {

mica_status mica_kv_reserve(mica_kv_cache* cache, uint32_t n_spans, const mica_kv_span* spans) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_spans(c, n_spans, spans));
  std::copy_n(spans, n_spans, c.spans.data());
  c.n_spans = n_spans;
  c.n_copies = 0;
  c.n_turns = mica::kv_first_turns(c);
  for (mica::KvGroup& g : c.groups) g.n_shifts = 0, g.shifts[0] = 0;
  for (uint32_t g = 0; g < c.groups.size(); ++g) MICA_TRY(mica::plan_group(c, g));
  for (uint32_t g = 0; g < c.groups.size(); ++g) MICA_TRY(mica::write_group(c, g));
  uint32_t n = 0;
  for (uint32_t i = 0; i < n_spans; ++i)
    for (uint32_t k = 0; k < spans[i].n_tokens; ++k, ++n) {
      c.positions[n] = static_cast<int32_t>(c.next[spans[i].seq] + k);
      const int64_t key = c.next_key[spans[i].seq] + k;
      c.key_positions[n] = static_cast<int32_t>(key / mica::kv_key_div(c));
    }
  c.n_step_tokens = n;
  c.pending = true;
  return MICA_OK;
}

mica_status mica_kv_commit(mica_kv_cache* cache) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  if (c.in_flight)
    return c.device->error().fail(MICA_BUSY, "kv commit: a step of the session is running");
  if (!c.pending)
    return c.device->error().fail(MICA_INVALID_ARGUMENT, "kv commit: no reserve is pending");
  c.is_marked = false;
  if (c.is_shift) {
    mica::kv_adopt_shift(c);
  } else {
    for (uint32_t g = 0; g < c.groups.size(); ++g) mica::adopt_group(c, g);
    for (uint32_t i = 0; i < c.n_spans; ++i) {
      const uint32_t seq = c.spans[i].seq;
      c.next[seq] += c.spans[i].n_tokens;
      c.next_key[seq] += c.spans[i].n_tokens;
      if (c.next_key[seq] > mica::kMostKey) c.next_key[seq] = c.next[seq];
    }
  }
  c.pending = c.is_shift = false;
  return MICA_OK;
}

void mica_kv_abandon(mica_kv_cache* cache) {
  if (cache != nullptr && !cache->in_flight) cache->pending = cache->is_shift = false;
}

}  // extern "C"
