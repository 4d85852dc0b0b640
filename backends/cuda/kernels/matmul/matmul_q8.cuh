// Rows of x rounded to int8 per 32 (MICA_NUM_Q8_32), as matvec kernels want them in shared memory,
// and a block of a packed weight times a block of such a row.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_slice.cuh"
#include "backends/cuda/quant/device.cuh"

namespace mica::cuda {

constexpr uint64_t kQ8BlockBytes = 40;  // of 32 elements

// Of row m and block b the quants 0…15 are at [2m * n_blocks + b] and 16…31 at
// [(2m + 1) * n_blocks + b], 16 bytes each; behind all of them {scale, sums of the two halves}, 8
// bytes, at [m * n_blocks + b].
struct Q8Rows {
  uint4* quants;
  uint2* marks;
  int32_t n_blocks;
  __device__ Q8Rows(void* at, int64_t chunks, int n_rows)
      : quants(static_cast<uint4*>(at)), n_blocks(static_cast<int32_t>(chunks) * 4) {
    marks = reinterpret_cast<uint2*>(quants + 2 * n_rows * n_blocks);
  }
};

// Four elements a lane, eight lanes a block. All 32 lanes of a warp take part.
__device__ inline void round_block(const float4 v, int m, int quad, const Q8Rows& q) {
  float amax = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  for (int i = 1; i < 8; i *= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, i));
  constexpr float kSmallest = 127.0f / 0x1.fffffep127f;
  const float inverse = amax > kSmallest ? __fdiv_rn(127.0f, amax) : 0.0f;
  const int q0 = __float2int_rn(__fmul_rn(v.x, inverse));
  const int q1 = __float2int_rn(__fmul_rn(v.y, inverse));
  const int q2 = __float2int_rn(__fmul_rn(v.z, inverse));
  const int q3 = __float2int_rn(__fmul_rn(v.w, inverse));
  const uint32_t word =
      (q0 & 255) | (q1 & 255) << 8 | (q2 & 255) << 16 | static_cast<uint32_t>(q3) << 24;
  int sum = __dp4a(static_cast<int>(word), 0x01010101, 0);
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  const int other = __shfl_xor_sync(0xffffffffu, sum, 4);
  const int block = quad / 8, part = quad % 8;
  uint32_t* words = reinterpret_cast<uint32_t*>(q.quants + (2 * m + part / 4) * q.n_blocks + block);
  words[part % 4] = word;
  if (part == 0)
    q.marks[m * q.n_blocks + block] =
        make_uint2(__float_as_uint(__fdiv_rn(amax, 127.0f)),
                   (sum & 0xffff) | static_cast<uint32_t>(other) << 16);
}

// Quads [first, n_quads) of row m in steps of `step`, both alike in all lanes but for the lane;
// loads of several are under way before the first is used.
template <class Load>
__device__ inline void round_quads(const Q8Rows& q, int m, int first, int n_quads, int step,
                                   Load load) {
  constexpr int kAhead = 4;
  for (; first < n_quads; first += kAhead * step) {
    float4 v[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * step < n_quads) v[i] = load(first + i * step);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * step < n_quads) round_block(v[i], m, first + i * step, q);
  }
}

// Row m with zeros up to whole chunks. `n_quads`, of four elements, is a multiple of 32.
__device__ inline void round_row(const MatmulArgs& a, const uint8_t* row, int m, const Q8Rows& q,
                                 int first, int n_quads, int step) {
  const int k = static_cast<int>(a.k);
  if (a.x_type == MICA_F32 && k % 4 == 0 && reinterpret_cast<uint64_t>(row) % 16 == 0) {
    const float4* x = reinterpret_cast<const float4*>(row);
    round_quads(q, m, first, n_quads, step,
                [=](int i) { return 4 * i < k ? x[i] : make_float4(0, 0, 0, 0); });
  } else {
    const mica_dtype type = a.x_type;
    round_quads(q, m, first, n_quads, step, [=](int i) { return load_x4(type, row, 4 * i, k); });
  }
}

