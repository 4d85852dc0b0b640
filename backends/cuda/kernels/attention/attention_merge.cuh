// What a tile's blocks do when its cells are cut in chunks: each leaves its part, and the one that
// is there last merges all, in the order of chunks, whoever it is. And zeros for tokens that no
// sequence of the table names.
#pragma once
#include "backends/cuda/kernels/attention/attention_work.cuh"

namespace mica::cuda {
#ifdef __CUDACC__

// The chunk's part, as floats: sums [tile_rows][dim_v_pad], largest and denominator [tile_rows].
__device__ inline float* part_of(const AttentionArgs& a, int32_t slot) {
  return reinterpret_cast<float*>(a.parts) + int64_t{slot} * a.tile_rows * (a.dim_v_pad + 2);
}

// To be called by the whole block after its part is written; the last block's gets true. One
// thread's fences do for the block's threads that a barrier joins with it.
__device__ inline bool is_last_chunk(const AttentionArgs& a, const Item& item, int32_t* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    int32_t* ticket = reinterpret_cast<int32_t*>(a.tickets) + item.first_slot;
    const bool last = atomicAdd(ticket, 1) == item.n_chunks - 1;
    if (last) *ticket = 0;
    __threadfence();
    *shared = last ? 1 : 0;
  }
  __syncthreads();
  return *shared != 0;
}

__device__ inline void put_four(const AttentionArgs& a, float* out, int32_t d, const float4& x,
                                float factor) {
  const float4 y = {x.x * factor, x.y * factor, x.z * factor, x.w * factor};
  if (a.out_wide) {
    if (d < a.dim_v) *reinterpret_cast<float4*>(out + d) = y;
    return;
  }
  if (d < a.dim_v) out[d] = y.x;
  if (d + 1 < a.dim_v) out[d + 1] = y.y;
  if (d + 2 < a.dim_v) out[d + 2] = y.z;
  if (d + 3 < a.dim_v) out[d + 3] = y.w;
}

// What a merge needs of shared memory, by threads.
struct alignas(16) MergeRoom {
  float4 sums[256];
  float largest[256], denominators[256];
};

// Some chunks of four columns of a row, relative to the largest score of them.
struct MergeSum {
  float4 sum;
  float largest, denominator;
};
__device__ inline void add_part(MergeSum& s, const float4& x, float denominator, float weight) {
  s.denominator += denominator * weight;
  s.sum.x += x.x * weight, s.sum.y += x.y * weight;
  s.sum.z += x.z * weight, s.sum.w += x.w * weight;
}
__device__ inline float shift_of(float largest) { return largest == -infinity() ? 0.0f : largest; }

// Chunks first, first + step, …; all loads of eight are on their way at once.
__device__ inline MergeSum merge_some(const AttentionArgs& a, const Item& item, int32_t row,
                                      int32_t d, int32_t first, int32_t step) {
  constexpr int kOnce = 8;
  const int64_t part = int64_t{a.tile_rows} * (a.dim_v_pad + 2);
  const float* const sums = part_of(a, item.first_slot) + row * a.dim_v_pad + d;
  const float* const tops = part_of(a, item.first_slot) + a.tile_rows * a.dim_v_pad + row;
  MergeSum s = {{0, 0, 0, 0}, -infinity(), 0};
  for (int32_t c0 = first; c0 < item.n_chunks; c0 += kOnce * step) {
    float4 x[kOnce];
    float top[kOnce], denominator[kOnce];
#pragma unroll
    for (int i = 0; i < kOnce; ++i) {
      const bool real = c0 + i * step < item.n_chunks;
      const int64_t at = (real ? c0 + i * step : c0) * part;
      x[i] = __ldcg(reinterpret_cast<const float4*>(sums + at));
      top[i] = __ldcg(tops + at);
      denominator[i] = __ldcg(tops + at + a.tile_rows);
      if (!real) top[i] = -infinity();
    }
    float largest = s.largest;
#pragma unroll
    for (int i = 0; i < kOnce; ++i) largest = fmaxf(largest, top[i]);
    const float less = expf(s.largest - shift_of(largest));
    const MergeSum before = s;
    s = {{0, 0, 0, 0}, largest, 0};
    add_part(s, before.sum, before.denominator, less);
#pragma unroll
    for (int i = 0; i < kOnce; ++i)
      add_part(s, x[i], denominator[i], expf(top[i] - shift_of(largest)));
  }
  return s;
}

__device__ inline void put_merged(const AttentionArgs& a, const Item& item, int32_t row, int32_t d,
                                  const MergeSum& s) {
  const int32_t head = row_head(a, item, row);
  put_four(a, out_row(a, row_token(a, item, row), head), d, s.sum,
           row_factor(a, head, s.largest, s.denominator));
}

// By the block of kThreads that is last. Where the rows have fewer numbers than there are threads,
// groups of threads share the chunks.
template <int kThreads>
__device__ void merge_chunks(const AttentionArgs& a, const Item& item, MergeRoom& room) {
  static_assert(kThreads <= 256);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t fours = a.dim_v_pad / 4;
  const int32_t n = item.n_rows * fours;
  const int32_t n_groups = kThreads / n;
  if (n_groups <= 1) {
    for (int32_t i = thread; i < n; i += kThreads)
      put_merged(a, item, i / fours, i % fours * 4,
                 merge_some(a, item, i / fours, i % fours * 4, 0, 1));
    return;
  }
  const int32_t group = thread / n;
  const int32_t row = (thread - group * n) / fours;
  const int32_t d = (thread - group * n - row * fours) * 4;
  if (group < n_groups) {
    const MergeSum s = merge_some(a, item, row, d, group, n_groups);
    room.sums[thread] = s.sum;
    room.largest[thread] = s.largest;
    room.denominators[thread] = s.denominator;
  }
  __syncthreads();
  if (thread >= n) return;
  MergeSum s = {{0, 0, 0, 0}, -infinity(), 0};
  for (int32_t g = 0; g < n_groups; ++g) s.largest = fmaxf(s.largest, room.largest[g * n + thread]);
  for (int32_t g = 0; g < n_groups; ++g)
    add_part(s, room.sums[g * n + thread], room.denominators[g * n + thread],
             expf(room.largest[g * n + thread] - shift_of(s.largest)));
  put_merged(a, item, row, d, s);
}

// Zeros for tokens that no sequence names. Spans of sequences follow each other.
__device__ inline void clear_unnamed(const AttentionArgs& a, const Table& t) {
  const int32_t begin = t.n_seqs > 0 ? t.tokens(0).begin : 0;
  const int32_t end = t.n_seqs > 0 ? t.tokens(t.n_seqs - 1).end : 0;
  if (begin == 0 && end == t.n_tokens) return;
  wait_for_inputs();
  const int64_t row_floats = int64_t{a.n_heads} * a.dim_v;
  for (int32_t token = static_cast<int32_t>(blockIdx.x); token < t.n_tokens;
       token += static_cast<int32_t>(gridDim.x)) {
    if (token >= begin && token < end) continue;
    float* out = out_row(a, token, 0);
    for (int64_t i = threadIdx.x; i < row_floats; i += blockDim.x) out[i] = 0;
  }
}
#endif
}  // namespace mica::cuda
