// Attention's second launch: the chunks' parts of a row, in order, to its result; zeros for tokens
// that no sequence of the table names. A row by one warp, or, where rows are few, by all of a block
// that share its chunks.
#pragma once
#include "backends/cuda/kernels/attention_work.cuh"

namespace mica::cuda {

constexpr int kMergeThreads = 128;
constexpr int kMergeWarps = kMergeThreads / 32;

#ifdef __CUDACC__

// A row's parts: numbers of the first chunk's; the next chunk's are `slot` floats on.
struct RowParts {
  const float *sums, *largest, *denominator;
  int64_t slot;
  int32_t n_chunks;
};
__device__ inline RowParts row_parts(const AttentionArgs& a, int32_t item, int32_t row,
                                     int32_t n_chunks) {
  RowParts p;
  p.slot = int64_t{a.tile_rows} * (a.dim_v_pad + 2);
  const float* part = reinterpret_cast<const float*>(a.parts) + item * p.slot;
  p.sums = part + row * a.dim_v_pad;
  p.largest = part + a.tile_rows * a.dim_v_pad + row;
  p.denominator = p.largest + a.tile_rows;
  p.n_chunks = n_chunks;
  return p;
}

struct RowScale {
  float shift, factor;
};
// By each warp: lanes share the chunks.
__device__ inline RowScale row_scale(const AttentionArgs& a, int32_t head, const RowParts& p) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  float top = -infinity();
  float all = 0;
  for (int32_t c = lane; c < p.n_chunks; c += 32) {
    const float largest = p.largest[c * p.slot];
    const float denominator = p.denominator[c * p.slot];
    if (largest == -infinity()) continue;
    const float higher = fmaxf(top, largest);
    all = all * expf(top - higher) + denominator * expf(largest - higher);
    top = higher;
  }
  const float mine = top;
  for (int offset = 16; offset > 0; offset /= 2)
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  const float shift = top == -infinity() ? 0.0f : top;
  all *= expf(mine - shift);
  for (int offset = 16; offset > 0; offset /= 2) all += __shfl_xor_sync(0xffffffffu, all, offset);
  return {shift, row_factor(a, head, top, all)};
}

// Elements d … d + 3 of the chunks first, first + step, …; for each a weight.
__device__ inline float4 sum_chunks(const RowParts& p, int32_t first, int32_t step, float shift,
                                    int32_t d, bool real) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t n = (p.n_chunks - first + step - 1) / step;
  float4 sum = {0, 0, 0, 0};
  for (int32_t i0 = 0; i0 < n; i0 += 32) {
    const int32_t mine = first + (i0 + lane) * step;
    const float weight = i0 + lane < n ? expf(p.largest[mine * p.slot] - shift) : 0.0f;
    const int32_t end = min(32, n - i0);
#pragma unroll 8
    for (int32_t i = 0; i < end; ++i) {
      const float w = __shfl_sync(0xffffffffu, weight, i);
      if (!real) continue;
      const int64_t at = (first + (i0 + i) * step) * p.slot;
      const float4 x = *reinterpret_cast<const float4*>(p.sums + at + d);
      sum.x += w * x.x, sum.y += w * x.y, sum.z += w * x.z, sum.w += w * x.w;
    }
  }
  return sum;
}

__device__ inline void put_four(const AttentionArgs& a, float* out, int32_t d, const float4& x,
                                float factor) {
  if (d < a.dim_v) out[d] = x.x * factor;
  if (d + 1 < a.dim_v) out[d + 1] = x.y * factor;
  if (d + 2 < a.dim_v) out[d + 2] = x.z * factor;
  if (d + 3 < a.dim_v) out[d + 3] = x.w * factor;
}

// kRowWarps: that share a row; 1 or all.
template <int kRowWarps>
__device__ void merge_row(const AttentionArgs& a, float* out, int32_t head, const RowParts& p,
                          float4 (&scratch)[kMergeWarps][32]) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t warp = kRowWarps == 1 ? 0 : static_cast<int32_t>(threadIdx.x / 32);
  const RowScale scale = row_scale(a, head, p);
  for (int32_t d0 = 0; d0 < a.dim_v; d0 += 128) {
    const int32_t d = d0 + lane * 4;
    float4 sum = sum_chunks(p, warp, kRowWarps, scale.shift, d, d < a.dim_v_pad);
    if constexpr (kRowWarps > 1) {
      __syncthreads();
      scratch[warp][lane] = sum;
      __syncthreads();
      if (warp != 0) continue;
#pragma unroll
      for (int w = 1; w < kRowWarps; ++w) {
        const float4 x = scratch[w][lane];
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
      }
    }
    put_four(a, out, d, sum, scale.factor);
  }
}

template <int kRowWarps>
__global__ void __launch_bounds__(kMergeThreads)
    attention_merge_kernel(const __grid_constant__ AttentionArgs a) {
  __shared__ float4 scratch[kMergeWarps][32];
  wait_for_inputs();
  start_next();
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  const int32_t begin = t.n_seqs > 0 ? t.tokens(0).begin : 0;
  const int32_t end = t.n_seqs > 0 ? t.tokens(t.n_seqs - 1).end : 0;
  // Nothing was cut and all tokens are named: nothing to do.
  if (cut.whole && begin == 0 && end == t.n_tokens) return;
  constexpr int32_t kBlockRows = kMergeWarps / kRowWarps;
  const int32_t n = t.n_tokens * a.n_heads;
  int32_t i = static_cast<int32_t>(blockIdx.x) * kBlockRows;
  if (kRowWarps == 1) i += static_cast<int32_t>(threadIdx.x / 32);
  for (; i < n; i += static_cast<int32_t>(gridDim.x) * kBlockRows) {
    const int32_t token = i / a.n_heads;
    const int32_t head = i - token * a.n_heads;
    const SeqPlace place = find_seq(a, t, cut, [&](int32_t seq, int32_t, int32_t) {
      const Range tokens = t.tokens(seq);
      return token >= tokens.begin && token < tokens.end;
    });
    float* out = out_row(a, token, head);
    if (place.seq < 0) {
      for (int32_t d = static_cast<int32_t>(threadIdx.x % 32) * 4; d < a.dim_v; d += 128)
        put_four(a, out, d, {0, 0, 0, 0}, 0);
      continue;
    }
    const int32_t n_chunks = seq_chunks(cut, t.entries(place.seq).size());
    if (n_chunks == 1) continue;
    const Range tokens = t.tokens(place.seq);
    const int32_t row = (token - tokens.begin) * a.group + head % a.group;
    const int32_t tile = seq_tiles(a, tokens) - 1 - row / a.tile_rows;
    const int32_t item = place.before + (tile * a.n_kv_heads + head / a.group) * n_chunks;
    merge_row<kRowWarps>(a, out, head, row_parts(a, item, row % a.tile_rows, n_chunks), scratch);
  }
}
#endif
}  // namespace mica::cuda
