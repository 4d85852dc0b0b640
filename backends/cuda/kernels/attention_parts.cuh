// How tiles of attention multiply: two classes of one shape. Each lays out shared memory, fills it
// with queries and cells, and makes scores and sums of values on tensor cores with products as good
// as F32.
#pragma once
#include "backends/cuda/kernels/attention_mma.cuh"

namespace mica::cuda {

constexpr int kTileRows = 64;
constexpr int kTileThreads = 128;

#ifdef __CUDACC__

struct TileEntry {
  Entry entry;
  int32_t column;  // of the mask: that of the entry's first cell
};

struct TileLists {
  TileEntry entries[kTileThreads];
  float q_factor[kTileRows];  // what undoes the scaling of a row of q, times the op's scale
  int32_t counts[32], cells[32];
  float scratch[32];
};

// What a warp keeps of its 16 rows; this thread's are lane / 4 and that + 8.
template <int kDim>
struct TileState {
  float sums[kDim / 8][4];
  float largest[2], denominator[2];
};

// A row of q by a warp: lane's elements lane + 32 j.
template <int kDim>
__device__ void read_query(const AttentionArgs& a, const Item& item, int row,
                           float (&x)[kDim / 32]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool real = row < item.n_rows;
  const char* q = real ? query_row(a, row_token(a, item, row), row_head(a, item, row)) : nullptr;
#pragma unroll
  for (int j = 0; j < kDim / 32; ++j) {
    const int i = lane + 32 * j;
    x[j] = real && i < a.dim_k ? float_at(a.q_dtype, q, i) : 0.0f;
  }
}
#endif

// --- K and V are F16 ----------------------------------------------------------------------------
// Queries, scaled by row, and weights go through the tensor cores as two F16 parts each.

template <int kHeadDim>
struct PartsF16 {
  static constexpr int kDim = kHeadDim;
  static constexpr int kPitch = kDim + 8;  // halves; no two rows of 8 share a bank
  static constexpr int kSize = kTileRows * kPitch;
  static constexpr uint64_t kBytes = uint64_t{kSize} * 2 * 4;
#ifdef __CUDACC__
  __half *q[2], *k, *v;

  __device__ explicit PartsF16(char* base) {
    q[0] = reinterpret_cast<__half*>(base);
    q[1] = q[0] + kSize;
    k = q[1] + kSize;
    v = k + kSize;
  }

  // Each row scaled by a power of two to at most 2^10.
  __device__ void load_queries(const AttentionArgs& a, const Item& item, TileLists& lists) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int row = static_cast<int>(threadIdx.x / 32); row < kTileRows; row += kTileThreads / 32) {
      float x[kDim / 32];
      read_query<kDim>(a, item, row, x);
      float largest = 0;
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) largest = fmaxf(largest, fabsf(x[j]));
      for (int offset = 16; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
      int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
      if (exponent == 128 || largest == 0.0f) exponent = 9;
      exponent = max(exponent, -100);
      const float up = __uint_as_float(static_cast<uint32_t>(127 + 9 - exponent) << 23);
      const float down = __uint_as_float(static_cast<uint32_t>(127 - 9 + exponent) << 23);
      if (lane == 0) lists.q_factor[row] = a.op.scale * down;
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) {
        const int at = row * kPitch + lane + 32 * j;
        const __half upper = __float2half_rn(x[j] * up);
        q[0][at] = upper;
        q[1][at] = __float2half_rn(x[j] * up - __half2float(upper));
      }
    }
  }

  // A page's cells of one kv head, [64][dim_pad]; those outside the entry become 0.
  __device__ static void load_cells(const KvPage& p, const char* head, const Entry& e, int dim_pad,
                                    __half* to) {
    const int units = dim_pad / 8;
    for (int u = static_cast<int>(threadIdx.x); u < kPageCells * units; u += kTileThreads) {
      const int cell = u / units;
      const int i = (u - cell * units) * 8;
      const bool real = cell >= e.first_cell && cell < e.first_cell + e.n_cells;
      copy_async(to + cell * kPitch + i,
                 head + kv_elem_at(p, static_cast<uint32_t>(cell), static_cast<uint32_t>(i)), real);
    }
  }
  __device__ void load_k(const KvPage& p, const char* head, const Entry& e, int dim_pad) const {
    load_cells(p, head, e, dim_pad, k);
  }
  __device__ void load_v(const KvPage& p, const char* head, const Entry& e, int dim_pad) const {
    load_cells(p, head, e, dim_pad, v);
  }

  // s = q k for the warp's 16 rows and 64 cells.
  __device__ void scores(const AttentionArgs& a, float (&s)[8][4]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row0 = static_cast<int>(threadIdx.x / 32) * 16;
    const int q_at = (row0 + lane % 16) * kPitch + lane / 16 * 8;
    const int k_at = (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
#pragma unroll 2
    for (int d = 0; d < a.dim_k; d += 16) {
      uint32_t q0[4], q1[4];
      load_matrices(q0, q[0] + q_at + d);
      load_matrices(q1, q[1] + q_at + d);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t b[4];
        load_matrices(b, k + k_at + j * 8 * kPitch + d);
        multiply(s[j], q0, b[0], b[1]);
        multiply(s[j + 1], q0, b[2], b[3]);
        multiply(s[j], q1, b[0], b[1]);
        multiply(s[j + 1], q1, b[2], b[3]);
      }
    }
  }

  // sums += weights v.
  __device__ void values(const AttentionArgs& a, const float (&s)[8][4],
                         TileState<kDim>& state) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int v_at = (lane / 8 % 2 * 8 + lane % 8) * kPitch + lane / 16 * 8;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      uint32_t w0[4], w1[4];
      split_two(s[2 * c][0], s[2 * c][1], w0[0], w1[0]);
      split_two(s[2 * c][2], s[2 * c][3], w0[1], w1[1]);
      split_two(s[2 * c + 1][0], s[2 * c + 1][1], w0[2], w1[2]);
      split_two(s[2 * c + 1][2], s[2 * c + 1][3], w0[3], w1[3]);
