// How one attention call is cut into work: the cache table, which cells a token sees, and the items
// of both phases. Included by attention.cpp only.
//
// A unit is some tokens of one sequence against some of its entries; an item is a unit and a kv
// head. Many tokens: one unit a tile of tokens, all entries, the tile with the longest past first.
// Few tokens (decoding): one tile, and the entries are cut in chunks whose results phase 1 merges,
// in order. The cut depends on shapes and the table alone.
#pragma once
#include "backends/cpu/kernels/attention/kv_page.h"
#include "backends/cpu/simd/simd.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/rope.h"

MICA_CPU_BEGIN

constexpr int64_t kTileRows = 64;        // query rows (token, head) of a tile, or one token's
constexpr int64_t kSplitRows = 16;       // up to here the entries are cut
constexpr int64_t kMinChunkEntries = 4;  // 256 cells: some 10 us of work

struct Shape {
  KvPage k, v;
  int64_t n_tokens, n_heads, n_kv_heads;
  int64_t n_key_pairs;              // rotated when K is read: of un-rotated keys, else 0
  int64_t group;                    // query heads of a kv head
  int64_t dim_k, dim_v, dim_v_pad;  // padded to 16
  int64_t tile_tokens, split_tokens;
  int64_t max_rows;       // of a tile
  int64_t target_chunks;  // wanted of a step, over all sequences
  int64_t max_slots;      // chunks whose results are kept for phase 1
};

static bool attention_shape(const Call& call, Shape* out) {
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& k = call.in[MICA_ATTENTION_K];
  const Tensor& v = call.in[MICA_ATTENTION_V];
  Shape s;
  if (!kv_page(k.dtype, false, k.dim[0], k.dim[1], &s.k)) return false;
  // Of a layer whose V is its K both are one state.
  if (!kv_page(v.dtype, v.layout != kLayoutKPage, v.dim[0], v.dim[1], &s.v)) return false;
  s.n_tokens = q.dim[2];
  s.n_heads = q.dim[1];
  s.n_kv_heads = k.dim[1];
  s.group = s.n_heads / s.n_kv_heads;
  s.dim_k = q.dim[0];
  s.dim_v = v.dim[0];
  s.dim_v_pad = div_up_i64(s.dim_v, 16) * 16;
  s.tile_tokens = max_i64(1, kTileRows / s.group);
  s.split_tokens = max_i64(1, kSplitRows / s.group);
  const mica_attention_args& args = *static_cast<const mica_attention_args*>(call.args);
  s.n_key_pairs = args.rope_keys != 0 ? args.n_rot / 2 : 0;
  s.max_rows = min_i64(s.tile_tokens, s.n_tokens) * s.group;
  s.target_chunks = max_i64(4, min_i64(32, 64 / s.n_kv_heads));
  const int64_t words = call.in[MICA_ATTENTION_TABLE].dim[0];
  const int64_t entries =
      (words - MICA_KV_TABLE_ENTRIES(static_cast<int64_t>(args.max_seqs))) / MICA_KV_ENTRY_WORDS;
  // A sequence that is cut has more than one chunk's entries, so rounding up less than doubles.
  s.max_slots = 2 * min_i64(s.target_chunks, div_up_i64(entries, kMinChunkEntries));
  *out = s;
  return true;
}

// Floats of one kept result: for each kv head its rows' sums, maxima and denominators.
static int64_t slot_rows(const Shape& s) { return min_i64(s.split_tokens, s.n_tokens) * s.group; }
static int64_t slot_head_floats(const Shape& s) { return slot_rows(s) * (s.dim_v_pad + 32); }
static int64_t slot_floats(const Shape& s) { return s.n_kv_heads * slot_head_floats(s); }

// Step data, never trusted: numbers out of range are cut, never followed.
struct Table {
  const int32_t* words;
  int64_t max_seqs, n_seqs, n_entries, n_pages, n_turns;
};

