// A tile's memory, what it sees of an entry, and the online softmax of its rows. Included by
// attention.cpp only.
#pragma once
#include "backends/cpu/kernels/attention/attention_task.h"

MICA_CPU_BEGIN

// A thread's memory.
struct Scratch {
  float* q;        // [dim_k][n_rows], scaled and rotated for the tile's turn
  float* plain_q;  // the same, not rotated: of un-rotated keys, which rotate q for each entry
  float* angles;   // of un-rotated keys: see key_angles in attention_tile.h
  float* sums;     // [n_rows][dim_v_pad]
  float* scores;   // [n_rows][64]: scores, then their exponentials
  float* largest;  // [n_rows]
  float* denom;    // [n_rows][16]: lanes not yet added up
  float* k;        // decoded page
  float* v;
  Seen* seen;        // [tokens]
  uint64_t* hidden;  // [n_rows], bits by cell: those without a weight
};

static uint64_t carve(const Shape& s, char* base, Scratch* out) {
  const uint64_t start = reinterpret_cast<uintptr_t>(base);
  uint64_t at = (start + 63) / 64 * 64;
  const auto take = [&](int64_t bytes) {
    char* p = reinterpret_cast<char*>(at);
    at += (static_cast<uint64_t>(bytes) + 63) / 64 * 64;
    return p;
  };
  const int64_t rows = s.max_rows;
  const auto floats = [&](int64_t n) { return reinterpret_cast<float*>(take(n * 4)); };
  out->q = floats(rows * s.dim_k);
  out->plain_q = floats(s.n_key_pairs != 0 ? rows * s.dim_k : 0);
  out->angles = floats(s.n_key_pairs * kPageCells * 2);
  out->sums = floats(rows * s.dim_v_pad);
  out->scores = floats(rows * kPageCells);
  out->largest = floats(rows);
  out->denom = floats(rows * 16);
  out->k = floats(kPageCells * max_i64(s.k.row_elems, s.dim_k));
  out->v = floats(kPageCells * s.dim_v_pad);
  out->seen = reinterpret_cast<Seen*>(take(s.max_rows * static_cast<int64_t>(sizeof(Seen))));
  out->hidden = reinterpret_cast<uint64_t*>(take(s.max_rows * 8));
  return at - start + 64;
}

struct Tile {
  const Call* call;
  const mica_attention_args* args;
  const Shape* shape;
  Scratch scratch;
  int64_t kv_head;
  int64_t token0, n_tokens;
  int64_t n_rows;  // row = token * group + query head in the group
  int64_t turn;    // of scratch.q
};

template <class E>
static void load_queries(const Tile& t) {
  const Tensor& q = t.call->in[MICA_ATTENTION_Q];
  const int64_t group = t.shape->group;
  const f32x16 scale = set1(t.args->scale);
  for (int64_t row = 0; row < t.n_rows; ++row) {
    const char* from = q.data + (t.token0 + row / group) * q.stride[2] +
                       (t.kv_head * group + row % group) * q.stride[1];
    const typename E::T* x = reinterpret_cast<const typename E::T*>(from);
    for (int64_t i = 0; i < t.shape->dim_k; i += 16) {
      const int64_t n = min_i64(16, t.shape->dim_k - i);
      float lanes[16];
      store(lanes, (n == 16 ? E::get(x + i) : E::get_n(x + i, n)) * scale);
      for (int64_t j = 0; j < n; ++j) t.scratch.q[(i + j) * t.n_rows + row] = lanes[j];
    }
  }
}

// Elements d0 and d1 of all queries, from `from` to scratch.q.
static inline void rotate_pair(const Tile& t, const float* from, int64_t d0, int64_t d1,
                               float cosine, float sine) {
  const int64_t n = t.n_rows;
  const f32x16 c = set1(cosine), s = set1(sine);
  for (int64_t row = 0; row < n; row += 16) {
    const int64_t lanes = min_i64(16, n - row);
    const f32x16 x0 = load_n(from + d0 * n + row, lanes);
    const f32x16 x1 = load_n(from + d1 * n + row, lanes);
    store_n(t.scratch.q + d0 * n + row, fnma(x1, s, x0 * c), lanes);
    store_n(t.scratch.q + d1 * n + row, fma(x1, c, x0 * s), lanes);
  }
}

static void rotate_queries(const Tile& t, int64_t turn) {
  turn_pairs(*t.call, turn, [&](int64_t d0, int64_t d1, float cosine, float sine) {
    rotate_pair(t, t.scratch.q, d0, d1, cosine, sine);
  });
}

