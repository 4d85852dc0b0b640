// 16 floats (f32x16), 16 ints (i32x16) and a lane mask (mask16) with one set of functions for every
// instruction set: avx512.h, avx2.h and plain.h implement it, math.h adds exp, tanh and friends.
//
//   set1 zero iota load load_n store store_n   load_n reads n < 16 lanes, the others are 0
//   + - * / neg abs copy_sign fma fnma min max sqrt round_even mul_error scale_2 swap_pairs
//   lt le gt ge eq is_nan bits any mask_and mask_or mask_first
//   select                                     select(m, a, b) is m ? a : b
//   reduce_add reduce_max reduce_min           one tree everywhere: lane i with i + 8, 4, 2, 1
//   load_f16 store_f16 load_bf16 store_bf16    and _n; rounding is half to even
//   load_i8 load_u8 store_i8 load_i32 store_i32 to_f32 to_i32 as_i32 as_f32 shl shr sra
//
// max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b: of a NaN and b the result is b.
// fma is one rounding on avx2 and avx512, two on plain.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "backends/cpu/kernel.h"

#define MICA_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include "backends/cpu/simd/avx512.h"
#elif defined(__AVX2__)
#include "backends/cpu/simd/avx2.h"
#else
#include "backends/cpu/simd/plain.h"
#endif

MICA_CPU_BEGIN

MICA_INLINE float as_float(uint32_t bits) {
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
MICA_INLINE uint32_t as_bits(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  return bits;
}
MICA_INLINE int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
MICA_INLINE int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
MICA_INLINE int64_t div_up_i64(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Scalars through the vector code, so that both round alike.
MICA_INLINE float f16_to_f32(uint16_t h) {
  uint16_t lanes[16] = {h};
  float out[16];
  store(out, load_f16(lanes));
  return out[0];
}
MICA_INLINE uint16_t f32_to_f16(float f) {
  uint16_t out[16];
  store_f16(out, set1(f));
  return out[0];
}
MICA_INLINE float bf16_to_f32(uint16_t h) { return as_float(static_cast<uint32_t>(h) << 16); }
MICA_INLINE uint16_t f32_to_bf16(float f) {
  uint16_t out[16];
  store_bf16(out, set1(f));
  return out[0];
}

// Element types of plain tensors, for kernels that are templates over them.
struct ElemF32 {
  using T = float;
  static inline __attribute__((always_inline)) f32x16 get(const T* p) { return load(p); }
  static inline __attribute__((always_inline)) f32x16 get_n(const T* p, int64_t n) {
    return load_n(p, n);
  }
  static inline __attribute__((always_inline)) void put(T* p, f32x16 v) { store(p, v); }
  static inline __attribute__((always_inline)) void put_n(T* p, f32x16 v, int64_t n) {
    store_n(p, v, n);
  }
  static inline __attribute__((always_inline)) float one(const T* p) { return *p; }
};
struct ElemF16 {
  using T = uint16_t;
  static inline __attribute__((always_inline)) f32x16 get(const T* p) { return load_f16(p); }
  static inline __attribute__((always_inline)) f32x16 get_n(const T* p, int64_t n) {
    return load_f16_n(p, n);
  }
  static inline __attribute__((always_inline)) void put(T* p, f32x16 v) { store_f16(p, v); }
  static inline __attribute__((always_inline)) void put_n(T* p, f32x16 v, int64_t n) {
    store_f16_n(p, v, n);
  }
  static inline __attribute__((always_inline)) float one(const T* p) { return f16_to_f32(*p); }
};
struct ElemBF16 {
  using T = uint16_t;
  static inline __attribute__((always_inline)) f32x16 get(const T* p) { return load_bf16(p); }
  static inline __attribute__((always_inline)) f32x16 get_n(const T* p, int64_t n) {
    return load_bf16_n(p, n);
  }
  static inline __attribute__((always_inline)) void put(T* p, f32x16 v) { store_bf16(p, v); }
  static inline __attribute__((always_inline)) void put_n(T* p, f32x16 v, int64_t n) {
    store_bf16_n(p, v, n);
  }
  static inline __attribute__((always_inline)) float one(const T* p) { return bf16_to_f32(*p); }
};

MICA_CPU_END

#include "backends/cpu/simd/math.h"
