// Few rows of x times a packed weight, for devices without bulk copies (below sm_90): x is rounded
// to int8 per 32 (MICA_NUM_Q8_32) by every block into shared memory, products are dp4a. A warp
// holds eight rows of w, a lane one of four blocks of a chunk; the warps of a block share a group's
// K between them. A batch of weights is asked for while the one before it is used.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_stream.cuh"

namespace mica::cuda {

constexpr int kMatvecWarps = 8;
constexpr int kMatvecThreads = kMatvecWarps * kWarp;

struct MatvecArgs {
  MatmulArgs a;
  uint32_t split;  // log2 of the warps that share a group's K
};

// Chunks of weights that a lane asks for at a time.
template <class T>
constexpr int kBatch = T::kParts.units == 2 || T::kParts.high == 8 ? 2 : 4;

template <class T>
struct Batch {
  Piece<T> piece[kBatch<T>];
};

// A lane's cells of chunks [chunk, end) of the group at `group`, at most kBatch.
template <class T>
__device__ inline void load_batch(Batch<T>& batch, const uint8_t* group, int64_t chunk, int64_t end,
                                  int lane, uint64_t policy) {
  constexpr PartSizes s = T::kParts;
#pragma unroll
  for (int i = 0; i < kBatch<T>; ++i) {
    if (chunk + i >= end) break;
    Piece<T>& p = batch.piece[i];
    const uint8_t* pair = group + (chunk + i) / 2 * s.pair_bytes();
    const uint8_t* at = pair + (chunk + i) % 2 * s.chunk_bytes();
#pragma unroll
    for (uint32_t u = 0; u < s.units; ++u) {
      const uint4 q = load_once16(at + (u * 32 + lane) * 16, policy);
      p.q[4 * u] = q.x, p.q[4 * u + 1] = q.y, p.q[4 * u + 2] = q.z, p.q[4 * u + 3] = q.w;
    }
    const uint8_t* h = at + s.high_at() + lane * s.high;
    if constexpr (s.high == 4) p.h[0] = load_once4(h, policy);
    if constexpr (s.high == 8) {
      const uint2 v = load_once8(h, policy);
      p.h[0] = v.x, p.h[1] = v.y;
    }
    const uint8_t* scale = at + s.scale_at() + lane * s.scale;
    p.s = s.scale == 4 ? load_once4(scale, policy) : load_once2(scale, policy);
    const uint8_t* d = pair + 2 * s.chunk_bytes() + lane % kGroupRows * s.super;
    if constexpr (s.super == 4) p.d = load_once4(d, policy);
    if constexpr (s.super == 2) p.d = load_once2(d, policy);
  }
}

template <class T, int kRows>
__device__ inline void dot_batch(float (&sum)[kRows], const Batch<T>& batch, const Q8Rows& q,
                                 int64_t chunk, int64_t end, int n_rows, int lane) {
  const Q8Block x(q, static_cast<int>(chunk) * 4 + lane / 8);
#pragma unroll
  for (int i = 0; i < kBatch<T>; ++i) {
    if (chunk + i >= end) break;
    dot_cell<T, kRows>(sum, batch.piece[i], x, 4 * i, n_rows);
  }
}

template <class T, int kRows>
__global__ void __launch_bounds__(kMatvecThreads) matvec(const MatvecArgs args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
  extern __shared__ uint4 shared[];
  __shared__ float partial[2][kMatvecWarps][kRows][kGroupRows];
  const MatmulArgs& a = args.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int parts = 1 << args.split, part = warp % parts;
  const int groups_each = kMatvecWarps >> args.split;  // of a pass
  const int64_t begin = a.layout.chunks * part / parts;
  const int64_t end = a.layout.chunks * (part + 1) / parts;
  const int64_t n_passes = (a.layout.groups + groups_each - 1) / groups_each;
  const uint64_t policy = read_once_policy();
  const Slice slice = slice_of(a, blockIdx.y);

  int64_t pass = blockIdx.x;
  int64_t group = pass * groups_each + warp / parts;
  int64_t chunk = begin;
  Batch<T> batch;
  if (group < a.layout.groups)
    load_batch<T>(batch, slice.w + group * a.layout.group_bytes, chunk, end, lane, policy);
  wait_for_inputs();
  start_next();
  const int64_t live = live_rows(a, blockIdx.y);
  const int n_rows = static_cast<int>(live < kRows ? live : kRows);
  if (n_rows == 0) return;
  const Q8Rows q(shared, a.layout.chunks, kRows);
  round_rows<kMatvecThreads>(a, slice.x, n_rows, q);
  __syncthreads();

  float sum[kRows] = {};
  int turn = 0;
  while (pass < n_passes) {
    const bool last = chunk + kBatch<T> >= end;
    const int64_t next_pass = last ? pass + gridDim.x : pass;
    const int64_t next_group = next_pass * groups_each + warp / parts;
    const int64_t next_chunk = last ? begin : chunk + kBatch<T>;
    Batch<T> next;
    if (next_pass < n_passes && next_group < a.layout.groups)
      load_batch<T>(next, slice.w + next_group * a.layout.group_bytes, next_chunk, end, lane,
                    policy);
    if (group < a.layout.groups) dot_batch<T, kRows>(sum, batch, q, chunk, end, n_rows, lane);
    if (last) {
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], 8);
        sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], 16);
        if (lane < kGroupRows) partial[turn][warp][m][lane] = sum[m];
        sum[m] = 0;
      }
      if (parts > 1)
        __syncthreads();
      else
        __syncwarp();
      // The first warp of a group's adds up: lane = row, and m in steps.
      const int64_t n = group * kGroupRows + lane % kGroupRows;
      if (part == 0 && n < a.n)
        for (int m = lane / kGroupRows; m < n_rows; m += kWarp / kGroupRows) {
          float total = 0;
          for (int i = 0; i < parts; ++i) total += partial[turn][warp + i][m][lane % kGroupRows];
          slice.out[m * a.n + n] = total;
        }
      turn ^= 1;
    }
    batch = next;
    pass = next_pass, group = next_group, chunk = next_chunk;
  }
