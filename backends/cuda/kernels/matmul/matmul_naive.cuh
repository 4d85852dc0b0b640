// The plain kernels: one thread an element of the result, any shape and any strides.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_slice.cuh"
#include "backends/cuda/quant/types.h"

namespace mica::cuda {

constexpr int kNaiveThreads = 128;

// A type of plain rows: its elements are read one by one.
template <mica_dtype type>
struct Plain {
  static constexpr mica_dtype kType = type;
  static constexpr PartSizes kParts = {0, 0, 0, 0};
};
template <class T>
constexpr bool kIsPlain = T::kParts.units == 0;

// The 32 elements i_block of row r: of a packed weight, r counting over all its slices of n rows
// each, or of the GGUF blocks at `row`.
template <class T>
__device__ inline Piece<T> piece_of(const uint8_t* base, bool packed, const Packed& layout,
                                    int64_t n, int64_t r, const uint8_t* row, int64_t i_block) {
  if (packed) {
    const CellPlace at = place_of<T>(layout, n, r, i_block);
    return read_cell<T>(base + at.chunk, base + at.super, at.cell);
  }
  constexpr int kPieces = T::kBlock / 32;
  return to_piece<T>(row + i_block / kPieces * T::kBytes, static_cast<int>(i_block % kPieces));
}

template <class T>
__device__ inline double dot_naive(const MatmulArgs& a, const Slice& s, int64_t n, int64_t m) {
  const uint8_t* x = s.x + m * a.x_stride[0];
  const uint8_t* w = s.w + n * a.w_stride[0];
  double sum = 0;
  if constexpr (kIsPlain<T>) {
    for (int64_t i = 0; i < a.k; ++i)
      sum +=
          static_cast<double>(load_x(T::kType, w, i)) * static_cast<double>(load_x(a.x_type, x, i));
  } else {
    for (int64_t i = 0; i < a.k / 32; ++i) {
      const Piece<T> p = piece_of<T>(a.w, a.packed, a.layout, a.n, s.i_w * a.n + n, w, i);
      for (int e = 0; e < 32; ++e)
        sum += static_cast<double>(value_of<T>(p, e)) *
               static_cast<double>(load_x(a.x_type, x, 32 * i + e));
    }
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kNaiveThreads) matmul_naive(const MatmulArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t total = a.n * a.m * a.b2 * a.b3;
  const int64_t step = int64_t{gridDim.x} * kNaiveThreads;
  for (int64_t i = int64_t{blockIdx.x} * kNaiveThreads + threadIdx.x; i < total; i += step) {
    const int64_t n = i % a.n, m = i / a.n % a.m, i_slice = i / a.n / a.m;
    if (m >= live_rows(a, i_slice)) continue;
    const Slice slice = slice_of(a, i_slice);
    slice.out[m * a.n + n] = static_cast<float>(dot_naive<T>(a, slice, n, m));
  }
}

template <class T>
mica_status naive_any(Recorder& r, const MatmulArgs& a) {
  const int64_t blocks = div_up(a.n * a.m * a.b2 * a.b3, kNaiveThreads);
  const int64_t most = int64_t{r.device->n_sms} * 64;
  return launch(r, matmul_naive<T>, dim3(static_cast<uint32_t>(blocks < most ? blocks : most)),
                dim3(kNaiveThreads), 0, a);
}

}  // namespace mica::cuda
