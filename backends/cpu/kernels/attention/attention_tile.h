// The arithmetic of a tile of query rows against one page of one kv head. Included by attention.cpp
// only.
//
// Both products are one micro-kernel, R rows by V vectors in registers: scores = Q K with the lanes
// over cells, sums += P V with the lanes over V's elements. K and V of F32, F16 and BF16 are read
// where they are when few rows use them; else, and of quantized types, a page's part is decoded to
// F32 once.
#pragma once
#include "backends/cpu/kernels/attention/attention_blocks.h"
#include "backends/cpu/kernels/attention/attention_task.h"
#include "backends/cpu/kernels/attention/kv_page.h"
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN

// Row r, step k of the left operand is a[r * kRowStride + k * s_k]; step k, vector v of the right
// one b[k * s_bk + v * s_bv].
struct PanelArgs {
  const float* a;
  int64_t s_k;
  const void* b;
  int64_t s_bk, s_bv;
  int64_t n_k;
  float* c;
  int64_t s_c;  // a row of c
  // Pages lie anywhere and the hardware does not see the next one coming: each step asks for two of
  // its lines, so that they come while this one is worked on.
  const char* ahead;
  int64_t s_ahead;  // 128, or 0 when there is nothing to ask for
};
constexpr int64_t kAheadBytes = 128;

