// How one attention call is cut into work: the cache table, which cells a token sees, and the
// items. Included by attention's files only.
//
// A tile is some query rows (token, query head of the group) of one sequence and kv head, a chunk
// some of the sequence's cells, an item a tile and a chunk. Where tiles alone are too few to fill
// the device, cells are cut in chunks, whose partial results the block that ends last merges, in
// order (attention_merge.cuh). The cut depends on shapes, the device and the table alone. Chunks
// are counted in units: whole entries, or quarters of them.
#pragma once
#include "backends/cuda/kernels/attention/attention_call.cuh"

namespace mica::cuda {
#ifdef __CUDACC__

// --- The table: step data, never trusted --------------------------------------------------------

struct Range {
  int32_t begin, end;
  __device__ int32_t size() const { return end - begin; }
};
__device__ inline Range table_range(const int32_t* words, int32_t limit) {
  const int32_t begin = max(0, min(words[0], limit));
  return {begin, max(begin, min(words[1], limit))};
}

// A load whose result nobody waits for.
__device__ inline void touch(const int32_t* p) {
  [[maybe_unused]] int32_t x;
  asm volatile("ld.global.s32 %0, [%1];" : "=r"(x) : "l"(p));
}

struct Table {
  const int32_t* words;
  int32_t max_seqs, n_seqs, n_entries, n_tokens;
  int32_t spans[2], starts[2];  // of the sequence with this lane's number, or of the only one

  __device__ Range tokens(int32_t seq) const {
    return table_range(words + MICA_KV_TABLE_SPANS + seq, n_tokens);
  }
  __device__ Range entries(int32_t seq) const {
    return table_range(words + MICA_KV_TABLE_STARTS(max_seqs) + seq, n_entries);
  }
};
__device__ inline Table open_table(const AttentionArgs& a) {
  Table t;
  t.words = reinterpret_cast<const int32_t*>(a.table);
  t.max_seqs = static_cast<int32_t>(a.op.max_seqs);
  // All that an idle block needs is on its way at once.
  const int32_t lane = t.max_seqs == 1 ? 0 : static_cast<int32_t>(threadIdx.x % 32);
  const bool has_lane = lane < t.max_seqs;
  for (int i = 0; i < 2; ++i) {
    t.spans[i] = has_lane ? t.words[MICA_KV_TABLE_SPANS + lane + i] : 0;
    t.starts[i] = has_lane ? t.words[MICA_KV_TABLE_STARTS(t.max_seqs) + lane + i] : 0;
  }
  t.n_seqs = max(0, min(t.words[0], t.max_seqs));
  t.n_entries = (a.n_table_words - MICA_KV_TABLE_ENTRIES(t.max_seqs)) / MICA_KV_ENTRY_WORDS;
  const int64_t live = live_count(a.live, a.n_tokens);
  t.n_tokens = static_cast<int32_t>(live < 0 ? 0 : live > a.n_tokens ? a.n_tokens : live);
  return t;
}

// What the next loads find in the L1 cache then: words of the table and positions, a thread each.
__device__ inline void warm_inputs(const AttentionArgs& a) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  touch(reinterpret_cast<const int32_t*>(a.table) + min(thread, a.n_table_words - 1));
  if (thread < 32)
    touch(reinterpret_cast<const int32_t*>(a.positions) + min(thread, a.n_tokens - 1));
}

struct Entry {
  int32_t page, first_cell, n_cells, base, div;
  int32_t turn;  // row of `turns`, of those that there are; 0: no rotation
};
__device__ inline const int32_t* entry_words(const Table& t, int32_t i) {
  return t.words + MICA_KV_TABLE_ENTRIES(t.max_seqs) + i * MICA_KV_ENTRY_WORDS;
}
__device__ inline int32_t checked_turn(const AttentionArgs& a, int32_t turn) {
  return turn >= 0 && turn < a.n_turns ? turn : 0;
}
__device__ inline Entry raw_entry(const Table& t, int32_t i) {
  const int32_t* w = entry_words(t, i);
  return {w[MICA_KV_ENTRY_PAGE], w[MICA_KV_ENTRY_FIRST_CELL], w[MICA_KV_ENTRY_N_CELLS],
          w[MICA_KV_ENTRY_BASE], w[MICA_KV_ENTRY_DIV],        w[MICA_KV_ENTRY_TURN]};
}
// One that names no cells of the cache has n_cells 0. All words are looked at, so that none is
// loaded only after another.
__device__ inline Entry checked_entry(const AttentionArgs& a, const Entry& e) {
  const bool good = (e.page >= 0) & (e.page < a.n_pages) & (e.first_cell >= 0) &
                    (e.first_cell < kPageCells) & (e.n_cells >= 0) &
                    (e.n_cells <= kPageCells - e.first_cell) & (e.div >= 1);
  const int32_t turn = checked_turn(a, e.turn);
  if (good) return {e.page, e.first_cell, e.n_cells, e.base, e.div, turn};
  return {0, 0, 0, 0, 1, turn};
}
__device__ inline Entry table_entry(const AttentionArgs& a, const Table& t, int32_t i) {
  return checked_entry(a, raw_entry(t, i));
}

