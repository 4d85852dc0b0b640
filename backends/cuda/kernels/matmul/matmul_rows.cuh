// Rows of x on their way into shared memory, with an rms_norm where one comes first. A norm's
// factor is one scalar a row, so nothing waits for it: what goes to shared memory is x * weight,
// its squares are gathered meanwhile, and sums are multiplied by the factor where they leave a
// warp.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_stream.cuh"

namespace mica::cuda {

// From memory to the L2 cache, which inputs of the step may be asked of at any time, too.
__device__ inline void prefetch_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// x of a kernel, and the norm of it.
struct RowsArgs {
  const uint8_t* x;
  const float* norm;              // the weight of an rms_norm of x; nullptr: none
  float* norm_out;                // where its result is wanted too; nullptr: nowhere
  uint64_t live;                  // of m
  int64_t x_stride, norm_stride;  // bytes between rows
  int64_t k, m;                   // k is a multiple of 4
  float eps;
  mica_dtype x_type;
};

// Of a block.
template <int kRows>
struct RowScratch {
  double wide[kRows][kStreamWarps];
  float squares[kRows][kStreamWarps];
};

__device__ inline float squares_of(const float4& v) {
  return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w)));
}
// Products and squares so far from the ends of F32's range that sums of either stay inside.
__device__ inline bool is_tame(const float4& x, const float4& w, const float4& v, float squares) {
  const float most = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  if (squares > 1e-30f && squares < 1e30f && most > 1e-25f && most < 1e25f) return true;
  const bool zeros = (x.x == 0 || w.x == 0) && (x.y == 0 || w.y == 0) && (x.z == 0 || w.z == 0) &&
                     (x.w == 0 || w.w == 0);
  const bool no_x = x.x == 0 && x.y == 0 && x.z == 0 && x.w == 0;
  return zeros && (squares > 1e-30f || no_x) && squares < 1e30f;
}

// Row m, with zeros up to whole quads of the image: image.put(m, quad, value), by whole warps.
// Loads of kAhead quads are under way before the first is used, and before n_rows is: it is on its
// way itself; then meanwhile() is called, once. False: some value is not tame.
template <int kAhead, class Image, class Load, class Meanwhile>
__device__ inline bool put_row(const RowsArgs& a, const Image& image, int m, int n_rows, Load load,
                               float& out_squares, Meanwhile meanwhile) {
  const int n_quads = image.n_quads(), k = static_cast<int>(a.k);
  const float4* norm = reinterpret_cast<const float4*>(a.norm);
  const float4 zero = make_float4(0, 0, 0, 0), one = make_float4(1, 1, 1, 1);
  bool tame = true;
  out_squares = 0;
  int first = static_cast<int>(threadIdx.x);
  do {
    float4 x[kAhead], w[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int quad = first + i * kStreamThreads;
      x[i] = 4 * quad < k ? load(quad) : zero;
      w[i] = norm != nullptr && 4 * quad < k ? norm[quad] : one;
    }
    if (first == static_cast<int>(threadIdx.x)) meanwhile();
    if (m >= n_rows) break;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int quad = first + i * kStreamThreads;
      if (quad >= n_quads) break;
      float4 v = x[i];
      if (norm != nullptr) {
        v = make_float4(v.x * w[i].x, v.y * w[i].y, v.z * w[i].z, v.w * w[i].w);
        const float four = squares_of(x[i]);
        tame = tame && is_tame(x[i], w[i], v, four);
        out_squares += four;
      }
      image.put(m, quad, v);
    }
    first += kAhead * kStreamThreads;
  } while (first < n_quads);
  return tame;
}

// The norm row by row in two passes, its squares in double: for values that are not tame.
template <int kRows, class Image>
__device__ __noinline__ void put_rows_exactly(const RowsArgs& a, const Image& image, int n_rows,
                                              RowScratch<kRows>& scratch, float (&factor)[kRows]) {
  const int n_quads = image.n_quads(), k = static_cast<int>(a.k);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int m = 0; m < n_rows; ++m) {
    const uint8_t* row = a.x + m * a.x_stride;
    double squares = 0;
    for (int i = threadIdx.x; 4 * i < k; i += kStreamThreads) {
      const float4 v = load_x4(a.x_type, row, int64_t{4} * i, a.k);
      const double x = v.x, y = v.y, z = v.z, w = v.w;
      squares += x * x + y * y + z * z + w * w;
    }
    for (int i = 1; i < kWarp; i *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, i);
    if (lane == 0) scratch.wide[m][warp] = squares;
  }
  __syncthreads();
  for (int m = 0; m < n_rows; ++m) {
    double sum = 0;
    for (int i = 0; i < kStreamWarps; ++i) sum += scratch.wide[m][i];
    const double mean = sum / static_cast<double>(a.k) + static_cast<double>(a.eps);
    factor[m] = static_cast<float>(1.0 / sqrt(mean));
    for (int i = threadIdx.x; i < n_quads; i += kStreamThreads) {
      float4 v = load_x4(a.x_type, a.x + m * a.x_stride, int64_t{4} * i, a.k);
      if (4 * i < k) {
        const float4 w = reinterpret_cast<const float4*>(a.norm)[i];
        v.x = v.x * factor[m] * w.x, v.y = v.y * factor[m] * w.y;
        v.z = v.z * factor[m] * w.z, v.w = v.w * factor[m] * w.w;
      }
      image.put(m, i, v);
    }
  }
}

