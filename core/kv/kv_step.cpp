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

KvAppend plan_append(const mica_kv_cache& c, uint32_t group, uint32_t i_span) {
  const KvGroup& g = c.groups[group];
  const mica_kv_span span = c.spans[i_span];
  KvAppend a = {-1, 0, 0, 0};
  const uint32_t n = g.seqs[span.seq].n_entries;
  if (n > 0) {
    const KvEntry* entries = g.of(span.seq);
    const KvEntry& tail = entries[n - 1];
    const int32_t end = tail.first_cell + tail.n_cells;
    bool fits = end < kPageCells && tail.div == 1 && tail.base + tail.n_cells == c.next[span.seq];
    a.n_own = 1;
    if (fits && g.page_refs[static_cast<size_t>(tail.page)] > 1) {
      for (uint32_t i = 0; i + 1 < n; ++i) {
        if (entries[i].page != tail.page) continue;
        ++a.n_own;
        fits &= entries[i].first_cell + entries[i].n_cells <= end;
      }
    }
    if (fits) {
      a.n_tail = std::min(span.n_tokens, static_cast<uint32_t>(kPageCells - end));
      if (must_copy(c, group, i_span, tail.page, end, a.n_own)) a.copied_page = tail.page;
    }
  }
  a.n_pages = (span.n_tokens - a.n_tail + kPageCells - 1) / kPageCells;
  return a;
}

mica_status plan_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  Error& error = c.device->error();
  uint64_t pages = 0;
  uint64_t entries = 0;
  for (uint32_t i = 0; i < c.n_spans; ++i) {
    const KvAppend a = plan_append(c, group, i);
    g.appends[i] = a;
    pages += a.n_pages + (a.copied_page >= 0 ? 1u : 0u);
    const uint64_t own = uint64_t{g.seqs[c.spans[i].seq].n_entries} + a.n_pages;
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
  return MICA_OK;
}

KvEntry* table_entries(const mica_kv_cache& c, KvGroup& g) {
  return reinterpret_cast<KvEntry*>(g.table.data() + MICA_KV_TABLE_ENTRIES(c.max_seqs));
}

// Writes one span's entries as they will be, and its slots. Returns the end of the entries.
KvEntry* write_span(mica_kv_cache& c, uint32_t group, uint32_t i_span, KvEntry* out,
                    const int32_t*& free_page, int32_t*& slot) {
  KvGroup& g = c.groups[group];
  const mica_kv_span span = c.spans[i_span];
  const KvAppend& a = g.appends[i_span];
  const uint32_t n = g.seqs[span.seq].n_entries;
  std::copy_n(g.of(span.seq), n, out);
  if (a.copied_page >= 0) {
    const int32_t page = *--free_page;
    c.copies[c.n_copies++] = {group, static_cast<uint32_t>(a.copied_page),
                              static_cast<uint32_t>(page)};
    for (uint32_t i = 0; i < n; ++i)
      if (out[i].page == a.copied_page) out[i].page = page;
  }
  out += n;
  if (a.n_tail > 0) {
    KvEntry& tail = out[-1];
    const int32_t first = tail.page * kPageCells + tail.first_cell + tail.n_cells;
    for (uint32_t i = 0; i < a.n_tail; ++i) *slot++ = first + static_cast<int32_t>(i);
    tail.n_cells += static_cast<int32_t>(a.n_tail);
  }
  auto base = static_cast<int32_t>(c.next[span.seq] + a.n_tail);
  auto left = static_cast<int32_t>(span.n_tokens - a.n_tail);
  for (uint32_t i = 0; i < a.n_pages; ++i) {
    const int32_t page = *--free_page;
    const int32_t m = std::min(left, kPageCells);
    for (int32_t cell = 0; cell < m; ++cell) *slot++ = page * kPageCells + cell;
    *out++ = {page, 0, m, base, 1};
    base += m;
    left -= m;
  }
  return out;
}

void write_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  int32_t* table = g.table.data();
  int32_t* span_start = table + MICA_KV_TABLE_SPANS;
  int32_t* entry_start = table + MICA_KV_TABLE_STARTS(c.max_seqs);
  KvEntry* const first = table_entries(c, g);
  KvEntry* out = first;
  const int32_t* free_page = g.free_pages.end();
  int32_t* slot = g.slots.data();
  table[0] = static_cast<int32_t>(c.n_spans);
  // Words past the last span repeat the ends, so that spans beyond n_seqs read as empty.
  for (uint32_t i = 0; i <= c.max_seqs; ++i) {
    span_start[i] = static_cast<int32_t>(slot - g.slots.data());
    entry_start[i] = static_cast<int32_t>(out - first);
    if (i < c.n_spans) out = write_span(c, group, i, out, free_page, slot);
  }
  g.n_words = static_cast<uint32_t>(MICA_KV_TABLE_ENTRIES(c.max_seqs) +
                                    MICA_KV_ENTRY_WORDS * (out - first));
}