// Of un-rotated keys, which key_operand rotates by their cell's number in the page alone: to the
// position of cell 0, backwards. Entries whose positions are divided rotate their keys whole.
static void rotate_queries_to(const Tile& t, const Entry& e) {
  const float* by = turn_row(*t.call, e.turn);
  const int64_t offset = e.base % kPageCells - e.first_cell;  // may lie before the multiple of 64
  const float* rest = turn_row(*t.call, offset < 0 ? -offset : offset);
  const float sign = offset < 0 ? -1.0f : 1.0f;
  each_pair(*t.call, [&](int64_t i, int64_t d0, int64_t d1) {
    const float c0 = by[2 * i], s0 = by[2 * i + 1], c1 = rest[2 * i], s1 = sign * rest[2 * i + 1];
    rotate_pair(t, t.scratch.plain_q, d0, d1, c0 * c1 - s0 * s1, -(s0 * c1 + c0 * s1));
  });
}

static void load_queries_of(const Tile& t) {
  const mica_dtype dtype = t.call->in[MICA_ATTENTION_Q].dtype;
  if (dtype == MICA_F16) {
    load_queries<ElemF16>(t);
  } else if (dtype == MICA_BF16) {
    load_queries<ElemBF16>(t);
  } else {
    load_queries<ElemF32>(t);
  }
}

// The queries as they meet the entry's keys. Entries in a row mostly have the same turn, and then
// nothing is done; but un-rotated keys have one each.
static const float* query_operand(Tile& t, const Entry& e) {
  if (t.shape->n_key_pairs == 0) {
    if (e.turn == t.turn) return t.scratch.q;
    load_queries_of(t);
    if (e.turn != 0) rotate_queries(t, e.turn);
    t.turn = e.turn;
    return t.scratch.q;
  }
  if (t.turn == kNoTurn) {
    load_queries_of(t);
    for (int64_t i = 0; i < t.n_rows * t.shape->dim_k; ++i) t.scratch.plain_q[i] = t.scratch.q[i];
    t.turn = 0;
  }
  if (e.div != 1) return t.scratch.plain_q;
  rotate_queries_to(t, e);
  return t.scratch.q;
}

// What the tile sees of an entry, and the rows that see anything.
struct View {
  int64_t row0, row1;
  int64_t cell0, cell1;
  int64_t column;  // of the mask: that of cell 0 of the page
};

static bool view_entry(const Tile& t, const Entry& e, View* view) {
  const int32_t* positions =
      reinterpret_cast<const int32_t*>(t.call->in[MICA_ATTENTION_POSITIONS].data);
  int64_t first = t.n_tokens;
  int64_t last = -1;
  view->cell0 = kPageCells;
  view->cell1 = 0;
  for (int64_t i = 0; i < t.n_tokens; ++i) {
    const Seen s = seen_cells(e, *t.args, positions[t.token0 + i]);
    t.scratch.seen[i] = s;
    if (!sees_any(s)) continue;
    first = min_i64(first, i);
    last = i;
    view->cell0 = min_i64(view->cell0, seen_from(s));
    view->cell1 = max_i64(view->cell1, seen_to(s));
  }
  view->row0 = first * t.shape->group;
  view->row1 = (last + 1) * t.shape->group;
  return last >= 0;
}

static f32x16 lowest() { return set1(-__builtin_inff()); }

// Mask values of a row for the cells of the view, at their place in `to` (64 + 16 floats).
static void load_mask(const Tile& t, int64_t row, const View& w, float* to) {
  const Tensor& mask = t.call->in[MICA_ATTENTION_MASK];
  const int64_t group = t.shape->group;
  const int64_t head = mask.dim[2] == 1 ? 0 : t.kv_head * group + row % group;
  const char* line = mask.data + (t.token0 + row / group) * mask.stride[1] + head * mask.stride[2];
  for (int64_t c = w.cell0; c < w.cell1; c += 16) {
    const int64_t column = w.column + c;
    const int64_t n = max_i64(0, min_i64(min_i64(16, w.cell1 - c), mask.dim[0] - column));
    f32x16 x = lowest();  // beyond its columns nothing is seen
    if (n > 0) {
      x = mask.dtype == MICA_F16
              ? ElemF16::get_n(reinterpret_cast<const uint16_t*>(line) + column, n)
              : ElemF32::get_n(reinterpret_cast<const float*>(line) + column, n);
      x = select(mask_first(n), x, lowest());
    }
    store(to + c, x);
  }
}

