// Rounding activations to int8 and laying them in panels (MICA_NUM_Q8_32 and MICA_NUM_Q8_256).
#pragma once
#include "backends/cpu/quant/rows16.h"
#include "backends/cpu/simd/dot.h"
#include "ops/matmul/q8.h"

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

MICA_INLINE int64_t float_bytes(mica_dtype dtype) { return dtype == MICA_F32 ? 4 : 2; }

// The largest magnitude of kElems values, compared as bits: a NaN counts as more than infinity.
#if defined(__AVX2__)
MICA_INLINE float largest_bits(__m256i m) {
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1));
  return as_float(static_cast<uint32_t>(_mm_cvtsi128_si32(q)));
}
#endif
template <int kElems>
MICA_INLINE float magnitude(const float* x) {
#if defined(__AVX512F__)
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  __m512i m = _mm512_and_si512(_mm512_loadu_si512(x), mask);
  MICA_UNROLL
  for (int i = 16; i < kElems; i += 16) {
    m = _mm512_max_epi32(m, _mm512_and_si512(_mm512_loadu_si512(x + i), mask));
  }
  return largest_bits(_mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1)));
#elif defined(__AVX2__)
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const __m256i* p = reinterpret_cast<const __m256i*>(x);
  __m256i m = _mm256_and_si256(_mm256_loadu_si256(p), mask);
  MICA_UNROLL
  for (int i = 1; i < kElems / 8; ++i) {
    m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_loadu_si256(p + i), mask));
  }
  return largest_bits(m);
#else
  uint32_t m = 0;
  for (int i = 0; i < kElems; ++i) {
    const uint32_t bits = as_bits(x[i]) & 0x7fffffffu;
    m = bits > m ? bits : m;
  }
  return as_float(m);
#endif
}

// The sum of 16 or 32 signed bytes.
template <int kElems>
MICA_INLINE int32_t sum_bytes(const int8_t* q) {
#if defined(__AVX2__)
  const __m128i offset = _mm_set1_epi8(-128);
  const __m128i zeros = _mm_setzero_si128();
  const __m128i* p = reinterpret_cast<const __m128i*>(q);
  __m128i s = _mm_sad_epu8(_mm_xor_si128(_mm_loadu_si128(p), offset), zeros);
  if (kElems == 32) {
    s = _mm_add_epi32(s, _mm_sad_epu8(_mm_xor_si128(_mm_loadu_si128(p + 1), offset), zeros));
  }
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(s) - 128 * kElems;
#else
  int32_t sum = 0;
  for (int i = 0; i < kElems; ++i) sum += q[i];
  return sum;
#endif
}

struct Rounding {
  float scale;
  f32x16 inverse;
};
// The scale of kElems values, as ops/matmul/q8.h has it: NaN or infinite when one of them is, and
// then no quant matters.
template <int kElems>
MICA_INLINE Rounding rounding(const float* x) {
  const float amax = magnitude<kElems>(x);
  return {mica::q8_scale(amax), set1(mica::q8_inverse(amax))};
}

// q = x rounded; the sum of q.
template <int kElems>
MICA_INLINE int32_t round_to(const float* x, f32x16 inverse, int8_t* q) {
  MICA_UNROLL
  for (int i = 0; i < kElems; i += 16) store_i8(q + i, to_i32(load(x + i) * inverse));
  return sum_bytes<kElems>(q);
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