// Rows [0, n_rows) of a slice, by all `n_threads` of the block.
template <int n_threads>
__device__ inline void round_rows(const MatmulArgs& a, const uint8_t* x, int n_rows,
                                  const Q8Rows& q) {
  for (int m = 0; m < n_rows; ++m)
    round_row(a, x + m * a.x_stride[0], m, q, static_cast<int>(threadIdx.x), q.n_blocks * 8,
              n_threads);
}

// A block of rows of x in shared memory: that of row m is at quants[2m * n_blocks] (elements 0…15),
// quants[(2m + 1) * n_blocks] and marks[m * n_blocks].
struct Q8Block {
  const uint4* quants;
  const uint2* marks;
  int32_t n_blocks;

  __device__ Q8Block(const Q8Rows& rows, int block)
      : quants(rows.quants + block), marks(rows.marks + block), n_blocks(rows.n_blocks) {}
  __device__ void skip(int blocks) { quants += blocks, marks += blocks; }
};

// A block of w (its quants in w: 0…15, then 16…31) times block `ahead` behind x of row m.
template <class T>
__device__ inline float dot_block(const Piece<T>& p, const uint32_t (&w)[8], const Q8Block& x,
                                  int ahead, int m) {
  const uint4 x0 = x.quants[2 * m * x.n_blocks + ahead];
  const uint4 x1 = x.quants[(2 * m + 1) * x.n_blocks + ahead];
  const uint2 mark = x.marks[m * x.n_blocks + ahead];
  const float scale = __uint_as_float(mark.x);
  const int sum0 = static_cast<int16_t>(mark.y & 0xffff), sum1 = static_cast<int32_t>(mark.y) >> 16;
  int i0 = __dp4a(static_cast<int>(w[0]), static_cast<int>(x0.x), 0);
  i0 = __dp4a(static_cast<int>(w[1]), static_cast<int>(x0.y), i0);
  i0 = __dp4a(static_cast<int>(w[2]), static_cast<int>(x0.z), i0);
  i0 = __dp4a(static_cast<int>(w[3]), static_cast<int>(x0.w), i0);
  int i1 = __dp4a(static_cast<int>(w[4]), static_cast<int>(x1.x), 0);
  i1 = __dp4a(static_cast<int>(w[5]), static_cast<int>(x1.y), i1);
  i1 = __dp4a(static_cast<int>(w[6]), static_cast<int>(x1.z), i1);
  i1 = __dp4a(static_cast<int>(w[7]), static_cast<int>(x1.w), i1);
  if constexpr (T::kHalves) {
    const int total =
        T::half_scale(p, 0) * (i0 - T::kZero * sum0) + T::half_scale(p, 1) * (i1 - T::kZero * sum1);
    return scale * half_value(p.d) * static_cast<float>(total);
  } else {
    const int total = T::kZero != 0 ? i0 + i1 - T::kZero * (sum0 + sum1) : i0 + i1;
    const float sum = T::step(p, 0) * static_cast<float>(total);
    return scale * (T::kMin ? sum + T::shift(p) * static_cast<float>(sum0 + sum1) : sum);
  }
}

// A cell's block times that of rows [0, n_rows).
template <class T, int kRows>
__device__ inline void dot_cell(float (&sum)[kRows], const Piece<T>& p, const Q8Block& x, int ahead,
                                int n_rows) {
  uint32_t w[8];
#pragma unroll
  for (int j = 0; j < 4; ++j) w[j] = T::low(p, j), w[4 + j] = T::high(p, j);
#pragma unroll
  for (int m = 0; m < kRows; ++m)
    if (kRows == 1 || m < n_rows) sum[m] += dot_block<T>(p, w, x, ahead, m);
}

}  // namespace mica::cuda
