// What rms_norm and layer_norm share: a row for a warp or for a block, sums over its threads, and
// writing it scaled.
#pragma once
#include "backends/cuda/kernels/elements.cuh"
#include "ops/norm_args.h"

namespace mica::cuda {

struct NormArgs {
  Tensor out;  // its rows are counted
  Operand x, weight, bias, y;
  int64_t n;
  float eps;
};

inline NormArgs norm_args(const Call& call, float eps) {
  const Tensor none = {};
  const auto given = [&](uint32_t i) -> const Tensor& {
    return call.n_in > i && !call.in[i].absent() ? call.in[i] : none;
  };
  return {call.out,
          operand_of(call.in[0], false),
          operand_of(given(1), false),
          operand_of(given(2), false),
          operand_of(call.out, false),
          call.in[0].dim[0],
          eps};
}

// Threads of a row: short ones take a warp, long ones a block.
template <class Warp, class Block>
mica_status norm_launch(const Call& call, Recorder& recorder, Warp warp, Block block,
                        const NormArgs& a) {
  const int64_t rows = rows_of(call.out);
  if (a.n <= 512)
    return launch(recorder, warp, grid_for(call, (rows + 7) / 8, 16), dim3(32, 8), 0, a);
  const unsigned threads = a.n <= 2048 ? 256 : a.n <= 8192 ? 512 : 1024;
  return launch(recorder, block, grid_for(call, rows, 8), dim3(threads), 0, a);
}

#ifdef __CUDACC__
// Over the threads of a row, always in the same order; all of them get it. `scratch`: 32 values.
template <bool kBlock, class T>
__device__ T sum_row(T value, T* scratch) {
  const auto sum = [](T a, T b) { return a + b; };
  if constexpr (kBlock) {
    return reduce_block(value, scratch, sum);
  } else {
    for (int offset = 16; offset > 0; offset /= 2)
      value = sum(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
  }
}

// fn(row) for the live rows of this warp or block.
template <bool kBlock, class Fn>
__device__ void for_rows(const NormArgs& a, Fn fn) {
  const int64_t n_rows = live_rows(a.out);
  const int64_t step = kBlock ? gridDim.x : int64_t{gridDim.x} * blockDim.y;
  const int64_t first = kBlock ? blockIdx.x : int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  for (int64_t i = first; i < n_rows; i += step) fn(row_index(a.out, i));
}

// fn(at) for this thread's groups of a row.
template <class Fn>
__device__ void for_groups(const NormArgs& a, const RowIndex& r, Fn fn) {
  for (int64_t i = int64_t{threadIdx.x} * 4; i < a.n; i += int64_t{blockDim.x} * 4) {
    const int64_t left = a.n - i;
    fn(At{static_cast<uint32_t>(r.i1), static_cast<uint32_t>(r.i2), static_cast<uint32_t>(r.i3), i,
          left < 4 ? static_cast<int>(left) : 4});
  }
}

// The sum of fn(x) over a row.
template <bool kBlock, class T, class Fn>
__device__ T row_sum(const NormArgs& a, const RowIndex& r, T* scratch, Fn fn) {
  T sum = 0;
  for_groups(a, r, [&](const At& at) {
    const Four x = load(a.x, at);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += i < at.n ? fn(x.v[i]) : T{0};
  });
  return sum_row<kBlock>(sum, scratch);
}

// y = fn(x) * weight + bias.
template <class Fn>
__device__ void write_row(const NormArgs& a, const RowIndex& r, Fn fn) {
  for_groups(a, r, [&](const At& at) {
    Four y = load(a.x, at);
    const At column = {0, 0, 0, at.col, at.n};
    const Four one = {{1, 1, 1, 1}}, zero = {};
    const Four w = a.weight.address != 0 ? load(a.weight, column) : one;
    const Four b = a.bias.address != 0 ? load(a.bias, column) : zero;
#pragma unroll
    for (int i = 0; i < 4; ++i) y.v[i] = fn(y.v[i]) * w.v[i] + b.v[i];
    store(a.y, at, y);
  });
}
#endif

}  // namespace mica::cuda