// --- What a token sees --------------------------------------------------------------------------

// Cells of an entry, counted from its first: [0, first_end) and [begin, end).
struct Seen {
  int32_t begin, end, first_end;
  __device__ bool any() const { return begin < end || first_end > 0; }
  __device__ bool has(int32_t i) const { return i < end && (i >= begin || i < first_end); }
};
// Cell i has position floor((base + i) / div), which is below p just when base + i < p * div.
__device__ inline Seen seen_cells(const AttentionArgs& a, const Entry& e, int32_t position) {
  const int64_t n = e.n_cells;
  const auto below = [&](int64_t p) {
    const int64_t i = p * e.div - e.base;
    return static_cast<int32_t>(i < 0 ? 0 : i > n ? n : i);
  };
  Seen s = {0, e.n_cells, 0};
  if (a.op.causal != 0) s.end = below(int64_t{position} + 1);
  if (a.op.window != 0) {
    s.begin = below(int64_t{position} - a.op.window + 1);
    s.first_end = min(below(a.op.n_first), s.end);
  }
  return s;
}
// May a token with a position in [low, high] see any cell?
__device__ inline bool any_sees(const AttentionArgs& a, const Entry& e, int32_t low, int32_t high) {
  if (e.n_cells == 0) return false;
  const int64_t first = e.base;  // of positions times div
  const int64_t last = int64_t{e.base} + e.n_cells - 1;
  if (a.op.causal != 0 && first >= (int64_t{high} + 1) * e.div) return false;
  if (a.op.window == 0) return true;
  return last >= (int64_t{low} - a.op.window + 1) * e.div || first < int64_t{a.op.n_first} * e.div;
}

// --- Items --------------------------------------------------------------------------------------

constexpr float kDeepUnits = 48;  // of a wanted item, with four units an entry

constexpr int32_t kWhole = 0x3fffffff;  // units of a chunk where nothing is cut

// What all items have in common. Every warp finds it by itself.
struct Cut {
  int32_t n_items;
  int32_t chunk_units;
};

