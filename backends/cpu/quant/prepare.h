// Rounding activations to int8 and laying them in panels (MICA_NUM_Q8_32 and MICA_NUM_Q8_256).
#pragma once
#include "backends/cpu/quant/rows16.h"
#include "backends/cpu/simd/dot.h"

MICA_CPU_BEGIN

// n floats of x; beyond them zeros, up to kElems. Points to x itself where that will do.
template <int kElems>
MICA_INLINE const float* as_floats(mica_dtype dtype, const char* x, int64_t n, float* buffer) {
  if (dtype == MICA_F32 && n >= kElems) return reinterpret_cast<const float*>(x);
  for (int64_t i = 0; i < kElems; i += 16) {
    const int64_t left = n - i < 0 ? 0 : n - i < 16 ? n - i : 16;
    const uint16_t* half = reinterpret_cast<const uint16_t*>(x) + i;
    f32x16 v;
    if (left == 16) {
      v = dtype == MICA_F32   ? load(reinterpret_cast<const float*>(x) + i)
          : dtype == MICA_F16 ? load_f16(half)
                              : load_bf16(half);
    } else {
      v = left == 0           ? zero()
          : dtype == MICA_F32 ? load_n(reinterpret_cast<const float*>(x) + i, left)
          : dtype == MICA_F16 ? load_f16_n(half, left)
                              : load_bf16_n(half, left);
    }
    store(buffer + i, v);
  }
  return buffer;
}

MICA_INLINE int64_t elem_bytes(mica_dtype dtype) { return dtype == MICA_F32 ? 4 : 2; }

struct Rounding {
  float scale;
  f32x16 inverse;
};
// The scale of kElems values. A NaN among them makes it NaN, an infinity infinite or NaN.
template <int kElems>
MICA_INLINE Rounding rounding(const float* x) {
  f32x16 largest = zero();
  f32x16 sum = zero();
  MICA_UNROLL
  for (int i = 0; i < kElems; i += 16) {
    const f32x16 v = load(x + i);
    largest = max(abs(v), largest);
    sum = sum + v * zero();  // NaN when v is not finite
  }
  const float amax = reduce_max(largest);
  const float invalid = any(is_nan(sum)) ? as_float(0x7fc00000u) : 0.0f;
  return {amax / 127.0f + invalid, set1(amax > 0 ? 127.0f / amax : 0.0f)};
}

// q = x rounded, and its sum as a float (exact).
template <int kElems>
MICA_INLINE float round_to(const float* x, f32x16 inverse, int8_t* q) {
  f32x16 sum = zero();
  MICA_UNROLL
  for (int i = 0; i < kElems; i += 16) {
    // The bounds matter only when x or the inverse is not finite.
    const f32x16 v = min(max(load(x + i) * inverse, set1(-127.0f)), set1(127.0f));
    const i32x16 whole = to_i32(v);
    store_i8(q + i, whole);
    sum = sum + to_f32(whole);
  }
  return reduce_add(sum);
}

MICA_INLINE void put_i32(char* p, int32_t v) { __builtin_memcpy(p, &v, 4); }
MICA_INLINE void put_f32(char* p, float v) { __builtin_memcpy(p, &v, 4); }
MICA_INLINE int32_t get_i32(const char* p) {
  int32_t v;
  __builtin_memcpy(&v, p, 4);
  return v;
}
MICA_INLINE float get_f32(const char* p) {
  float v;
  __builtin_memcpy(&v, p, 4);
  return v;
}

MICA_CPU_END
