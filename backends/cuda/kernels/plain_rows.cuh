// Rows of plain tensors seen by one block: which are live, where they are, their elements as
// floats, and sums over a block.
#pragma once
#include "backends/cuda/encode.cuh"
#include "backends/cuda/kernel.h"

namespace mica::cuda {

inline int64_t rows_of(const Tensor& t) { return t.dim[1] * t.dim[2] * t.dim[3]; }
inline int64_t elements_of(const Tensor& t) { return t.dim[0] * rows_of(t); }
// Elements are adjacent in a row.
inline bool dense_rows(const Tensor& t) {
  const BlockInfo info = block_info(t.dtype);
  return t.stride[0] == info.bytes || t.dim[0] == info.elems;
}
// All rows are adjacent: one run of bytes.
inline bool is_packed(const Tensor& t) {
  const BlockInfo info = block_info(t.dtype);
  int64_t stride = info.bytes;
  for (int i = 0; i < 4; ++i) {
    if (t.dim[i] != (i == 0 ? info.elems : 1) && t.stride[i] != stride) return false;
    stride *= i == 0 ? t.dim[0] / info.elems : t.dim[i];
  }
  return true;
}
inline uint32_t numerics_exact(const Call&) { return MICA_NUM_EXACT; }
inline uint32_t numerics_f32(const Call&) { return MICA_NUM_F32; }

// A grid for n pieces of work that blocks go through in strides of the grid.
inline dim3 grid_for(const Call& call, int64_t n_blocks, int64_t per_sm) {
  const int64_t most = int64_t{device_of(call).n_sms} * per_sm;
  const int64_t n = n_blocks < most ? n_blocks : most;
  return dim3(static_cast<unsigned>(n < 1 ? 1 : n));
}

#ifdef __CUDACC__
// Live rows of a tensor whose slowest dimension, not dim[0], may have an extent.
__device__ inline int64_t live_rows(const Tensor& t) {
  const int64_t rows = t.dim[1] * t.dim[2] * t.dim[3];
  if (t.live == 0 || t.rank < 2) return rows;
  const int64_t slowest = t.dim[t.rank - 1];
  int64_t n = live_count(t.live, slowest);
  n = n < 0 ? 0 : n > slowest ? slowest : n;
  return rows / slowest * n;
}

struct RowIndex {
  int64_t i1, i2, i3;
};
__device__ inline RowIndex row_index(const Tensor& t, int64_t row) {
  if (row < 0x7fffffff) {  // 32-bit divisions are many times faster
    const uint32_t r = static_cast<uint32_t>(row);
    const uint32_t d1 = static_cast<uint32_t>(t.dim[1]);
    const uint32_t rest = r / d1;
    const uint32_t d2 = static_cast<uint32_t>(t.dim[2]);
    const uint32_t i3 = rest / d2;
    return {r - rest * d1, rest - i3 * d2, i3};
  }
  const int64_t rest = row / t.dim[1];
  return {row % t.dim[1], rest % t.dim[2], rest / t.dim[2]};
}
__device__ inline char* row_at(const Tensor& t, RowIndex r) {
  return reinterpret_cast<char*>(t.address) + r.i1 * t.stride[1] + r.i2 * t.stride[2] +
         r.i3 * t.stride[3];
}
// The row of `t` that stands at r when dimensions of 1 are repeated.
__device__ inline char* repeated_row_at(const Tensor& t, RowIndex r) {
  return row_at(t, {t.dim[1] == 1 ? 0 : r.i1, t.dim[2] == 1 ? 0 : r.i2, t.dim[3] == 1 ? 0 : r.i3});
}
// Element i of a row of F32, F16 or BF16 with adjacent elements.
__device__ inline float float_at(mica_dtype dtype, const char* row, int64_t i) {
  return load_float(dtype, row + i * (dtype == MICA_F32 ? 4 : 2));
}

// Over the block, in the same order each time. `scratch`: 32 values. All threads get the result.
template <class T, class Op>
__device__ T reduce_block(T value, T* scratch, Op op) {
  for (int offset = 16; offset > 0; offset /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
  const unsigned warp = threadIdx.x / 32;
  const unsigned n_warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = value;
  __syncthreads();
  value = scratch[0];
  for (unsigned i = 1; i < n_warps; ++i) value = op(value, scratch[i]);
  __syncthreads();
  return value;
}
#endif

}  // namespace mica::cuda