// What the next query of the sequence, at position `next`, cannot see is never seen again.
void release_unseen(KvGroup& g, uint32_t seq, int64_t next) {
  KvSeq& s = g.seqs[seq];
  KvEntry* entries = g.of(seq);
  const auto first_of = [](const KvEntry& e) { return int64_t{e.base} / e.div; };
  const auto last_of = [](const KvEntry& e) { return (int64_t{e.base} + e.n_cells - 1) / e.div; };
  uint32_t begin = 0;
  while (begin < s.n_entries && first_of(entries[begin]) < g.n_first) ++begin;
  uint32_t end = begin;
  while (end < s.n_entries && last_of(entries[end]) <= next - g.window) ++end;
  if (begin == end) return;
  s.lose(first_of(entries[begin]), last_of(entries[end - 1]) + 1);
  for (uint32_t i = begin; i < end; ++i) g.drop(entries[i].page);
  std::copy(entries + end, entries + s.n_entries, entries + begin);
  s.n_entries -= end - begin;
}

// The pages that reserve took from the top of the free list now belong to the sequences.
void adopt_group(mica_kv_cache& c, uint32_t group) {
  KvGroup& g = c.groups[group];
  const KvEntry* from = table_entries(c, g);
  for (uint32_t i = 0; i < g.n_taken; ++i) g.free_pages.pop();
  for (uint32_t i = 0; i < c.n_spans; ++i) {
    const KvAppend& a = g.appends[i];
    const uint32_t seq = c.spans[i].seq;
    KvSeq& s = g.seqs[seq];
    const uint32_t n = s.n_entries + a.n_pages;
    if (a.copied_page >= 0) {
      const auto page = static_cast<size_t>(from[s.n_entries - 1].page);
      g.page_refs[page] = a.n_own;
      for (uint32_t k = 0; k < a.n_own; ++k) g.drop(a.copied_page);
    }
    for (uint32_t k = a.n_tail > 0 ? s.n_entries - 1 : s.n_entries; k < n; ++k) {
      const auto page = static_cast<size_t>(from[k].page);
      if (k >= s.n_entries) g.page_refs[page] = 1;
      g.page_end[page] = from[k].first_cell + from[k].n_cells;
    }
    std::copy_n(from, n, g.of(seq));
    s.n_entries = n;
    from += n;
    if (g.window != 0) release_unseen(g, seq, c.next[seq] + c.spans[i].n_tokens);
  }
}

}  // namespace
}  // namespace mica

extern "C" {

mica_status mica_kv_reserve(mica_kv_cache* cache, uint32_t n_spans, const mica_kv_span* spans) {
  if (cache == nullptr) return MICA_INVALID_ARGUMENT;
  mica_kv_cache& c = *cache;
  MICA_TRY(mica::check_spans(c, n_spans, spans));
  std::copy_n(spans, n_spans, c.spans.data());
  c.n_spans = n_spans;
  c.n_copies = 0;
  for (uint32_t g = 0; g < c.groups.size(); ++g) MICA_TRY(mica::plan_group(c, g));
  for (uint32_t g = 0; g < c.groups.size(); ++g) mica::write_group(c, g);
  int32_t* out = c.positions.data();
  for (uint32_t i = 0; i < n_spans; ++i)
    for (uint32_t k = 0; k < spans[i].n_tokens; ++k)
      *out++ = static_cast<int32_t>(c.next[spans[i].seq] + k);
  c.n_step_tokens = static_cast<uint32_t>(out - c.positions.data());
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
  for (uint32_t g = 0; g < c.groups.size(); ++g) mica::adopt_group(c, g);
  for (uint32_t i = 0; i < c.n_spans; ++i) c.next[c.spans[i].seq] += c.spans[i].n_tokens;
  c.pending = false;
  return MICA_OK;
}

void mica_kv_abandon(mica_kv_cache* cache) {
  if (cache != nullptr && !cache->in_flight) cache->pending = false;
}

}  // extern "C"