template <class E, int R, int V, int kRowStride, bool kAdd>
static __attribute__((noinline)) void panel(const PanelArgs& p) {
  f32x16 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = kAdd ? load(p.c + r * p.s_c + v * 16) : zero();
  }
  const float* a = p.a;
  const typename E::T* b = static_cast<const typename E::T*>(p.b);
  const int64_t s_bv = p.s_bv;
  const char* ahead = p.ahead;
  for (int64_t k = p.n_k; k > 0; --k, a += p.s_k, b += p.s_bk, ahead += p.s_ahead) {
    __builtin_prefetch(ahead, 0, 2);
    __builtin_prefetch(ahead + 64, 0, 2);
    f32x16 x[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) x[v] = E::get(b + v * s_bv);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const f32x16 w = set1(a[r * kRowStride]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = fma(w, x[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(p.c + r * p.s_c + v * 16, sum[r][v]);
  }
}

// Registers: R * V sums, V loads, one broadcast; a vector takes one of 32, two of 16, four of 16.
// Beyond kDirectRows rows F16 and BF16 are widened once instead of by every block of rows.
#if defined(__AVX512F__)
constexpr int kMaxRows = 8;
constexpr int64_t kDirectRows = 4 * kMaxRows;
template <int R>
constexpr int kVectors = R <= 6 ? 4 : 2;
#elif defined(__AVX2__)
constexpr int kMaxRows = 6;
constexpr int64_t kDirectRows = 2 * kMaxRows;
template <int R>
constexpr int kVectors = R <= 3 ? 2 : 1;
#else
constexpr int kMaxRows = 2;
constexpr int64_t kDirectRows = kMaxRows;
template <int R>
constexpr int kVectors = 1;
#endif

// R rows over n_v vectors.
template <class E, int R, int kRowStride, bool kAdd>
static void row_block(PanelArgs p, int64_t n_v) {
  const int64_t vector = p.s_bv * static_cast<int64_t>(sizeof(typename E::T));
  const char* b = static_cast<const char*>(p.b);
  float* c = p.c;
  int64_t v = 0;
  for (; v + kVectors<R> <= n_v; v += kVectors<R>) {
    p.b = b + v * vector;
    p.c = c + v * 16;
    panel<E, R, kVectors<R>, kRowStride, kAdd>(p);
    p.ahead += p.n_k * p.s_ahead;
  }
  for (; v < n_v; ++v) {
    p.b = b + v * vector;
    p.c = c + v * 16;
    panel<E, R, 1, kRowStride, kAdd>(p);
    p.ahead += p.n_k * p.s_ahead;
  }
}

template <class E, int R, int kRowStride, bool kAdd>
static void row_block_of(const PanelArgs& p, int64_t rows, int64_t n_v) {
  if constexpr (R > 1) {
    if (rows < R) return row_block_of<E, R - 1, kRowStride, kAdd>(p, rows, n_v);
  }
  row_block<E, R, kRowStride, kAdd>(p, n_v);
}

// All rows, in blocks as even as can be.
template <class E, int kRowStride, bool kAdd>
static void all_rows(PanelArgs p, int64_t n_rows, int64_t n_v) {
  const int64_t n_blocks = div_up_i64(n_rows, kMaxRows);
  const float* a = p.a;
  float* c = p.c;
  for (int64_t i = 0; i < n_blocks; ++i) {
    const int64_t row = n_rows * i / n_blocks;
    p.a = a + row * kRowStride;
    p.c = c + row * p.s_c;
    row_block_of<E, kMaxRows, kRowStride, kAdd>(p, n_rows * (i + 1) / n_blocks - row, n_v);
    p.s_ahead = 0;
  }
}

// A page's K or V of one head, ready for the products.
struct TileOperand {
  mica_dtype dtype;   // F32, F16 or BF16
  const char* data;   // of run 0 or cell 0
  int64_t row_elems;  // K: elements between two runs; V: between two cells
  const char* ahead;  // the head's part of the next page
};

template <int kRowStride, bool kAdd>
static void product(mica_dtype dtype, const PanelArgs& p, int64_t n_rows, int64_t n_v) {
  if (dtype == MICA_F16) return all_rows<ElemF16, kRowStride, kAdd>(p, n_rows, n_v);
  if (dtype == MICA_BF16) return all_rows<ElemBF16, kRowStride, kAdd>(p, n_rows, n_v);
  all_rows<ElemF32, kRowStride, kAdd>(p, n_rows, n_v);
}

static int64_t operand_bytes(mica_dtype dtype) { return dtype == MICA_F32 ? 4 : 2; }

// scores[row][cell] of the runs [run0, run1). q is [dim_k][s_q]: rows are adjacent.
static void scores_of(const TileOperand& k, const float* q, int64_t s_q, int64_t n_rows,
                      int64_t dim_k, int64_t run0, int64_t run1, float* scores) {
  PanelArgs p;
  p.a = q;
  p.s_k = s_q;
  p.b = k.data + run0 * k.row_elems * operand_bytes(k.dtype);
  p.s_bk = 16;
  p.s_bv = k.row_elems;
  p.n_k = dim_k;
  p.c = scores + run0 * 16;
  p.s_c = kPageCells;
  p.ahead = k.ahead;
  p.s_ahead = kAheadBytes;
  product<1, false>(k.dtype, p, n_rows, run1 - run0);
}

// sums[row] += sum over the cells [cell0, cell1) of p[row][cell] * v[cell].
static void add_values(const TileOperand& v, const float* weights, int64_t n_rows, int64_t cell0,
                       int64_t cell1, int64_t dim_v_pad, float* sums) {
  PanelArgs p;
  p.a = weights + cell0;
  p.s_k = 1;
  p.b = v.data + cell0 * v.row_elems * operand_bytes(v.dtype);
  p.s_bk = v.row_elems;
  p.s_bv = 16;
  p.n_k = cell1 - cell0;
  p.c = sums;
  p.s_c = dim_v_pad;
  p.ahead = v.ahead;
  p.s_ahead = kAheadBytes;
  product<static_cast<int>(kPageCells), true>(v.dtype, p, n_rows, dim_v_pad / 16);
}

// Is any of the cells [cell0, cell1) infinite or not-a-number somewhere?
template <class E>
static bool any_not_finite(const TileOperand& v, int64_t cell0, int64_t cell1, int64_t dim_v_pad) {
  f32x16 sum = zero();
  for (int64_t cell = cell0; cell < cell1; ++cell) {
    const typename E::T* x = reinterpret_cast<const typename E::T*>(v.data) + cell * v.row_elems;
    for (int64_t i = 0; i < dim_v_pad; i += 16) sum = fma(E::get(x + i), zero(), sum);
  }
  return any(is_nan(sum));
}
static bool not_finite(const TileOperand& v, int64_t cell0, int64_t cell1, int64_t dim_v_pad) {
  if (v.dtype == MICA_F16) return any_not_finite<ElemF16>(v, cell0, cell1, dim_v_pad);
  if (v.dtype == MICA_BF16) return any_not_finite<ElemBF16>(v, cell0, cell1, dim_v_pad);
  return any_not_finite<ElemF32>(v, cell0, cell1, dim_v_pad);
}

// As add_values, with zeros in the place of cells that the row's bits in `hidden` name: a weight of
// 0 times infinity would be not-a-number. The sums are made in the same order, so that rows come
// out bit by bit as if those cells held zeros.
template <class E>
static void add_seen(const TileOperand& v, const float* weights, const uint64_t* hidden,
                     int64_t n_rows, int64_t cell0, int64_t cell1, int64_t dim_v_pad, float* sums) {
  const typename E::T* values = reinterpret_cast<const typename E::T*>(v.data);
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int64_t i = 0; i < dim_v_pad; i += 16) {
      float* to = sums + row * dim_v_pad + i;
      f32x16 sum = load(to);
      for (int64_t cell = cell0; cell < cell1; ++cell) {
        const bool seen = (hidden[row] >> cell & 1) == 0;
        const f32x16 x = seen ? E::get(values + cell * v.row_elems + i) : zero();
        sum = fma(set1(weights[row * kPageCells + cell]), x, sum);
      }
      store(to, sum);
    }
  }
}
static void add_seen_values(const TileOperand& v, const float* weights, const uint64_t* hidden,
                            int64_t n_rows, int64_t cell0, int64_t cell1, int64_t dim_v_pad,
                            float* sums) {
  const auto add = v.dtype == MICA_F16    ? add_seen<ElemF16>
                   : v.dtype == MICA_BF16 ? add_seen<ElemBF16>
                                          : add_seen<ElemF32>;
  add(v, weights, hidden, n_rows, cell0, cell1, dim_v_pad, sums);
}

