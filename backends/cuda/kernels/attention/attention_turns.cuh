// Queries as they meet cells that moved, and un-rotated keys as they meet queries, by the turns of
// table entries (mica/kv_table.h).
#pragma once
#include "backends/cuda/kernels/attention/attention_work.cuh"

namespace mica::cuda {
#ifdef __CUDACC__

// Element i of a row of q in the RoPE of turns. One that is not rotated has itself as the other
// element, and some angle.
struct TurnPlace {
  int32_t other, angle;  // the other element of its pair; the cosine in a row of `turns`
  bool rotates, second;  // second: of its pair
};
__device__ inline TurnPlace turn_place(const AttentionArgs& a, int32_t i) {
  const auto n_rot = static_cast<int32_t>(a.op.n_rot);
  const int32_t at = i - static_cast<int32_t>(a.op.rope_offset);
  if (at < 0 || at >= n_rot) return {i, 0, false, false};
  const bool adjacent = a.op.rope_pairing == MICA_ROPE_ADJACENT;
  const int32_t step = adjacent ? 1 : n_rot / 2;
  const bool second = adjacent ? at % 2 != 0 : at >= step;
  const int32_t pair = adjacent ? at / 2 : second ? at - step : at;
  return {second ? i - step : i + step, 2 * pair, true, second};
}
__device__ inline const float* turn_row(const AttentionArgs& a, int32_t turn) {
  return reinterpret_cast<const float*>(a.turns) + int64_t{turn} * a.op.n_rot;
}
__device__ inline float turned(const TurnPlace& p, float x, float other, float cosine, float sine) {
  const float y = p.second ? other * sine + x * cosine : x * cosine - other * sine;
  return p.rotates ? y : x;
}
// query_operand, where q becomes an operand: element i of a row of q as it meets the cells of a
// turn, rotated by that row of `turns`.
__device__ inline float query_operand(const AttentionArgs& a, const char* row, int32_t i,
                                      int32_t turn) {
  const float x = float_at(a.q_dtype, row, i);
  const TurnPlace p = turn_place(a, i);
  if (turn == 0 || !p.rotates) return x;
  const float* angle = turn_row(a, turn) + p.angle;
  return turned(p, x, float_at(a.q_dtype, row, p.other), angle[0], angle[1]);
}

// One rotation after another: cosine and sine of both angles' sum.
__device__ inline float2 both_turns(const float2& x, const float2& y) {
  return {x.x * y.x - x.y * y.y, x.y * y.x + x.x * y.y};
}
__device__ inline float2 turn_angle(const AttentionArgs& a, int32_t turn, int32_t pair) {
  return *reinterpret_cast<const float2*>(turn_row(a, turn) + 2 * pair);
}
// Of un-rotated keys: the position that an entry's turn stands for, and how far a cell's position
// lies behind it, which is a row of `turns` too.
__device__ inline int32_t turn_origin(const Entry& e) {
  return (e.div == 1 ? e.base : e.base / e.div) / kPageCells * kPageCells;
}
__device__ inline int32_t turn_offset(const Entry& e, int32_t cell) {
  const int32_t i = e.base + cell - e.first_cell;
  return max(0, min((e.div == 1 ? i : i / e.div) - turn_origin(e), MICA_KV_OFFSET_TURNS - 1));
}

// Two elements of a head that RoPE rotates together, number i of the pairs of `dim` elements: those
// of `turns`, then what is not rotated, by twos.
struct PairPlace {
  int32_t first, second;
  bool rotates;
};
__device__ inline PairPlace pair_place(const AttentionArgs& a, int32_t i) {
  const auto n_rot = static_cast<int32_t>(a.op.n_rot);
  const auto offset = static_cast<int32_t>(a.op.rope_offset);
  if (i >= n_rot / 2) {
    const int32_t at = 2 * i - n_rot;
    return {at < offset ? at : at + n_rot, at + 1 < offset ? at + 1 : at + 1 + n_rot, false};
  }
  if (a.op.rope_pairing == MICA_ROPE_ADJACENT) return {offset + 2 * i, offset + 2 * i + 1, true};
  return {offset + i, offset + i + n_rot / 2, true};
}

// The tiles' kernel takes a block's entries together, an entry a thread, up to the first of another
// turn: all meet the queries of one rotation. How many of them come before it; `mine`: this
// thread's turn. `first`: the first entry, `n` as many as there are. By the whole block; only where
// a.n_turns > 0.
template <int kWarps>
__device__ __noinline__ int32_t same_turn(const AttentionArgs& a, const Table& t, int32_t first,
                                          int32_t n, int32_t mine, int32_t* scratch) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t turn = n > 0 ? checked_turn(a, entry_words(t, first)[MICA_KV_ENTRY_TURN]) : 0;
  const bool other = thread < n && mine != turn;
  if (__syncthreads_or(other ? 1 : 0) == 0) return kWarps * 32;
  const unsigned others = __ballot_sync(0xffffffffu, other);
  if (thread % 32 == 0)
    scratch[thread / 32] = others == 0 ? kWarps * 32 : thread + __ffs(static_cast<int>(others)) - 1;
  __syncthreads();
  int32_t same = kWarps * 32;
  for (int w = 0; w < kWarps; ++w) same = min(same, scratch[w]);
  return same;
}
#endif

}  // namespace mica::cuda
