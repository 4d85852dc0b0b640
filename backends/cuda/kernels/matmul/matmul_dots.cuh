// Few rows of x times F32, F16 or BF16 rows, in F32: x goes to shared memory as F32, a warp holds
// four rows of w, a lane 16 bytes of each; the warps of a block share the rows' K between them.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_slice.cuh"
#include "backends/cuda/quant/device.cuh"
#include "backends/cuda/quant/types.h"

namespace mica::cuda {

constexpr int kDotsWarps = 8;
constexpr int kDotsThreads = kDotsWarps * kWarp;
constexpr int kDotsGroup = 4;  // rows of w a warp
constexpr int kDotsBatch = 2;  // 16 bytes of each that a lane asks for at a time

struct DotsArgs {
  MatmulArgs a;
  uint32_t split;  // log2 of the warps that share a group's K
};

template <mica_dtype kType>
constexpr int kUnitElems = kType == MICA_F32 ? 4 : 8;  // of 16 bytes

// Elements 4 * part … of the 16 bytes at v.
template <mica_dtype kType>
__device__ inline float4 unit_values(const uint4& v, int part) {
  if (kType == MICA_F32)
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                       __uint_as_float(v.w));
  const uint32_t a = part == 0 ? v.x : v.z, b = part == 0 ? v.y : v.w;
  if (kType == MICA_F16)
    return make_float4(half_value(a & 0xffff), half_value(a >> 16), half_value(b & 0xffff),
                       half_value(b >> 16));
  return make_float4(float_of(a << 16), float_of(a & 0xffff0000u), float_of(b << 16),
                     float_of(b & 0xffff0000u));
}

struct DotsBatch {
  uint4 v[kDotsBatch][kDotsGroup];
};

// Rows beyond the last one repeat it; their sums go nowhere.
__device__ inline void load_dots(DotsBatch& batch, const MatmulArgs& a, const uint8_t* w,
                                 int64_t group, int64_t unit, int64_t end, uint64_t policy) {
#pragma unroll
  for (int i = 0; i < kDotsBatch; ++i) {
    if (unit + i * kWarp >= end) break;
#pragma unroll
    for (int r = 0; r < kDotsGroup; ++r) {
      const int64_t row = group * kDotsGroup + r;
      const uint8_t* from = w + (row < a.n ? row : a.n - 1) * a.w_stride[0];
      batch.v[i][r] = load_once16(from + (unit + i * kWarp) * 16, policy);
    }
  }
}

template <mica_dtype kType, int kRows>
__device__ inline void add_dots(float (&sum)[kDotsGroup][kRows], const DotsBatch& batch,
                                const float4* x, int64_t n_units, int64_t unit, int64_t end,
                                int n_rows) {
  constexpr int kParts = kUnitElems<kType> / 4;
#pragma unroll
  for (int i = 0; i < kDotsBatch; ++i) {
    const int64_t at = unit + i * kWarp;
    if (at >= end) break;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (kRows > 1 && m >= n_rows) break;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float4 b = x[(m * kParts + part) * n_units + at];
#pragma unroll
        for (int r = 0; r < kDotsGroup; ++r) {
          const float4 v = unit_values<kType>(batch.v[i][r], part);
          float& s = sum[r][m];
          s = fmaf(v.x, b.x, s), s = fmaf(v.y, b.y, s);
          s = fmaf(v.z, b.z, s), s = fmaf(v.w, b.w, s);
        }
      }
    }
  }
}