__device__ inline int32_t warp_sum(int32_t x) { return __reduce_add_sync(0xffffffffu, x); }
__device__ inline int32_t div_up(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Divisions are dear: what is usual needs none.
__device__ inline int32_t seq_tiles(const AttentionArgs& a, const Range& tokens) {
  const int32_t rows = tokens.size() * a.group;
  return rows <= a.tile_rows ? min(rows, 1) : div_up(rows, a.tile_rows);
}
__device__ inline int32_t seq_chunks(const Cut& c, int32_t n_units) {
  return n_units <= c.chunk_units ? 1 : div_up(n_units, c.chunk_units);
}

// Of the lane's sequence, first + lane; zeros when there is none.
struct SeqSize {
  int32_t tiles, units;
};
__device__ inline SeqSize seq_size(const AttentionArgs& a, const Table& t, int32_t first) {
  const int32_t seq = first + static_cast<int32_t>(threadIdx.x % 32);
  if (seq >= t.n_seqs) return {0, 0};
  if (first != 0) return {seq_tiles(a, t.tokens(seq)), t.entries(seq).size() * a.entry_units};
  return {seq_tiles(a, table_range(t.spans, t.n_tokens)),
          table_range(t.starts, t.n_entries).size() * a.entry_units};
}

__device__ inline int32_t count_items(const AttentionArgs& a, const Table& t, const Cut& c) {
  int32_t items = 0;
  for (int32_t first = 0; first < t.n_seqs; first += 32) {
    const SeqSize size = seq_size(a, t, first);
    items += size.tiles * a.n_kv_heads * seq_chunks(c, size.units);
  }
  return warp_sum(items);
}

__device__ inline bool is_deep(const AttentionArgs& a, float share, int32_t tiles) {
  // Where tiles are few, chunks of them come out even.
  return share * 4 >= kDeepUnits * static_cast<float>(a.entry_units) && tiles * 4 > a.target_items;
}

// Of a table that has one sequence at most: every lane knows it.
__device__ inline Cut cut_only(const AttentionArgs& a, const Table& t) {
  if (t.n_seqs == 0) return {0, kWhole};
  const int32_t tiles = seq_tiles(a, table_range(t.spans, t.n_tokens)) * a.n_kv_heads;
  const int32_t units = table_range(t.starts, t.n_entries).size() * a.entry_units;
  if (units <= a.whole_units || tiles >= cut_below(a.target_items, a.deep_chunks) || tiles == 0)
    return {tiles, kWhole};
  int32_t most = a.target_items;
  const float share = static_cast<float>(tiles) * static_cast<float>(units);
  if (is_deep(a, share / static_cast<float>(most), tiles)) most *= a.deep_chunks;
  const int32_t chunks = max(1, most / tiles);
  Cut c = {0, max(div_up(units, chunks), a.least_units)};
  c.n_items = tiles * seq_chunks(c, units);
  return c;
}

__device__ inline Cut cut_items(const AttentionArgs& a, const Table& t) {
  if (t.max_seqs == 1) return cut_only(a, t);
  int32_t tiles = 0;
  int32_t longest = 0;
  float work = 0;  // tiles times units; only sizes chunks
  for (int32_t first = 0; first < t.n_seqs; first += 32) {
    const SeqSize size = seq_size(a, t, first);
    tiles += size.tiles * a.n_kv_heads;
    longest = max(longest, size.units);
    work += static_cast<float>(size.tiles * a.n_kv_heads) * static_cast<float>(size.units);
  }
  tiles = warp_sum(tiles);
  longest = __reduce_max_sync(0xffffffffu, longest);
  Cut c = {tiles, kWhole};
  if (longest <= a.whole_units || tiles >= cut_below(a.target_items, a.deep_chunks)) return c;
  for (int offset = 16; offset > 0; offset /= 2) work += __shfl_xor_sync(0xffffffffu, work, offset);
  int32_t most = a.target_items;
  float share = work / static_cast<float>(most);
  if (is_deep(a, share, tiles)) {
    most *= a.deep_chunks;
    share = work / static_cast<float>(most);
  }
  c.chunk_units = max(static_cast<int32_t>(share) + 1, a.least_units);
  c.n_items = count_items(a, t, c);
  // One chunk more than there are blocks would cost as much as another round of them.
  for (int i = 0; i < 4 && c.n_items > most && c.chunk_units < longest; ++i) {
    c.chunk_units += div_up(c.chunk_units * (c.n_items - most), most);
    c.n_items = count_items(a, t, c);
  }
  return c;
}

struct Item {
  Range tokens;         // of the sequence
  Range units;          // of the chunk, counted from the sequence's first entry
  int32_t first_entry;  // of the sequence
  int32_t kv_head;
  int32_t first_row, n_rows;     // rows are counted over the sequence: token * group + head
  int32_t n_chunks, first_slot;  // of the tile
};

// Items before the sequence's first; its place.
struct SeqPlace {
  int32_t seq, before;
};
// The sequence for which `is_mine(seq, items before, its items)`; seq -1: none. All lanes agree.
template <class IsMine>
__device__ SeqPlace find_seq(const AttentionArgs& a, const Table& t, const Cut& c, IsMine is_mine) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  int32_t before = 0;
  for (int32_t first = 0; first < t.n_seqs; first += 32) {
    const int32_t seq = first + lane;
    const SeqSize size = seq_size(a, t, first);
    const int32_t mine = size.tiles * a.n_kv_heads * seq_chunks(c, size.units);
    int32_t until = mine;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, until, offset);
      if (lane >= offset) until += other;
    }
    const bool hit = seq < t.n_seqs && is_mine(seq, before + until - mine, mine);
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    if (hits != 0) {
      const int owner = __ffs(static_cast<int>(hits)) - 1;
      return {first + owner, __shfl_sync(0xffffffffu, before + until - mine, owner)};
    }
    before += __shfl_sync(0xffffffffu, until, 31);
  }
  return {-1, before};
}