// The norm's result, to where others read it: the blocks share the rows.
template <int kRows>
__device__ inline void write_norm(const RowsArgs& a, int n_rows, const float (&factor)[kRows]) {
  const int n_quads = static_cast<int>(a.k / 4);
  const int step = static_cast<int>(gridDim.x) * kStreamThreads;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (m >= n_rows) break;
    for (int i = static_cast<int>(blockIdx.x) * kStreamThreads + static_cast<int>(threadIdx.x);
         i < n_quads; i += step) {
      float4 v = load_x4(a.x_type, a.x + m * a.x_stride, int64_t{4} * i, a.k);
      const float4 w = reinterpret_cast<const float4*>(a.norm)[i];
      v.x = v.x * factor[m] * w.x, v.y = v.y * factor[m] * w.y;
      v.z = v.z * factor[m] * w.z, v.w = v.w * factor[m] * w.w;
      *reinterpret_cast<float4*>(reinterpret_cast<uint8_t*>(a.norm_out) + m * a.norm_stride +
                                 16 * i) = v;
    }
  }
}

// Rows [0, n_rows) to the image; `factor` is what sums of theirs are to be multiplied by. All
// threads of the block; when it returns the image is there for all of them. meanwhile() is called
// when what is first wanted of x has been asked for.
template <int kRows, class Image, class Meanwhile>
__device__ inline void prepare_rows(const RowsArgs& a, const Image& image, int n_rows,
                                    RowScratch<kRows>& scratch, float (&factor)[kRows],
                                    Meanwhile meanwhile) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  bool tame = true;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    factor[m] = 1;
    if (m > 0 && m >= n_rows) break;
    const uint8_t* row = a.x + m * a.x_stride;
    float squares;
    const auto once = [&] {
      if (m == 0) meanwhile();
    };
    if (a.x_type == MICA_F32 && reinterpret_cast<uint64_t>(row) % 16 == 0) {
      const auto load = [=](int quad) { return reinterpret_cast<const float4*>(row)[quad]; };
      tame = put_row<8>(a, image, m, n_rows, load, squares, once) && tame;
    } else {
      const auto load = [&](int quad) { return load_x4(a.x_type, row, int64_t{4} * quad, a.k); };
      tame = put_row<1>(a, image, m, n_rows, load, squares, once) && tame;
    }
    if (a.norm == nullptr) continue;
    for (int i = 1; i < kWarp; i *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, i);
    if (lane == 0) scratch.squares[m][warp] = squares;
  }
  if (a.norm == nullptr) return __syncthreads();
  if (__syncthreads_or(tame ? 0 : 1) != 0) {
    put_rows_exactly<kRows>(a, image, n_rows, scratch, factor);
    if (a.norm_out != nullptr) write_norm<kRows>(a, n_rows, factor);
#pragma unroll
    for (int m = 0; m < kRows; ++m) factor[m] = 1;
    return __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (m >= n_rows) break;
    float sum = scratch.squares[m][lane % kStreamWarps];
    for (int i = 1; i < kStreamWarps; i *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    factor[m] = 1.0f / sqrtf(sum / static_cast<float>(a.k) + a.eps);
  }
  if (a.norm_out != nullptr) write_norm<kRows>(a, n_rows, factor);
}

// Asks for what is constant before the inputs are waited for: it comes from memory.
__device__ inline void prefetch_norm(const RowsArgs& a) {
  const int64_t at = int64_t{threadIdx.x} * 128;
  if (a.norm == nullptr) return;
  for (int64_t i = at; i < 4 * a.k; i += int64_t{kStreamThreads} * 128)
    prefetch_l2(reinterpret_cast<const uint8_t*>(a.norm) + i);
}

}  // namespace mica::cuda
