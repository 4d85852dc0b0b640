// Elementwise kernels: tensors of any strides walked in groups of four neighbours of a row. Tensors
// that are one run of elements are walked as a single long row.
#pragma once
#include "backends/cuda/kernels/plain_rows.cuh"

namespace mica::cuda {

constexpr int kElementThreads = 256;

// A tensor seen from the output's indices: what it repeats has stride 0.
struct Operand {
  uint64_t address;
  int64_t stride[4];
  mica_dtype dtype;
  uint32_t wide;  // groups of four are adjacent and aligned
};

// The indices to go through.
struct Walk {
  int64_t n_cols;
  uint32_t n_rows, dim1, dim2;
  uint32_t log2_threads;  // that share a row
  // Of the extent: the live count's address (0: none), its maximum, and how many columns or rows
  // one of it is.
  uint64_t live;
  int64_t max, per_live;
  uint32_t live_is_cols;
};

inline bool is_float(mica_dtype t) { return t == MICA_F32 || t == MICA_F16 || t == MICA_BF16; }
inline int64_t float_bytes(mica_dtype t) { return t == MICA_F32 ? 4 : 2; }

inline bool same_shape(const Tensor& a, const Tensor& b) {
  for (int i = 0; i < 4; ++i)
    if (a.dim[i] != b.dim[i]) return false;
  return true;
}

// nullptr: all inputs are floats in plain rows, and no count of the walk is too large.
inline const char* float_elements(const Call& call) {
  for (uint32_t i = 0; i < call.n_in; ++i)
    if (!call.in[i].absent() && !is_float(call.in[i].dtype))
      return "an input is not f32, f16 or bf16";
  if (rows_of(call.out) > INT32_MAX || elements_of(call.out) / 256 > INT32_MAX)
    return "it has more than 2^31 rows";
  return nullptr;
}

inline Operand operand_of(const Tensor& t, bool flat) {
  const int64_t bytes = float_bytes(t.dtype);
  Operand o = {t.address, {}, t.dtype, 0};
  for (int i = 0; i < 4; ++i) o.stride[i] = t.dim[i] == 1 || flat ? 0 : t.stride[i];
  if (flat) o.stride[0] = bytes;
  const int64_t group = 4 * bytes;
  bool wide = o.stride[0] == bytes && t.address % static_cast<uint64_t>(group) == 0;
  for (int i = 1; i < 4; ++i) wide = wide && o.stride[i] % group == 0;
  o.wide = wide ? 1 : 0;
  return o;
}

inline Walk walk_of(const Tensor& out, bool flat) {
  const int64_t rows = rows_of(out), last = out.dim[out.rank - 1];
  Walk w = {};
  w.n_cols = flat ? elements_of(out) : out.dim[0];
  w.n_rows = static_cast<uint32_t>(flat ? 1 : rows);
  w.dim1 = static_cast<uint32_t>(flat ? 1 : out.dim[1]);
  w.dim2 = static_cast<uint32_t>(flat ? 1 : out.dim[2]);
  w.live = out.live;
  w.max = last;
  w.live_is_cols = flat || out.rank == 1 ? 1 : 0;
  w.per_live = (w.live_is_cols != 0 ? w.n_cols : rows) / (last > 0 ? last : 1);
  while (w.log2_threads < 8 && (int64_t{4} << w.log2_threads) < w.n_cols) ++w.log2_threads;
  return w;
}

inline dim3 walk_grid(const Call& call, const Walk& w) {
  const int64_t cols = int64_t{4} << w.log2_threads, rows = kElementThreads >> w.log2_threads;
  const int64_t tiles = ((w.n_cols + cols - 1) / cols) * ((w.n_rows + rows - 1) / rows);
  return grid_for(call, tiles, 16);
}

#ifdef __CUDACC__
__device__ inline float widen_f16(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__device__ inline uint16_t narrow_f16(float f) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
__device__ inline float widen_bf16(uint16_t h) { return __uint_as_float(uint32_t{h} << 16); }
__device__ inline uint16_t narrow_bf16(float f) {
  uint16_t h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
__device__ inline float widen(mica_dtype half, uint16_t h) {
  return half == MICA_F16 ? widen_f16(h) : widen_bf16(h);
}
__device__ inline uint16_t narrow(mica_dtype half, float f) {
  return half == MICA_F16 ? narrow_f16(f) : narrow_bf16(f);
}
// What is left of a value that is stored in this dtype.
__device__ inline float rounded(mica_dtype dtype, float f) {
  return dtype == MICA_F32 ? f : widen(dtype, narrow(dtype, f));
}

// Up to four neighbours: columns col … col + n - 1 of a row.
struct At {
  uint32_t i1, i2, i3;
  int64_t col;
  int n;
};
struct Four {
  float v[4];
};

__device__ inline char* place(const Operand& o, const At& at) {
  return reinterpret_cast<char*>(o.address) + at.i1 * o.stride[1] + at.i2 * o.stride[2] +
         at.i3 * o.stride[3] + at.col * o.stride[0];
}

__device__ inline Four load(const Operand& o, const At& at) {
  const char* p = place(o, at);
  Four out = {};
  if (o.wide != 0 && at.n == 4) {
    if (o.dtype == MICA_F32) {
      const float4 x = *reinterpret_cast<const float4*>(p);
      return {{x.x, x.y, x.z, x.w}};
    }
    const ushort4 h = *reinterpret_cast<const ushort4*>(p);
    return {{widen(o.dtype, h.x), widen(o.dtype, h.y), widen(o.dtype, h.z), widen(o.dtype, h.w)}};
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= at.n) break;
    out.v[i] = o.dtype == MICA_F32 ? *reinterpret_cast<const float*>(p)
                                   : widen(o.dtype, *reinterpret_cast<const uint16_t*>(p));
    p += o.stride[0];
  }
  return out;
}

__device__ inline void store(const Operand& o, const At& at, const Four& y) {
  char* p = place(o, at);
  if (o.wide != 0 && at.n == 4) {
    if (o.dtype == MICA_F32) {
      *reinterpret_cast<float4*>(p) = make_float4(y.v[0], y.v[1], y.v[2], y.v[3]);
    } else {
      *reinterpret_cast<ushort4*>(p) =
          make_ushort4(narrow(o.dtype, y.v[0]), narrow(o.dtype, y.v[1]), narrow(o.dtype, y.v[2]),
                       narrow(o.dtype, y.v[3]));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= at.n) break;
    if (o.dtype == MICA_F32) {
      *reinterpret_cast<float*>(p) = y.v[i];
    } else {
      *reinterpret_cast<uint16_t*>(p) = narrow(o.dtype, y.v[i]);
    }
    p += o.stride[0];
  }
}

// fn(at) for every group of live elements. Blocks of kElementThreads; after wait_for_inputs().
template <class Fn>
__device__ void walk(const Walk& w, Fn fn) {
  int64_t n_cols = w.n_cols;
  uint32_t n_rows = w.n_rows;
  if (w.live != 0) {
    int64_t n = live_count(w.live, w.max);
    n = n < 0 ? 0 : n > w.max ? w.max : n;
    if (w.live_is_cols != 0) {
      n_cols = n * w.per_live;
    } else {
      n_rows = static_cast<uint32_t>(n * w.per_live);
    }
  }
  const uint32_t threads = 1u << w.log2_threads;
  const uint32_t tile_rows = kElementThreads >> w.log2_threads;
  const uint32_t my_row = threadIdx.x >> w.log2_threads;
  const int64_t my_col = int64_t{threadIdx.x & (threads - 1)} * 4;
  const uint32_t col_tiles =
      static_cast<uint32_t>((n_cols + 4 * threads - 1) >> (w.log2_threads + 2));
  const uint32_t n_tiles = col_tiles * ((n_rows + tile_rows - 1) / tile_rows);
  for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
    const uint32_t row_tile = tile / col_tiles;
    const uint32_t row = row_tile * tile_rows + my_row;
    const int64_t col = int64_t{tile - row_tile * col_tiles} * 4 * threads + my_col;
    if (row >= n_rows || col >= n_cols) continue;
    const uint32_t rest = row / w.dim1;
    const uint32_t i3 = rest / w.dim2;
    const int64_t left = n_cols - col;
    fn(At{row - rest * w.dim1, rest - i3 * w.dim2, i3, col, left < 4 ? static_cast<int>(left) : 4});
  }
}
#endif

}  // namespace mica::cuda