#pragma unroll
      for (int j = 0; j < kDim / 8; j += 2) {
        if (j * 8 >= a.dim_v) break;
        uint32_t b[4];
        load_matrices_transposed(b, v + v_at + c * 16 * kPitch + j * 8);
        multiply(state.sums[j], w0, b[0], b[1]);
        multiply(state.sums[j + 1], w0, b[2], b[3]);
        multiply(state.sums[j], w1, b[0], b[1]);
        multiply(state.sums[j + 1], w1, b[2], b[3]);
      }
    }
  }
#endif
};

// --- Any K and V --------------------------------------------------------------------------------
// All is decoded to F32 in shared memory, and goes through the tensor cores as two TF32 parts each:
// 22 bits with F32's range.

template <int kHeadDim>
struct PartsF32 {
  static constexpr int kDim = kHeadDim;
  static constexpr int kPitch = kDim + 4;  // floats; 8 rows of 4 neighbours share no bank
  static constexpr int kSize = kTileRows * kPitch;
  static constexpr uint64_t kBytes = uint64_t{kSize} * 4 * 3;
#ifdef __CUDACC__
  float *q, *k, *v;

  __device__ explicit PartsF32(char* base) {
    q = reinterpret_cast<float*>(base);
    k = q + kSize;
    v = k + kSize;
  }

  __device__ void load_queries(const AttentionArgs& a, const Item& item, TileLists& lists) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int row = static_cast<int>(threadIdx.x / 32); row < kTileRows; row += kTileThreads / 32) {
      float x[kDim / 32];
      read_query<kDim>(a, item, row, x);
      if (lane == 0) lists.q_factor[row] = a.op.scale;
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) q[row * kPitch + lane + 32 * j] = x[j];
    }
  }

  __device__ static void load_cells(const KvPage& p, const char* head, const Entry& e, int dim_pad,
                                    float* to) {
    const int units = dim_pad / 8;
    for (int u = static_cast<int>(threadIdx.x); u < kPageCells * units; u += kTileThreads) {
      const int cell = u / units;
      const int i = (u - cell * units) * 8;
      float x[8] = {};
      if (cell >= e.first_cell && cell < e.first_cell + e.n_cells)
        load_eight(p, head, static_cast<uint32_t>(cell), static_cast<uint32_t>(i), x);
      float4* at = reinterpret_cast<float4*>(to + cell * kPitch + i);
      at[0] = {x[0], x[1], x[2], x[3]};
      at[1] = {x[4], x[5], x[6], x[7]};
    }
  }
  __device__ void load_k(const KvPage& p, const char* head, const Entry& e, int dim_pad) const {
    load_cells(p, head, e, dim_pad, k);
  }
  __device__ void load_v(const KvPage& p, const char* head, const Entry& e, int dim_pad) const {
    load_cells(p, head, e, dim_pad, v);
  }

  __device__ void scores(const AttentionArgs& a, float (&s)[8][4]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;
    const float* q_at = q + row * kPitch + lane % 4;
    const float* k_at = k + lane / 4 * kPitch + lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
#pragma unroll 1
    for (int d = 0; d < a.dim_k; d += 8) {
      uint32_t q0[4], q1[4];
      split_tf32(q_at[d], q0[0], q1[0]);
      split_tf32(q_at[d + 8 * kPitch], q0[1], q1[1]);
      split_tf32(q_at[d + 4], q0[2], q1[2]);
      split_tf32(q_at[d + 8 * kPitch + 4], q0[3], q1[3]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        uint32_t b0[2], b1[2];
        split_tf32(k_at[j * 8 * kPitch + d], b0[0], b1[0]);
        split_tf32(k_at[j * 8 * kPitch + d + 4], b0[1], b1[1]);
        multiply_tf32(s[j], q1, b0);
        multiply_tf32(s[j], q0, b1);
        multiply_tf32(s[j], q0, b0);
      }
    }
  }

  // The products' k counts cells 2 t and 2 t + 1 of 8 as t and t + 4: so weights stay where they
  // are.
  __device__ void values(const AttentionArgs& a, const float (&s)[8][4],
                         TileState<kDim>& state) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float* v_at = v + lane % 4 * 2 * kPitch + lane / 4;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      uint32_t w0[4], w1[4];
      split_tf32(s[c][0], w0[0], w1[0]);
      split_tf32(s[c][2], w0[1], w1[1]);
      split_tf32(s[c][1], w0[2], w1[2]);
      split_tf32(s[c][3], w0[3], w1[3]);
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        if (j * 8 >= a.dim_v) break;
        uint32_t b0[2], b1[2];
        split_tf32(v_at[c * 8 * kPitch + j * 8], b0[0], b1[0]);
        split_tf32(v_at[c * 8 * kPitch + kPitch + j * 8], b0[1], b1[1]);
        multiply_tf32(state.sums[j], w1, b0);
        multiply_tf32(state.sums[j], w0, b1);
        multiply_tf32(state.sums[j], w0, b0);
      }
    }
  }
#endif
};

}  // namespace mica::cuda
