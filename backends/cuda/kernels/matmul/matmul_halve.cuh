// A packed weight as rows of F16, for cuBLASLt and wgmma: each value rounded once, half to even.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_naive.cuh"
#include "backends/cuda/quant/device.cuh"

namespace mica::cuda {

constexpr int kHalveWarps = 8;
// In shared memory a row of a chunk is 16 times 16 bytes, and 16 more: so that cells of eight rows
// lie in different banks.
constexpr int kHalveRow = 17;

// read_cell() of quant/types.h with loads as wide as there are.
template <class T>
__device__ inline Piece<T> load_cell(const uint8_t* chunk, const uint8_t* super, int cell,
                                     uint64_t policy) {
  Piece<T> p = {};
  constexpr PartSizes s = T::kParts;
#pragma unroll
  for (int u = 0; u < static_cast<int>(s.units); ++u) {
    const uint4 q = load_once16(chunk + (u * 32 + cell) * 16, policy);
    p.q[4 * u] = q.x, p.q[4 * u + 1] = q.y, p.q[4 * u + 2] = q.z, p.q[4 * u + 3] = q.w;
  }
  const uint8_t* high = chunk + s.high_at() + cell * s.high;
  if constexpr (s.high == 4) p.h[0] = load_once4(high, policy);
  if constexpr (s.high == 8) {
    const uint2 h = load_once8(high, policy);
    p.h[0] = h.x, p.h[1] = h.y;
  }
  const uint8_t* scale = chunk + s.scale_at() + cell * s.scale;
  if constexpr (s.scale == 4) p.s = load_once4(scale, policy);
  if constexpr (s.scale == 2) p.s = load_once2(scale, policy);
  // Read by the warps of two chunks: left in the caches.
  const uint8_t* d = super + cell % 8 * s.super;
  if constexpr (s.super == 4) p.d = *reinterpret_cast<const uint32_t*>(d);
  if constexpr (s.super == 2) p.d = *reinterpret_cast<const uint16_t*>(d);
  return p;
}

// Elements first and first + 1 of a block.
template <class T>
__device__ inline uint32_t half_pair(const Piece<T>& p, int first) {
  const __half2 v = __floats2half2_rn(value_of<T>(p, first), value_of<T>(p, first + 1));
  return *reinterpret_cast<const uint32_t*>(&v);
}

// A warp takes a chunk of a group: a lane decodes a cell, and a store writes two rows' 256 bytes.
template <class T>
__global__ void __launch_bounds__(kHalveWarps* kWarp) halve_rows(const HalveArgs a) {
  __shared__ uint4 shared_tiles[kHalveWarps * kGroupRows * kHalveRow];
  wait_for_inputs();
  start_next();
  constexpr PartSizes s = T::kParts;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint4* tile = shared_tiles + warp * static_cast<int>(kGroupRows) * kHalveRow;
  const int64_t items = div_up(a.n, kGroupRows) * a.layout.chunks;
  const uint64_t policy = read_once_policy();
  for (int64_t i = int64_t{blockIdx.x} * kHalveWarps + warp; i < items;
       i += int64_t{gridDim.x} * kHalveWarps) {
    const int64_t group = i / a.layout.chunks, chunk = i % a.layout.chunks;
    const int64_t at = a.first / kGroupRows + group;
    const Piece<T> p = load_cell<T>(a.w + chunk_at(a.layout, s, at, chunk),
                                    a.w + super_at(a.layout, s, at, chunk), lane, policy);
    uint4* mine = tile + lane % 8 * kHalveRow + lane / 8 * 4;
#pragma unroll
    for (int u = 0; u < 4; ++u)
      mine[u] = make_uint4(half_pair<T>(p, 8 * u), half_pair<T>(p, 8 * u + 2),
                           half_pair<T>(p, 8 * u + 4), half_pair<T>(p, 8 * u + 6));
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = j * 2 + lane / 16, unit = lane % 16;
      const int64_t n = group * kGroupRows + row, k = chunk * kChunkElems + unit * 8;
      if (n < a.n && k < a.k)
        *reinterpret_cast<uint4*>(a.out + n * a.k + k) = tile[row * kHalveRow + unit];
    }
    __syncwarp();
  }
}

template <class T>
mica_status halve_any(Recorder& r, const HalveArgs& a) {
  const int64_t items = div_up(a.n, kGroupRows) * a.layout.chunks;
  const int64_t blocks = div_up(items, kHalveWarps), most = int64_t{r.device->n_sms} * 16;
  return launch(r, halve_rows<T>, dim3(static_cast<uint32_t>(blocks < most ? blocks : most)),
                dim3(kHalveWarps * kWarp), 0, a);
}

}  // namespace mica::cuda
