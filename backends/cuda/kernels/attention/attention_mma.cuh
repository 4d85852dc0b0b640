// Tensor-core pieces of attention: m16n8k16 products of F16 summed in F32, their operands' loads,
// and F32 numbers as two F16 parts, whose products together carry 22 bits.
#pragma once
#include <cuda_fp16.h>

#include "backends/cuda/kernels/attention/attention_turns.cuh"

namespace mica::cuda {
#ifdef __CUDACC__

constexpr float kLog2E = 1.44269504088896f;
constexpr float kLn2 = 0.693147180559945f;
// Weights are kept times 2^12, so that their lower parts are no subnormals of F16.
constexpr float kWeightShift = 12.0f;
constexpr float kWeightUnit = 0x1p-12f;
// Un-rotated keys, rotated, are halved: none becomes too large for F16.
constexpr float kKeyUnit = 2.0f;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline void load_matrices(uint32_t (&r)[4], const __half* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const __half* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
// c += a b; a 16 x 16, b 16 x 8.
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of BF16.
__device__ inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of TF32; a 16 x 8, b 8 x 8.
__device__ inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
// A number as upper and lower part; what is not finite becomes not-a-number.
__device__ inline void split_tf32(float x, uint32_t& upper, uint32_t& lower) {
  upper = to_tf32(x);
  lower = to_tf32(x - __uint_as_float(upper));
}

// Elements of V that a product with a weight of 0 would turn to not-a-number: those that are not
// finite, and those beyond TF32. Where rows do not see all cells, they are left out of the products
// and added to the sums of the rows that see them.
__device__ inline bool is_apart(float v) {
  return (__float_as_uint(v) & 0x7fffffffu) >= 0x7f7ff000u;
}
// Zero in the place of such halves. True: there was one.
__device__ inline bool clear_apart(uint32_t& halves) {
  const uint32_t found = ((halves & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
  halves &= ~((found >> 15) * 0xffffu);
  return found != 0;
}

// Two numbers as upper and lower parts.
__device__ inline void split_two(float x, float y, uint32_t& upper, uint32_t& lower) {
  const __half2 h = __floats2half2_rn(x, y);
  const float2 two = __half22float2(h);
  const __half2 rest = __floats2half2_rn(x - two.x, y - two.y);
  upper = *reinterpret_cast<const uint32_t*>(&h);
  lower = *reinterpret_cast<const uint32_t*>(&rest);
}

// Two finite numbers as three BF16 parts, whose sum they are.
__device__ inline void split_bf16(float x, float y, uint32_t (&parts)[3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    parts[i] = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
    x -= __uint_as_float(__float_as_uint(x) & 0xffff0000u);
    y -= __uint_as_float(__float_as_uint(y) & 0xffff0000u);
  }
}
__device__ inline float2 two_halves(uint32_t x) {
  return __half22float2(*reinterpret_cast<const __half2*>(&x));
}
__device__ inline uint32_t subtract_halves(uint32_t x, uint32_t y) {
  const __half2 h =
      __hsub2(*reinterpret_cast<const __half2*>(&x), *reinterpret_cast<const __half2*>(&y));
  return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ inline void copy_async(void* to, const void* from, bool real) {
  const int bytes = real ? 16 : 0;  // the rest of the 16 becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;"); }
// All but the last n groups are there; for this thread.
template <int n>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// Eight neighbours of a cell's row, i a multiple of 8.
__device__ inline void load_eight(const KvPage& p, const char* head, uint32_t cell, uint32_t i,
                                  float (&x)[8]) {
  if (p.elem_bytes == 4) {
    const float4* from = reinterpret_cast<const float4*>(head + kv_elem_at(p, cell, i));
    const float4 low = from[0];
    const float4 high = from[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    return;
  }
  if (p.elem_bytes == 2) {
    const uint4 bits = *reinterpret_cast<const uint4*>(head + kv_elem_at(p, cell, i));
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (p.dtype == MICA_F16) {
        const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&words[j]));
        x[2 * j] = two.x, x[2 * j + 1] = two.y;
      } else {
        x[2 * j] = __uint_as_float(words[j] << 16);
        x[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
      }
    }
    return;
  }
  const uint32_t block = i / 32;
  const uint32_t at = i % 32;
  const auto half_at = [&](uint32_t place) {
    return __half2float(*reinterpret_cast<const __half*>(head + place));
  };
  const float d = half_at(kv_d_at(p, cell, block));
  const float m = p.m_at != 0 ? half_at(kv_m_at(p, cell, block)) : 0.0f;
  const char* quants = head + kv_quants_at(p, cell, block) + (p.quant_bytes == 16 ? at % 16 : at);
  const uint2 bits = *reinterpret_cast<const uint2*>(quants);
  uint32_t fifth = 0;
  if (p.fifth_at != 0)
    fifth = *reinterpret_cast<const uint32_t*>(head + kv_fifth_at(p, cell, block)) >> at;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint32_t q = (j < 4 ? bits.x : bits.y) >> (j % 4 * 8) & 255u;
    x[j] =
        decode_quant(p.dtype, d, m, static_cast<uint8_t>(q), fifth >> j & 1u, static_cast<int>(at));
  }
}

#endif
}  // namespace mica::cuda
