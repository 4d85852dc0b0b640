// How one attention call is cut into work: what a kernel is given, the cache table, which cells a
// token sees, and the items. Included by attention's files only.
//
// A tile is some query rows (token, query head of the group) of one sequence and kv head, a chunk
// some of the sequence's table entries, an item a tile and a chunk. Where tiles alone are too few
// to fill the device, entries are cut in chunks whose partial results a second launch merges, in
// order. The cut depends on shapes, the device and the table alone.
#pragma once
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/kv.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"

namespace mica::cuda {

enum AttentionInput { kQ, kK, kV, kPositions, kTable, kMask, kSinks };

struct AttentionArgs {
  KvPage k, v;
  uint64_t k_state, v_state;
  uint64_t q, positions, table, mask, sinks, out;
  uint64_t parts;  // of chunks: [slot][rows of a tile] sums [dim_v_pad], largest, denominator
  uint64_t live;   // of the tokens
  int64_t q_stride1, q_stride2;        // bytes
  int64_t mask_stride1, mask_stride2;  // bytes
  mica_dtype q_dtype, mask_dtype;
  int32_t dim_k, dim_v, dim_v_pad;
  int32_t n_tokens, n_heads, n_kv_heads, group;
  int32_t n_pages, n_table_words, n_mask_columns;
  int32_t target_items;  // wanted at least; 0: never cut entries
  int32_t deep_chunks;   // for each of these where there is much to do, so that all end together
  int32_t tile_rows;
  bool q_wide;  // F32 that 16-byte loads may read
  mica_attention_args op;
};

// Entries are cut where there are fewer tiles (of all kv heads) than this.
MICA_HD int32_t cut_below(int32_t target_items, int32_t deep_chunks) {
  return deep_chunks > 1 ? 2 * target_items : target_items;
}
// Items that keep a partial result are fewer than this: chunks wanted, and one more a tile.
inline int64_t max_slots(const AttentionArgs& a) {
  return int64_t{a.target_items} * a.deep_chunks + cut_below(a.target_items, a.deep_chunks);
}
inline int64_t slot_floats(const AttentionArgs& a) {
  return int64_t{a.tile_rows} * (a.dim_v_pad + 2);
}

inline bool attention_args(const Call& call, int32_t tile_rows, int32_t target, int32_t deep_chunks,
                           AttentionArgs& out) {
  const Tensor& q = call.in[kQ];
  const Tensor& k = call.in[kK];
  const Tensor& v = call.in[kV];
  const Tensor& mask = call.in[kMask];
  AttentionArgs a = {};
  const auto u32 = [](int64_t x) { return static_cast<uint32_t>(x); };
  const auto i32 = [](int64_t x) { return static_cast<int32_t>(x); };
  if (!kv_page(k.dtype, u32(k.dim[0]), u32(k.dim[1]), a.k)) return false;
  if (!kv_page(v.dtype, u32(v.dim[0]), u32(v.dim[1]), a.v)) return false;
  a.k_state = k.address;
  a.v_state = v.address;
  a.q = q.address;
  a.positions = call.in[kPositions].address;
  a.table = call.in[kTable].address;
  a.mask = mask.absent() ? 0 : mask.address;
  a.sinks = call.in[kSinks].absent() ? 0 : call.in[kSinks].address;
  a.out = call.out.address;
  a.parts = call.workspace;
  a.live = q.live;
  a.q_stride1 = q.stride[1];
  a.q_stride2 = q.stride[2];
  a.mask_stride1 = mask.stride[1];
  a.mask_stride2 = mask.dim[2] == 1 ? 0 : mask.stride[2];
  a.q_dtype = q.dtype;
  a.mask_dtype = mask.dtype;
  a.dim_k = i32(q.dim[0]);
  a.dim_v = i32(v.dim[0]);
  a.dim_v_pad = (a.dim_v + 15) / 16 * 16;
  a.n_tokens = i32(q.dim[2]);
  a.n_heads = i32(q.dim[1]);
  a.n_kv_heads = i32(k.dim[1]);
  a.group = a.n_heads / a.n_kv_heads;
  const int64_t cells = k.dim[2] < v.dim[2] ? k.dim[2] : v.dim[2];
  a.n_pages = i32(cells / kPageCells);
  a.n_table_words = i32(call.in[kTable].dim[0]);
  a.n_mask_columns = a.mask != 0 ? i32(mask.dim[0]) : 0;
  a.target_items = target;
  a.deep_chunks = deep_chunks;
  a.tile_rows = tile_rows;
  const int64_t place = static_cast<int64_t>(q.address) | q.stride[1] | q.stride[2];
  a.q_wide = q.dtype == MICA_F32 && place % 16 == 0 && q.dim[0] % 4 == 0;
  a.op = call.arg<mica_attention_args>();
  out = a;
  return true;
}

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

struct Table {
  const int32_t* words;
  int32_t max_seqs, n_seqs, n_entries, n_tokens;
  int32_t spans[2], starts[2];  // of the sequence with this lane's number

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
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
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

struct Entry {
  int32_t page, first_cell, n_cells, base, div;
};
__device__ inline Entry raw_entry(const Table& t, int32_t i) {
  const int32_t* w = t.words + MICA_KV_TABLE_ENTRIES(t.max_seqs) + i * MICA_KV_ENTRY_WORDS;
  return {w[0], w[1], w[2], w[3], w[4]};
}
// One that names no cells of the cache has n_cells 0. All words are looked at, so that none is
// loaded only after another.
__device__ inline Entry checked_entry(const AttentionArgs& a, const Entry& e) {
  const bool good = (e.page >= 0) & (e.page < a.n_pages) & (e.first_cell >= 0) &
                    (e.first_cell < kPageCells) & (e.n_cells >= 0) &
                    (e.n_cells <= kPageCells - e.first_cell) & (e.div >= 1);
  if (good) return e;
  return {0, 0, 0, 0, 1};
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

constexpr int32_t kWholeEntries = 4;  // so few are never cut: the second launch costs more
constexpr float kDeepEntries = 12;    // of a wanted item: there is much to do

// What all items have in common. Every warp finds it by itself.
struct Cut {
  int32_t n_items;
  int32_t chunk_entries;
  bool whole;  // no sequence has several chunks
};

__device__ inline int32_t warp_sum(int32_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline int32_t div_up(int32_t a, int32_t b) { return (a + b - 1) / b; }

__device__ inline int32_t seq_tiles(const AttentionArgs& a, const Range& tokens) {
  return div_up(tokens.size() * a.group, a.tile_rows);
}
__device__ inline int32_t seq_chunks(const Cut& c, int32_t n_entries) {
  return max(1, div_up(n_entries, c.chunk_entries));
}

// Of the lane's sequence, first + lane; zeros when there is none.
struct SeqSize {
  int32_t tiles, entries;
};
__device__ inline SeqSize seq_size(const AttentionArgs& a, const Table& t, int32_t first) {
  const int32_t seq = first + static_cast<int32_t>(threadIdx.x % 32);
  if (seq >= t.n_seqs) return {0, 0};
  if (first != 0) return {seq_tiles(a, t.tokens(seq)), t.entries(seq).size()};
  return {seq_tiles(a, table_range(t.spans, t.n_tokens)),
          table_range(t.starts, t.n_entries).size()};
}

__device__ inline Cut cut_items(const AttentionArgs& a, const Table& t) {
  int32_t tiles = 0;
  int32_t longest = 0;
  float work = 0;  // tiles times entries; only sizes chunks
  for (int32_t first = 0; first < t.n_seqs; first += 32) {
    const SeqSize size = seq_size(a, t, first);
    tiles += size.tiles;
    longest = max(longest, size.entries);
    work += static_cast<float>(size.tiles) * static_cast<float>(size.entries);
  }
  tiles = warp_sum(tiles);
  const bool is_long = __any_sync(0xffffffffu, longest > kWholeEntries);
  Cut c = {0, 0x3fffffff, true};
  if (!is_long || tiles * a.n_kv_heads >= cut_below(a.target_items, a.deep_chunks)) {
    c.n_items = tiles * a.n_kv_heads;
    return c;
  }
  for (int offset = 16; offset > 0; offset /= 2) work += __shfl_xor_sync(0xffffffffu, work, offset);
  float share = work * static_cast<float>(a.n_kv_heads) / static_cast<float>(a.target_items);
  if (share >= kDeepEntries) share /= static_cast<float>(a.deep_chunks);
  c.chunk_entries = static_cast<int32_t>(share) + 1;
  int32_t items = 0;
  for (int32_t first = 0; first < t.n_seqs; first += 32) {
    const SeqSize size = seq_size(a, t, first);
    items += size.tiles * a.n_kv_heads * seq_chunks(c, size.entries);
  }
  c.n_items = warp_sum(items);
  c.whole = !__any_sync(0xffffffffu, longest > c.chunk_entries);
  return c;
}

struct Item {
  Range tokens;         // of the sequence
  Range entries;        // of the chunk
  int32_t first_entry;  // of the sequence
  int32_t kv_head;
  int32_t first_row, n_rows;  // rows are counted over the sequence: token * group + head
  int32_t n_chunks;
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
    const int32_t mine = size.tiles * a.n_kv_heads * seq_chunks(c, size.entries);
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
  const SeqPlace place = find_seq(
      a, t, c, [&](int32_t, int32_t before, int32_t n) { return i >= before && i < before + n; });
  if (place.seq < 0) return false;
  out.tokens = t.tokens(place.seq);
  const Range entries = t.entries(place.seq);
  const int32_t n_tiles = seq_tiles(a, out.tokens);
  out.n_chunks = seq_chunks(c, entries.size());
  const int32_t at = i - place.before;
  const int32_t chunk = at % out.n_chunks;
  const int32_t rest = at / out.n_chunks;
  out.kv_head = rest % a.n_kv_heads;
  const int32_t tile = n_tiles - 1 - rest / a.n_kv_heads;
  out.first_entry = entries.begin;
  // Chunks of one size, or one entry less.
  const int32_t least = entries.size() / out.n_chunks;
  const int32_t rest_entries = entries.size() - least * out.n_chunks;
  out.entries.begin = entries.begin + chunk * least + min(chunk, rest_entries);
  out.entries.end = out.entries.begin + least + (chunk < rest_entries ? 1 : 0);
  out.first_row = tile * a.tile_rows;
  out.n_rows = min(a.tile_rows, out.tokens.size() * a.group - out.first_row);
  return true;
}

// --- Rows ---------------------------------------------------------------------------------------

__device__ inline int32_t row_token(const AttentionArgs& a, const Item& item, int32_t row) {
  return item.tokens.begin + (item.first_row + row) / a.group;
}
__device__ inline int32_t row_head(const AttentionArgs& a, const Item& item, int32_t row) {
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