static mask16 seen_lanes(const Seen& s, int64_t cell) {
  const i32x16 c = iota() + set1_i32(static_cast<int32_t>(cell));
  const mask16 main = mask_and(gt(set1_i32(s.end), c), gt(c, set1_i32(s.begin - 1)));
  const mask16 first = mask_and(gt(set1_i32(s.first_end), c), gt(c, set1_i32(s.first_begin - 1)));
  return mask_or(main, first);
}

// Raw scores of a row to what the softmax is over.
static void finish_scores(const Tile& t, int64_t row, const View& w, int64_t run0, int64_t run1) {
  float* scores = t.scratch.scores + row * kPageCells;
  const Seen& seen = t.scratch.seen[row / t.shape->group];
  const float cap = t.args->softcap;
  float mask[kPageCells + 16];
  const bool masked = t.call->in[MICA_ATTENTION_MASK].data != nullptr;
  if (masked) load_mask(t, row, w, mask);
  for (int64_t run = run0; run < run1; ++run) {
    f32x16 x = load(scores + run * 16);
    if (cap != 0.0f) x = tanh(x / set1(cap)) * set1(cap);
    if (masked) {
      const f32x16 bias = load(mask + run * 16);
      // Not added: a hidden cell's score may be anything.
      x = select(eq(bias, lowest()), lowest(), x + bias);
    }
    store(scores + run * 16, select(seen_lanes(seen, run * 16), x, lowest()));
  }
}

// Scores to exponentials, and what was summed before to the new maximum. kRuns: 4, or 0 for any.
template <int kRuns>
static void softmax_row(const Tile& t, int64_t row, int64_t run0, int64_t run1) {
  float* scores = t.scratch.scores + row * kPageCells;
  const int64_t begin = kRuns == 4 ? 0 : run0;
  const int64_t end = kRuns == 4 ? 4 : run1;
  f32x16 top = load(scores + begin * 16);
  for (int64_t run = begin + 1; run < end; ++run) top = max(load(scores + run * 16), top);
  const float before = t.scratch.largest[row];
  const float page = reduce_max(top);
  const float now = page > before ? page : before;
  float* denom = t.scratch.denom + row * 16;
  // Nothing but -inf so far: exponentials of (-inf) - (-inf) must be 0.
  const f32x16 shift = set1(now == -__builtin_inff() ? 0.0f : now);
  f32x16 sum = zero();
  for (int64_t run = begin; run < end; ++run) {
    const f32x16 p = exp(load(scores + run * 16) - shift);
    store(scores + run * 16, p);
    sum = sum + p;
  }
  if (now == before) {
    store(denom, load(denom) + sum);
    return;
  }
  t.scratch.largest[row] = now;
  float lanes[16];
  store(lanes, exp(set1(before) - shift));
  const f32x16 less = set1(lanes[0]);
  store(denom, fma(load(denom), less, sum));
  float* sums = t.scratch.sums + row * t.shape->dim_v_pad;
  for (int64_t i = 0; i < t.shape->dim_v_pad; i += 16) store(sums + i, load(sums + i) * less);
}

// The cells of the view that have no part in a row's sums, as bits.
static uint64_t hidden_cells(const float* scores, const View& w, int64_t run0, int64_t run1) {
  uint64_t hidden = 0;
  for (int64_t run = run0; run < run1; ++run) {
    hidden |= uint64_t{bits(eq(load(scores + run * 16), lowest()))} << (run * 16);
  }
  return hidden << (kPageCells - w.cell1) >> (kPageCells - w.cell1 + w.cell0) << w.cell0;
}

// False: every row has a weight for every cell of the view.
static bool softmax_rows(const Tile& t, const View& w, int64_t run0, int64_t run1) {
  uint64_t any_hidden = 0;
  const bool plain = t.args->softcap == 0.0f && t.call->in[MICA_ATTENTION_MASK].data == nullptr;
  for (int64_t row = w.row0; row < w.row1; ++row) {
    const Seen& s = t.scratch.seen[row / t.shape->group];
    const bool all = s.begin <= run0 * 16 && s.end >= run1 * 16;
    if (!plain || !all) finish_scores(t, row, w, run0, run1);
    const bool whole = plain && s.begin <= w.cell0 && s.end >= w.cell1;
    t.scratch.hidden[row] =
        whole ? 0 : hidden_cells(t.scratch.scores + row * kPageCells, w, run0, run1);
    any_hidden |= t.scratch.hidden[row];
    if (run0 == 0 && run1 == 4) {
      softmax_row<4>(t, row, run0, run1);
    } else {
      softmax_row<0>(t, row, run0, run1);
    }
  }
  return any_hidden != 0;
}

MICA_CPU_END