template <class E>
static void widen(const char* from, int64_t n, float* to) {
  const typename E::T* p = reinterpret_cast<const typename E::T*>(from);
  for (int64_t i = 0; i < n; i += 16) store(to + i, E::get(p + i));
}
static void widen_of(mica_dtype dtype, const char* from, int64_t n, float* to) {
  if (dtype == MICA_F16) return widen<ElemF16>(from, n, to);
  if (dtype == MICA_BF16) return widen<ElemBF16>(from, n, to);
  widen<ElemF32>(from, n, to);
}

// Angles by cells of a page: [pair][run] of {f32 cosine[16], sine[16]}. The first run is read from
// the turns' rows, the others are that one and a multiple of 16.
static void key_angles(const Call& call, int64_t n_pairs, float* to) {
  for (int64_t cell = 0; cell < kRunCells; ++cell) {
    const float* row = turn_row(call, cell);
    for (int64_t i = 0; i < n_pairs; ++i) {
      to[i * kPageCells * 2 + cell] = row[2 * i];
      to[i * kPageCells * 2 + kRunCells + cell] = row[2 * i + 1];
    }
  }
  for (int64_t run = 1; run < kPageRuns; ++run) {
    const float* row = turn_row(call, run * kRunCells);
    for (int64_t i = 0; i < n_pairs; ++i) {
      float* first = to + i * kPageCells * 2;
      const f32x16 c = load(first), s = load(first + kRunCells);
      const f32x16 c1 = set1(row[2 * i]), s1 = set1(row[2 * i + 1]);
      store(first + run * 2 * kRunCells, fnma(s, s1, c * c1));
      store(first + run * 2 * kRunCells + kRunCells, fma(c, s1, s * c1));
    }
  }
}

// The same for an entry whose positions are divided, from the position that it is turned by.
static void divided_angles(const Call& call, const Entry& e, int64_t n_pairs, float* to) {
  const float* by = turn_row(call, e.turn);
  for (int64_t cell = 0; cell < kPageCells; ++cell) {
    const bool named = cell >= e.first_cell && cell < e.first_cell + e.n_cells;
    const float* row = turn_row(call, named ? e.offset(cell) : 0);
    const int64_t at = cell / kRunCells * 2 * kRunCells + cell % kRunCells;
    for (int64_t i = 0; i < n_pairs; ++i) {
      const float c0 = by[2 * i], s0 = by[2 * i + 1], c1 = row[2 * i], s1 = row[2 * i + 1];
      to[i * kPageCells * 2 + at] = c0 * c1 - s0 * s1;
      to[i * kPageCells * 2 + at + kRunCells] = s0 * c1 + c0 * s1;
    }
  }
}

// Runs [run][elems][16] of K, rotated. `from` may be `to`.
template <class E>
static void rotate_runs(const Call& call, const char* from, const float* angles, int64_t elems,
                        int64_t run0, int64_t run1, float* to) {
  for (int64_t run = run0; run < run1; ++run) {
    const typename E::T* x = reinterpret_cast<const typename E::T*>(from) + run * elems * 16;
    float* y = to + run * elems * 16;
    each_pair(call, [&](int64_t i, int64_t d0, int64_t d1) {
      const float* at = angles + (i * kPageRuns + run) * 2 * kRunCells;
      const f32x16 c = load(at), s = load(at + kRunCells);
      const f32x16 x0 = E::get(x + d0 * 16), x1 = E::get(x + d1 * 16);
      store(y + d0 * 16, fnma(x1, s, x0 * c));
      store(y + d1 * 16, fma(x1, c, x0 * s));
    });
  }
}