template <mica_dtype kType, int kRows>
__global__ void __launch_bounds__(kDotsThreads) dots(const DotsArgs args) {
  extern __shared__ float4 x_shared[];
  __shared__ float partial[2][kDotsWarps][kDotsGroup * kRows];
  constexpr int kParts = kUnitElems<kType> / 4;
  const MatmulArgs& a = args.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int parts = 1 << args.split, share = warp % parts;
  const int groups_each = kDotsWarps >> args.split;
  const int64_t n_units = a.k / kUnitElems<kType>;
  const int64_t begin = (n_units * share >> args.split) + lane;
  const int64_t end = n_units * (share + 1) >> args.split;
  const int64_t n_groups = (a.n + kDotsGroup - 1) / kDotsGroup;
  const int64_t n_passes = (n_groups + groups_each - 1) >> (3 - args.split);  // 8 warps
  const uint64_t policy = read_once_policy();
  const Slice slice = slice_of(a, blockIdx.y);
  const int64_t first = int64_t{blockIdx.z} * kRows;

  int64_t pass = blockIdx.x;
  int64_t group = pass * groups_each + warp / parts;
  int64_t unit = begin;
  DotsBatch batch;
  if (!a.w_constant) wait_for_inputs();
  if (group < n_groups) load_dots(batch, a, slice.w, group, unit, end, policy);
  if (a.w_constant) wait_for_inputs();
  const int64_t live = live_rows(a, blockIdx.y) - first;
  const int n_rows = static_cast<int>(live < 0 ? 0 : live < kRows ? live : kRows);
  if (n_rows == 0) return;
  for (int m = 0; m < n_rows; ++m)
    for (int64_t i = threadIdx.x; i < n_units * kParts; i += kDotsThreads)
      x_shared[(m * kParts + i % kParts) * n_units + i / kParts] =
          load_x4(a.x_type, slice.x + (first + m) * a.x_stride[0], 4 * i, a.k);
  __syncthreads();
  start_next();

  float sum[kDotsGroup][kRows] = {};
  int turn = 0;
  while (pass < n_passes) {
    // All lanes of a warp turn to the next group together: `unit - lane` is the warp's place.
    const bool last = unit - lane + kDotsBatch * kWarp >= end;
    const int64_t next_pass = last ? pass + gridDim.x : pass;
    const int64_t next_group = next_pass * groups_each + warp / parts;
    const int64_t next_unit = last ? begin : unit + kDotsBatch * kWarp;
    DotsBatch next;
    if (next_pass < n_passes && next_group < n_groups)
      load_dots(next, a, slice.w, next_group, next_unit, end, policy);
    if (group < n_groups) add_dots<kType, kRows>(sum, batch, x_shared, n_units, unit, end, n_rows);
    if (last) {
#pragma unroll
      for (int r = 0; r < kDotsGroup; ++r)
#pragma unroll
        for (int m = 0; m < kRows; ++m) {
          float s = sum[r][m];
          for (int i = 1; i < kWarp; i *= 2) s += __shfl_xor_sync(0xffffffffu, s, i);
          if (lane == 0) partial[turn][warp][m * kDotsGroup + r] = s;
          sum[r][m] = 0;
        }
      if (parts > 1)
        __syncthreads();
      else
        __syncwarp();
      for (int i = lane; share == 0 && i < n_rows * kDotsGroup; i += kWarp) {
        const int64_t n = group * kDotsGroup + i % kDotsGroup;
        float total = 0;
        for (int j = 0; j < parts; ++j) total += partial[turn][warp + j][i];
        if (n < a.n) slice.out[(first + i / kDotsGroup) * a.n + n] = total;
      }
      turn ^= 1;
    }
    batch = next;
    pass = next_pass, group = next_group, unit = next_unit;
  }
}

template <mica_dtype kType, int kRows>
mica_status launch_dots(Recorder& r, const MatmulArgs& a) {
  DotsArgs args = {a, 0};
  const int64_t n_units = a.k / kUnitElems<kType>;
  const int64_t n_groups = div_up(a.n, kDotsGroup);
  const int64_t want = int64_t{r.device->n_sms} * 2 * kDotsWarps;
  while (args.split < 3 &&
         (n_units >= (int64_t{2} << args.split) * kDotsBatch * kWarp ||
          (n_groups << args.split < want && n_units >= (int64_t{2} << args.split) * kWarp)))
    ++args.split;
  const int64_t n_passes = div_up(n_groups, kDotsWarps >> args.split);
  const uint64_t shared_bytes = uint64_t(a.k) * 4 * kRows;
  const int64_t blocks_each = shared_bytes <= 100 * 1024 ? 2 : 1;
  const int64_t blocks = r.device->n_sms * blocks_each;
  const dim3 grid(static_cast<uint32_t>(n_passes < blocks ? n_passes : blocks),
                  static_cast<uint32_t>(a.b2 * a.b3), static_cast<uint32_t>(div_up(a.m, kRows)));
  return launch(r, dots<kType, kRows>, grid, dim3(kDotsThreads),
                shared_of_blocks(*r.device, shared_bytes, uint64_t(blocks_each)), args);
}

// Blocks take as many rows of x as fit into shared memory, up to eight.
template <mica_dtype kType>
mica_status dots_any(Recorder& r, const MatmulArgs& a) {
  const int64_t fit = static_cast<int64_t>(r.device->max_shared_bytes - 4096) / (a.k * 4);
  if (a.m == 1 || fit < 2) return launch_dots<kType, 1>(r, a);
  if (a.m == 2 || fit < 4) return launch_dots<kType, 2>(r, a);
  if (a.m <= 4 || fit < 8) return launch_dots<kType, 4>(r, a);
  return launch_dots<kType, 8>(r, a);
}

}  // namespace mica::cuda