// Tiles with the longest past first.
__device__ inline bool find_item(const AttentionArgs& a, const Table& t, const Cut& c, int32_t i,
                                 Item& out) {
  SeqPlace place = {0, 0};
  Range entries;
  if (t.max_seqs == 1) {
    out.tokens = table_range(t.spans, t.n_tokens);
    entries = table_range(t.starts, t.n_entries);
  } else {
    place = find_seq(
        a, t, c, [&](int32_t, int32_t before, int32_t n) { return i >= before && i < before + n; });
    if (place.seq < 0) return false;
    out.tokens = t.tokens(place.seq);
    entries = t.entries(place.seq);
  }
  const int32_t n_tiles = seq_tiles(a, out.tokens);
  const int32_t n_units = entries.size() * a.entry_units;
  out.n_chunks = seq_chunks(c, n_units);
  const int32_t at = i - place.before;
  const int32_t rest = out.n_chunks == 1 ? at : at / out.n_chunks;
  const int32_t chunk = at - rest * out.n_chunks;
  const int32_t before = n_tiles == 1 ? 0 : rest / a.n_kv_heads;
  out.kv_head = rest - before * a.n_kv_heads;
  const int32_t tile = n_tiles - 1 - before;
  out.first_entry = entries.begin;
  out.first_slot = i - chunk;
  // Chunks of one size, or one unit less.
  const int32_t least = out.n_chunks == 1 ? n_units : n_units / out.n_chunks;
  const int32_t larger = n_units - least * out.n_chunks;
  out.units.begin = chunk * least + min(chunk, larger);
  out.units.end = out.units.begin + least + (chunk < larger ? 1 : 0);
  out.first_row = tile * a.tile_rows;
  out.n_rows = min(a.tile_rows, out.tokens.size() * a.group - out.first_row);
  return true;
}

// --- Rows ---------------------------------------------------------------------------------------

__device__ inline int32_t row_token(const AttentionArgs& a, const Item& item, int32_t row) {
  if (item.tokens.size() == 1) return item.tokens.begin;
  return item.tokens.begin + (item.first_row + row) / a.group;
}
__device__ inline int32_t row_head(const AttentionArgs& a, const Item& item, int32_t row) {
  if (item.tokens.size() == 1) return item.kv_head * a.group + item.first_row + row;
  return item.kv_head * a.group + (item.first_row + row) % a.group;
}
__device__ inline const char* query_row(const AttentionArgs& a, int32_t token, int32_t head) {
  return reinterpret_cast<const char*>(a.q) + token * a.q_stride2 + head * a.q_stride1;
}
__device__ inline float* out_row(const AttentionArgs& a, int32_t token, int32_t head) {
  return reinterpret_cast<float*>(a.out) + (int64_t{token} * a.n_heads + head) * a.dim_v;
}
__device__ inline const char* k_head(const AttentionArgs& a, const Entry& e, int32_t kv_head) {
  return reinterpret_cast<const char*>(a.k_state) + int64_t{e.page} * a.k.page_bytes +
         int64_t{kv_head} * a.k.head_bytes;
}
__device__ inline const char* v_head(const AttentionArgs& a, const Entry& e, int32_t kv_head) {
  return reinterpret_cast<const char*>(a.v_state) + int64_t{e.page} * a.v.page_bytes +
         int64_t{kv_head} * a.v.head_bytes;
}
// Column i is the i-th cell of the token's own sequence; beyond the last nothing is seen.
__device__ inline float mask_at(const AttentionArgs& a, int32_t token, int32_t head, int64_t i) {
  if (i >= a.n_mask_columns) return -infinity();
  const char* row =
      reinterpret_cast<const char*>(a.mask) + token * a.mask_stride1 + head * a.mask_stride2;
  return float_at(a.mask_dtype, row, i);
}
// A row's result is its sums times this; nothing seen and no sink: zeros.
__device__ inline float row_factor(const AttentionArgs& a, int32_t head, float largest,
                                   float denominator) {
  float less = 1.0f;
  if (a.sinks != 0) {
    const float sink = reinterpret_cast<const float*>(a.sinks)[head];
    const float top = fmaxf(largest, sink);
    if (top != -infinity()) {
      less = expf(largest - top);
      denominator = denominator * less + expf(sink - top);
    }
  }
  return denominator == 0.0f ? 0.0f : less / denominator;
}
#endif

}  // namespace mica::cuda