// Elements of F32, F16 or BF16 K: those that RoPE rotates rotated, the others as they are.
template <class E>
static void rotate_page(const Call& call, const char* head, const float* angles, int64_t head_dim,
                        int64_t run0, int64_t run1, float* to) {
  const mica_attention_args& a = *static_cast<const mica_attention_args*>(call.args);
  const int64_t begin = a.rope_offset, end = begin + a.n_rot;
  for (int64_t run = run0; run < run1; ++run) {
    const typename E::T* x = reinterpret_cast<const typename E::T*>(head) + run * head_dim * 16;
    float* y = to + run * head_dim * 16;
    for (int64_t i = 0; i < begin; ++i) store(y + i * 16, E::get(x + i * 16));
    for (int64_t i = end; i < head_dim; ++i) store(y + i * 16, E::get(x + i * 16));
  }
  rotate_runs<E>(call, head, angles, head_dim, run0, run1, to);
}

// Scores with K rotated on its way from memory to the products: R rows by V runs of cells. q is
// [dim_k][s_q] and has what the cells of a page are rotated by in common.
struct PairArgs {
  const float* q;
  int64_t s_q;
  const void* k;  // of run 0
  int64_t s_run;  // elements between two runs
  const float* angles;
  float* scores;
  const char* ahead;  // of the next page, asked for as PanelArgs says
};
template <class E, int R, int V>
static __attribute__((noinline)) void pair_panel(const Call& call, const PairArgs& p) {
  f32x16 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = zero();
  }
  const typename E::T* k = static_cast<const typename E::T*>(p.k);
  each_pair(call, [&](int64_t i, int64_t d0, int64_t d1) {
    const float* q0 = p.q + d0 * p.s_q;
    const float* q1 = p.q + d1 * p.s_q;
    const float* at = p.angles + i * kPageCells * 2;
    for (int line = 0; line < V; ++line) __builtin_prefetch(p.ahead + (i * V + line) * 64, 0, 2);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 c = load(at + v * 2 * kRunCells), s = load(at + v * 2 * kRunCells + kRunCells);
      const f32x16 x0 = E::get(k + v * p.s_run + d0 * 16), x1 = E::get(k + v * p.s_run + d1 * 16);
      const f32x16 y0 = fnma(x1, s, x0 * c), y1 = fma(x1, c, x0 * s);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][v] = fma(set1(q1[r]), y1, fma(set1(q0[r]), y0, sum[r][v]));
    }
  });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(p.scores + r * kPageCells + v * 16, sum[r][v]);
  }
}

#if defined(__AVX512F__)
constexpr int kPairRows = 6, kPairRuns = 4;
#else
constexpr int kPairRows = 4, kPairRuns = 1;
#endif

template <class E, int R>
static void pair_rows_of(const Call& call, const PairArgs& p, int64_t rows, int64_t n_runs) {
  if constexpr (R > 1) {
    if (rows < R) return pair_rows_of<E, R - 1>(call, p, rows, n_runs);
  }
  PairArgs x = p;
  const auto move = [&](int64_t runs) {
    x.k = static_cast<const typename E::T*>(x.k) + runs * p.s_run;
    x.angles += runs * 2 * kRunCells;
    x.scores += runs * 16;
    x.ahead += runs * 64 * (static_cast<const mica_attention_args*>(call.args)->n_rot / 2);
    n_runs -= runs;
  };
  while (n_runs >= kPairRuns) {
    pair_panel<E, R, kPairRuns>(call, x);
    move(kPairRuns);
  }
  while (n_runs > 0) {
    pair_panel<E, R, 1>(call, x);
    move(1);
  }
}

// scores[row][cell] of the runs [run0, run1) with K of un-rotated keys: the elements that RoPE
// rotates, then the others.
template <class E>
static void rotated_scores(const Call& call, const TileOperand& k, const float* angles,
                           const float* q, int64_t s_q, int64_t n_rows, int64_t dim_k, int64_t run0,
                           int64_t run1, float* scores) {
  const typename E::T* runs = reinterpret_cast<const typename E::T*>(k.data) + run0 * k.row_elems;
  const int64_t n_blocks = div_up_i64(n_rows, kPairRows);
  for (int64_t i = 0; i < n_blocks; ++i) {
    const int64_t row = n_rows * i / n_blocks;
    pair_rows_of<E, kPairRows>(call,
                               {q + row, s_q, runs, k.row_elems, angles + run0 * 2 * kRunCells,
                                scores + row * kPageCells + run0 * 16, k.ahead},
                               n_rows * (i + 1) / n_blocks - row, run1 - run0);
  }
  const mica_attention_args& a = *static_cast<const mica_attention_args*>(call.args);
  const int64_t rests[2][2] = {{0, a.rope_offset}, {a.rope_offset + int64_t{a.n_rot}, dim_k}};
  for (const auto& rest : rests) {
    if (rest[0] >= rest[1]) continue;
    PanelArgs p;
    p.a = q + rest[0] * s_q;
    p.s_k = s_q;
    p.b = runs + rest[0] * 16;
    p.s_bk = 16;
    p.s_bv = k.row_elems;
    p.n_k = rest[1] - rest[0];
    p.c = scores + run0 * 16;
    p.s_c = kPageCells;
    p.ahead = k.ahead;
    p.s_ahead = 0;
    product<1, true>(k.dtype, p, n_rows, run1 - run0);
  }
}