static Table attention_table(const Call& call) {
  const mica_attention_args& args = *static_cast<const mica_attention_args*>(call.args);
  Table t;
  t.words = reinterpret_cast<const int32_t*>(call.in[MICA_ATTENTION_TABLE].data);
  t.max_seqs = args.max_seqs;
  t.n_seqs = max_i64(0, min_i64(t.words[0], t.max_seqs));
  const int64_t room = (call.in[MICA_ATTENTION_TABLE].dim[0] - MICA_KV_TABLE_ENTRIES(t.max_seqs)) /
                       MICA_KV_ENTRY_WORDS;
  const int64_t last = t.words[MICA_KV_TABLE_STARTS(t.max_seqs) + t.n_seqs];
  t.n_entries = max_i64(0, min_i64(last, room));
  t.n_pages =
      min_i64(call.in[MICA_ATTENTION_K].dim[2], call.in[MICA_ATTENTION_V].dim[2]) / kPageCells;
  const Tensor& turns = call.in[MICA_ATTENTION_TURNS];
  t.n_turns = turns.data != nullptr ? turns.dim[1] : 0;
  return t;
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

static Range table_range(const int32_t* words, int64_t limit) {
  const int64_t begin = max_i64(0, min_i64(words[0], limit));
  return {begin, max_i64(begin, min_i64(words[1], limit))};
}
static Range seq_tokens(const Table& t, const Shape& s, int64_t i_seq) {
  return table_range(t.words + MICA_KV_TABLE_SPANS + i_seq, s.n_tokens);
}
static Range seq_entries(const Table& t, int64_t i_seq) {
  return table_range(t.words + MICA_KV_TABLE_STARTS(t.max_seqs) + i_seq, t.n_entries);
}

struct Entry {
  int64_t page, first_cell, n_cells, base, div;
  int64_t turn;  // a row of the turns; of relative keys 0: queries are not rotated

  // Positions from the multiple of 64 that un-rotated keys' turn stands for to that of a cell.
  int64_t offset(int64_t cell) const {
    const int64_t n = (base + cell - first_cell) / div - base / div / kPageCells * kPageCells;
    return max_i64(0, min_i64(n, MICA_KV_OFFSET_TURNS - 1));
  }
};
static Entry table_entry(const Table& t, int64_t i) {
  const int32_t* w = t.words + MICA_KV_TABLE_ENTRIES(t.max_seqs) + i * MICA_KV_ENTRY_WORDS;
  Entry e = {w[MICA_KV_ENTRY_PAGE], w[MICA_KV_ENTRY_FIRST_CELL], w[MICA_KV_ENTRY_N_CELLS],
             w[MICA_KV_ENTRY_BASE], w[MICA_KV_ENTRY_DIV],        w[MICA_KV_ENTRY_TURN]};
  if (e.turn < 0 || e.turn >= t.n_turns) e.turn = 0;
  const bool wrong = e.page < 0 || e.page >= t.n_pages || e.first_cell < 0 || e.n_cells < 0 ||
                     e.first_cell + e.n_cells > kPageCells || e.div < 1;
  if (wrong) e = {0, 0, 0, 0, 1, 0};
  return e;
}

constexpr int64_t kNoTurn = -1;  // of queries that are not loaded yet

static inline const float* turn_row(const Call& call, int64_t turn) {
  const Tensor& turns = call.in[MICA_ATTENTION_TURNS];
  return reinterpret_cast<const float*>(turns.data + turn * turns.stride[1]);
}

// Calls f(i, d0, d1) for each pair of a head's elements that RoPE rotates.
template <class F>
static inline __attribute__((always_inline)) void each_pair(const Call& call, F f) {
  const mica_attention_args& a = *static_cast<const mica_attention_args*>(call.args);
  const int64_t n_pairs = a.n_rot / 2;
  const bool adjacent = a.rope_pairing == MICA_ROPE_ADJACENT;
  const int64_t apart = adjacent ? 1 : n_pairs;
  for (int64_t i = 0; i < n_pairs; ++i) {
    const int64_t d0 = a.rope_offset + (adjacent ? 2 * i : i);
    f(i, d0, d0 + apart);
  }
}

// Calls rotate(d0, d1, cosine, sine) for each pair that a turn rotates.
template <class Rotate>
static inline __attribute__((always_inline)) void turn_pairs(const Call& call, int64_t turn,
                                                             Rotate rotate) {
  const float* angles = turn_row(call, turn);
  each_pair(call, [&](int64_t i, int64_t d0, int64_t d1) {
    rotate(d0, d1, angles[2 * i], angles[2 * i + 1]);
  });
}

// A head of F32, rotated by a turn.
static inline void turn_head(const Call& call, int64_t turn, float* x) {
  turn_pairs(call, turn, [x](int64_t d0, int64_t d1, float cosine, float sine) {
    const float x0 = x[d0], x1 = x[d1];
    x[d0] = x0 * cosine - x1 * sine;
    x[d1] = x0 * sine + x1 * cosine;
  });
}

// The cells of a page that a token sees: [first_begin, first_end) and [begin, end), the former
// before the latter.
struct Seen {
  int32_t first_begin, first_end;
  int32_t begin, end;
};

// Cell i of an entry has position floor((base + i) / div), which is below p just when
// base + i < p * div.
static Seen seen_cells(const Entry& e, const mica_attention_args& args, int64_t position) {
  const int64_t n = e.n_cells;
  const int64_t below = (position + 1) * e.div - e.base;
  const int64_t end = args.causal != 0 ? max_i64(0, min_i64(n, below)) : n;
  int64_t begin = 0;
  int64_t first_end = 0;
  if (args.window != 0) {
    const int64_t oldest = position - static_cast<int64_t>(args.window) + 1;
    begin = max_i64(0, min_i64(end, oldest * e.div - e.base));
    first_end = max_i64(0, min_i64(begin, static_cast<int64_t>(args.n_first) * e.div - e.base));
    if (first_end == begin) begin = first_end = 0;
  }
  const int32_t cell = static_cast<int32_t>(e.first_cell);
  return {cell, cell + static_cast<int32_t>(first_end), cell + static_cast<int32_t>(begin),
          cell + static_cast<int32_t>(end)};
}
static bool sees_any(const Seen& s) { return s.end > s.begin || s.first_end > s.first_begin; }
static int64_t seen_from(const Seen& s) {
  return s.first_end > s.first_begin ? s.first_begin : s.begin;
}
static int64_t seen_to(const Seen& s) { return s.end > s.begin ? s.end : s.first_end; }

// A sequence's part of the cut.
struct SeqCut {
  Range tokens, entries;
  int64_t n_tiles, n_chunks;
  int64_t slot;  // of its first chunk; -1: not cut
};

struct Cut {
  Shape shape;
  Table table;
  int64_t chunk_entries;
};

static Cut attention_cut(const Call& call) {
  Cut c;
  attention_shape(call, &c.shape);
  c.table = attention_table(call);
  const int64_t n = c.table.n_entries;
  c.chunk_entries = max_i64(max_i64(kMinChunkEntries, min_i64(2 * kMinChunkEntries, n / 4)),
                            div_up_i64(n, c.shape.target_chunks));
  return c;
}

// Advances `slot` past what the sequence keeps.
static SeqCut cut_seq(const Cut& c, int64_t i_seq, int64_t* slot) {
  SeqCut s;
  s.tokens = seq_tokens(c.table, c.shape, i_seq);
  s.entries = seq_entries(c.table, i_seq);
  s.n_tiles = div_up_i64(s.tokens.size(), c.shape.tile_tokens);
  s.n_chunks = 1;
  s.slot = -1;
  if (s.tokens.size() > 0 && s.tokens.size() <= c.shape.split_tokens) {
    const int64_t n = div_up_i64(s.entries.size(), c.chunk_entries);
    // Tables whose entries overlap could want more than was reserved.
    if (n > 1 && *slot + n <= c.shape.max_slots) {
      s.n_chunks = n;
      s.slot = *slot;
      *slot += n;
    }
  }
  return s;
}

// The tokens before the first and behind the last sequence: their results are zeros.
static Range covered_tokens(const Cut& c) {
  if (c.table.n_seqs == 0) return {0, 0};
  return {seq_tokens(c.table, c.shape, 0).begin,
          seq_tokens(c.table, c.shape, c.table.n_seqs - 1).end};
}

struct Unit {
  Range tokens, entries;
  int64_t first_entry;  // of the sequence
  int64_t slot;         // -1: the result is final
};

static int64_t count_units(const Cut& c) {
  int64_t n = 0;
  int64_t slot = 0;
  for (int64_t i = 0; i < c.table.n_seqs; ++i) {
    const SeqCut s = cut_seq(c, i, &slot);
    n += s.n_tiles * s.n_chunks;
  }
  const Range covered = covered_tokens(c);
  return covered.begin == 0 && covered.end == c.shape.n_tokens ? n : n + 1;
}

// False for the unit of tokens that no sequence has.
static bool find_unit(const Cut& c, int64_t index, Unit* out) {
  int64_t slot = 0;
  for (int64_t i = 0; i < c.table.n_seqs; ++i) {
    const SeqCut s = cut_seq(c, i, &slot);
    const int64_t n = s.n_tiles * s.n_chunks;
    if (index >= n) {
      index -= n;
      continue;
    }
    out->tokens = s.tokens;
    out->entries = s.entries;
    out->first_entry = s.entries.begin;
    out->slot = -1;
    if (s.n_chunks > 1) {
      out->entries.begin = s.entries.begin + s.entries.size() * index / s.n_chunks;
      out->entries.end = s.entries.begin + s.entries.size() * (index + 1) / s.n_chunks;
      out->slot = s.slot + index;
    } else {
      const int64_t tile = s.n_tiles - 1 - index;
      out->tokens.begin = s.tokens.begin + tile * c.shape.tile_tokens;
      out->tokens.end = min_i64(s.tokens.end, out->tokens.begin + c.shape.tile_tokens);
    }
    return true;
  }
  return false;
}

// The sequences that phase 1 merges.
static int64_t count_merges(const Cut& c) {
  int64_t n = 0;
  int64_t slot = 0;
  for (int64_t i = 0; i < c.table.n_seqs; ++i) n += cut_seq(c, i, &slot).n_chunks > 1 ? 1 : 0;
  return n;
}
static bool find_merge(const Cut& c, int64_t index, SeqCut* out) {
  int64_t slot = 0;
  for (int64_t i = 0; i < c.table.n_seqs; ++i) {
    *out = cut_seq(c, i, &slot);
    if (out->n_chunks > 1 && index-- == 0) return true;
  }
  return false;
}

MICA_CPU_END
