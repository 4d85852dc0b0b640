// Which part of a matmul a block does: its slice, and how many rows of x live; and what keeps
// blocks apart.
#pragma once
#include "backends/cuda/quant/types.h"
#include "backends/cuda/quant/weight_type.h"

namespace mica::cuda {

// Dynamic shared memory of blocks of which no more than n are to be on a multiprocessor at a time,
// for grids of n blocks a multiprocessor or fewer. Blocks start where there is room while the
// kernel before still runs: were there room for more on some, others would stay without work.
inline uint64_t shared_of_blocks(const DeviceInfo& device, uint64_t bytes, uint64_t n) {
  const uint64_t least = device.max_shared_bytes / (n + 1);
  return bytes < least ? least : bytes;
}

// Slice i of x and out (counting b2 fastest) and the slice of w that it uses.
struct Slice {
  const uint8_t* w;  // its first row, or group
  int64_t i_w;       // which of w's it is
  const uint8_t* x;
  float* out;
};
__device__ inline Slice slice_of(const MatmulArgs& a, int64_t i) {
  if (i == 0) return {a.w, 0, a.x, a.out};  // spares the divisions
  const int64_t i2 = i % a.b2, i3 = i / a.b2;
  const int64_t w2 = i2 / a.r2, w3 = i3 / a.r3;
  Slice s;
  s.i_w = w3 * a.c2 + w2;
  s.w = a.w + (a.packed ? s.i_w * a.layout.groups * a.layout.group_bytes
                        : w2 * a.w_stride[1] + w3 * a.w_stride[2]);
  s.x = a.x + i2 * a.x_stride[1] + i3 * a.x_stride[2];
  s.out = a.out + i * a.m * a.n;
  return s;
}
// Rows of x that live in slice i. Only after wait_for_inputs().
__device__ inline int64_t live_rows(const MatmulArgs& a, int64_t i) {
  if (a.live == 0) return a.m;
  const int64_t max = a.rank == 2 ? a.m : a.rank == 3 ? a.b2 : a.b3;
  int64_t live = live_count(a.live, max);
  live = live < 0 ? 0 : live < max ? live : max;
  if (a.rank == 2) return live;
  const int64_t place = a.rank == 3 ? i % a.b2 : i / a.b2;
  return place < live ? a.m : 0;
}

__device__ inline float load_x(mica_dtype type, const uint8_t* row, int64_t i) {
  if (type == MICA_F32) return reinterpret_cast<const float*>(row)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[i];
  return type == MICA_F16 ? half_value(bits) : bf16_to_f32(bits);
}
// Elements i … i + 3, i a multiple of 4; beyond n zeros.
__device__ inline float4 load_x4(mica_dtype type, const uint8_t* row, int64_t i, int64_t n) {
  if (i + 4 <= n) {
    if (type == MICA_F32 && reinterpret_cast<uint64_t>(row) % 16 == 0)
      return *reinterpret_cast<const float4*>(row + 4 * i);
    if (type == MICA_F32)
      return make_float4(load_x(type, row, i), load_x(type, row, i + 1), load_x(type, row, i + 2),
                         load_x(type, row, i + 3));
    if (reinterpret_cast<uint64_t>(row) % 8 == 0) {
      const uint2 v = *reinterpret_cast<const uint2*>(row + 2 * i);
      if (type == MICA_F16)
        return make_float4(half_value(v.x & 0xffff), half_value(v.x >> 16),
                           half_value(v.y & 0xffff), half_value(v.y >> 16));
      return make_float4(float_of(v.x << 16), float_of(v.x & 0xffff0000u), float_of(v.y << 16),
                         float_of(v.y & 0xffff0000u));
    }
  }
  float v[4];
  for (int j = 0; j < 4; ++j) v[j] = i + j < n ? load_x(type, row, i + j) : 0.0f;
  return make_float4(v[0], v[1], v[2], v[3]);
}

}  // namespace mica::cuda
