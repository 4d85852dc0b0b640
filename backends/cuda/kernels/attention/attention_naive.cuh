// Attention, plain: one warp a query row, one cell after the other. Any case; the other kernels are
// compared with it.
#pragma once
#include "backends/cuda/kernels/attention/attention_turns.cuh"

namespace mica::cuda {

constexpr int kNaiveMaxDim = 256;

#ifdef __CUDACC__
constexpr int kNaiveEach = kNaiveMaxDim / 32;  // elements of a row that a lane holds

struct NaiveRow {
  float q[kNaiveEach], sums[kNaiveEach];
  float largest, denominator;
};

// key_operand, where stored K becomes an operand: an element decoded, and rotated to its cell's
// position where it is stored un-rotated.
template <bool kUnrotated>
__device__ inline float key_operand(const AttentionArgs& a, const Entry& e, const char* k,
                                    int32_t cell, int32_t i) {
  const auto at = [&](int32_t d) {
    return kv_element(a.k, k, static_cast<uint32_t>(cell), static_cast<uint32_t>(d));
  };
  if constexpr (!kUnrotated) return at(i);
  const TurnPlace p = turn_place(a, i);
  if (!p.rotates) return at(i);
  const float2 angle = both_turns(turn_angle(a, e.turn, p.angle / 2),
                                  turn_angle(a, turn_offset(e, cell), p.angle / 2));
  return turned(p, at(i), at(p.other), angle.x, angle.y);
}

template <bool kUnrotated>
__device__ inline void naive_cell(const AttentionArgs& a, const Entry& e, const char* k,
                                  const char* v, int32_t i_cell, float bias, NaiveRow& row) {
  const auto cell = static_cast<uint32_t>(i_cell);
  const int lane = static_cast<int>(threadIdx.x % 32);
  float s = 0;
#pragma unroll
  for (int j = 0; j < kNaiveEach; ++j) {
    const int i = lane + 32 * j;
    if (i < a.dim_k) s += row.q[j] * key_operand<kUnrotated>(a, e, k, i_cell, i);
  }
  for (int offset = 16; offset > 0; offset /= 2) s += __shfl_xor_sync(0xffffffffu, s, offset);
  s *= a.op.scale;
  if (a.op.softcap > 0) s = a.op.softcap * tanhf(s / a.op.softcap);
  s += bias;
  if (s == -infinity()) return;
  const float top = s > row.largest || s != s ? s : row.largest;
  const float less = row.largest == -infinity() ? 0.0f : expf(row.largest - top);
  const float w = expf(s - top);
  row.largest = top;
  row.denominator = row.denominator * less + w;
#pragma unroll
  for (int j = 0; j < kNaiveEach; ++j) {
    const int i = lane + 32 * j;
    if (i < a.dim_v)
      row.sums[j] = row.sums[j] * less + w * kv_element(a.v, v, cell, static_cast<uint32_t>(i));
  }
}

__device__ inline void naive_query(const AttentionArgs& a, const char* q, int32_t turn,
                                   NaiveRow& row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < kNaiveEach; ++j)
    row.q[j] = lane + 32 * j < a.dim_k ? query_operand(a, q, lane + 32 * j, turn) : 0.0f;
}

template <bool kUnrotated>
__device__ inline void naive_row(const AttentionArgs& a, const Table& t, int32_t token,
                                 int32_t head) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  NaiveRow row;
  row.largest = -infinity();
  row.denominator = 0;
  const char* q = query_row(a, token, head);
  int32_t turn = 0;
  naive_query(a, q, turn, row);
#pragma unroll
  for (int j = 0; j < kNaiveEach; ++j) row.sums[j] = 0;
  const int32_t position = reinterpret_cast<const int32_t*>(a.positions)[token];
  const int32_t kv_head = head / a.group;
  int32_t seq = 0;
  while (seq < t.n_seqs && !(token >= t.tokens(seq).begin && token < t.tokens(seq).end)) ++seq;
  const Range entries = seq < t.n_seqs ? t.entries(seq) : Range{0, 0};
  int64_t column = 0;
  for (int32_t i = entries.begin; i < entries.end; ++i) {
    const Entry e = table_entry(a, t, i);
    if (!kUnrotated && e.turn != turn) naive_query(a, q, turn = e.turn, row);
    const Seen seen = seen_cells(a, e, position);
    const char* k = k_head(a, e, kv_head);
    const char* v = v_head(a, e, kv_head);
    for (int32_t c = 0; c < e.n_cells; ++c) {
      if (!seen.has(c)) continue;
      const float bias = a.mask != 0 ? mask_at(a, token, head, column + c) : 0.0f;
      if (bias == -infinity()) continue;  // whatever the cell holds
      naive_cell<kUnrotated>(a, e, k, v, e.first_cell + c, bias, row);
    }
    column += e.n_cells;
  }
  const float factor = row_factor(a, head, row.largest, row.denominator);
  float* out = out_row(a, token, head);
#pragma unroll
  for (int j = 0; j < kNaiveEach; ++j)
    if (lane + 32 * j < a.dim_v) out[lane + 32 * j] = row.sums[j] * factor;
}

template <bool kUnrotated>
__global__ void __launch_bounds__(128, 4)
    attention_naive_kernel(const __grid_constant__ AttentionArgs a) {
  wait_for_inputs();
  start_next();
  const Table t = open_table(a);
  const int64_t n = int64_t{t.n_tokens} * a.n_heads;
  for (int64_t i = int64_t{blockIdx.x} * 4 + threadIdx.x / 32; i < n; i += int64_t{gridDim.x} * 4)
    naive_row<kUnrotated>(a, t, static_cast<int32_t>(i / a.n_heads),
                          static_cast<int32_t>(i % a.n_heads));
}
#endif

}  // namespace mica::cuda