#endif
}

template <class T, int kRows>
mica_status launch_matvec(Recorder& r, const MatmulArgs& a) {
  MatvecArgs args = {a, 0};
  const int64_t want = int64_t{r.device->n_sms} * 2 * kMatvecWarps;
  while (args.split < 3 &&
         (a.layout.chunks >= (int64_t{2} << args.split) * kBatch<T> ||
          (a.layout.groups << args.split < want && a.layout.chunks >= int64_t{2} << args.split)))
    ++args.split;
  const int64_t groups_each = kMatvecWarps >> args.split;
  const int64_t n_passes = div_up(a.layout.groups, groups_each);
  const uint64_t shared_bytes = uint64_t(a.layout.chunks) * 4 * kQ8BlockBytes * kRows;
  const int64_t blocks = int64_t{r.device->n_sms} * (shared_bytes <= 100 * 1024 ? 2 : 1);
  const dim3 grid(static_cast<uint32_t>(n_passes < blocks ? n_passes : blocks),
                  static_cast<uint32_t>(a.b2 * a.b3));
  return launch(r, matvec<T, kRows>, grid, dim3(kMatvecThreads), shared_bytes, args);
}

// a.m is 1 to 8.
template <class T>
mica_status matvec_any(Recorder& r, const MatmulArgs& a) {
  if (r.device->cc >= 90) {
    if (a.m == 1) return launch_stream<T, 1>(r, a);
    if (a.m == 2) return launch_stream<T, 2>(r, a);
    if (a.m <= 4) return launch_stream<T, 4>(r, a);
    return launch_stream<T, 8>(r, a);
  }
  if (a.m == 1) return launch_matvec<T, 1>(r, a);
  if (a.m == 2) return launch_matvec<T, 2>(r, a);
  if (a.m <= 4) return launch_matvec<T, 4>(r, a);
  return launch_matvec<T, 8>(r, a);
}

}  // namespace mica::cuda