// K of un-rotated keys as F32, rotated for many rows: by the numbers of the cells in the page, or
// wholly where positions are divided; query_operand has the rest.
static TileOperand rotated_keys(const Call& call, const KvPage& p, const char* head,
                                const float* angles, int64_t run0, int64_t run1, const char* ahead,
                                float* room) {
  if (p.elem_bytes == 0) {
    decode_k(p, head, run0, run1, room);
    rotate_runs<ElemF32>(call, reinterpret_cast<const char*>(room), angles, p.row_elems, run0, run1,
                         room);
  } else {
    const auto rotate = p.dtype == MICA_F16    ? rotate_page<ElemF16>
                        : p.dtype == MICA_BF16 ? rotate_page<ElemBF16>
                                               : rotate_page<ElemF32>;
    rotate(call, head, angles, p.head_dim, run0, run1, room);
  }
  return {MICA_F32, reinterpret_cast<const char*>(room), p.row_elems * 16, ahead};
}

static TileOperand key_operand(const KvPage& p, const char* head, int64_t n_rows, int64_t run0,
                               int64_t run1, const char* ahead, float* room) {
  if (p.dtype == MICA_F32 || (p.elem_bytes != 0 && n_rows <= kDirectRows)) {
    return {p.dtype, head, p.head_dim * 16, ahead};
  }
  const int64_t run_elems = p.row_elems * 16;
  if (p.elem_bytes != 0) {
    widen_of(p.dtype, head + run0 * run_elems * 2, (run1 - run0) * run_elems,
             room + run0 * run_elems);
  } else {
    decode_k(p, head, run0, run1, room);
  }
  return {MICA_F32, reinterpret_cast<const char*>(room), run_elems, ahead};
}

// Of V that is K, which has 16 cells side by side: the cells [cell0, cell1) as rows of F32.
static TileOperand values_of_keys(const KvPage& p, const char* head, int64_t cell0, int64_t cell1,
                                  int64_t dim_v_pad, const char* ahead, float* runs, float* room) {
  const int64_t run0 = cell0 / kRunCells, run1 = div_up_i64(cell1, kRunCells);
  const int64_t run_elems = p.row_elems * kRunCells;
  if (p.elem_bytes == 0) {
    decode_k(p, head, run0, run1, runs);
  } else {
    widen_of(p.dtype, head + run0 * run_elems * p.elem_bytes, (run1 - run0) * run_elems,
             runs + run0 * run_elems);
  }
  for (int64_t cell = cell0; cell < cell1; ++cell) {
    const float* from = runs + cell / kRunCells * run_elems + cell % kRunCells;
    float* to = room + cell * dim_v_pad;
    for (int64_t i = 0; i < p.head_dim; ++i) to[i] = from[i * kRunCells];
    for (int64_t i = p.head_dim; i < dim_v_pad; ++i) to[i] = 0;
  }
  return {MICA_F32, reinterpret_cast<const char*>(room), dim_v_pad, ahead};
}

static TileOperand value_operand(const KvPage& p, const char* head, int64_t n_rows, int64_t cell0,
                                 int64_t cell1, int64_t dim_v_pad, const char* ahead, float* room) {
  if (p.dtype == MICA_F32 || (p.elem_bytes != 0 && n_rows <= kDirectRows)) {
    return {p.dtype, head, p.row_elems, ahead};
  }
  if (p.elem_bytes != 0) {
    widen_of(p.dtype, head + cell0 * p.row_elems * 2, (cell1 - cell0) * p.row_elems,
             room + cell0 * p.row_elems);
  } else {
    decode_v(p, head, cell0, cell1, dim_v_pad, room);
  }
  return {MICA_F32, reinterpret_cast<const char*>(room), dim_v_pad, ahead};
}

MICA_CPU_END
