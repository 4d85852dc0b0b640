// simd.h on AVX-512 F, BW, DQ, VL: one register a vector. Included by simd.h only.
#pragma once
// GCC 12 sees its own "undefined" operands as uninitialised (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

MICA_CPU_BEGIN

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct mask16 {
  __mmask16 m;
};

// n in [0, 16].
MICA_INLINE __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>((1u << static_cast<uint32_t>(n)) - 1u);
}

MICA_INLINE f32x16 zero() { return {_mm512_setzero_ps()}; }
MICA_INLINE f32x16 set1(float f) { return {_mm512_set1_ps(f)}; }
MICA_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
MICA_INLINE f32x16 load_n(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
MICA_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
MICA_INLINE void store_n(float* p, f32x16 a, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}

MICA_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
MICA_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
MICA_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
MICA_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c and c - a * b.
MICA_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MICA_INLINE f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
MICA_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
MICA_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
MICA_INLINE f32x16 sqrt(f32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
MICA_INLINE f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
MICA_INLINE f32x16 neg(f32x16 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
// Lanes 1, 0, 3, 2, …
MICA_INLINE f32x16 swap_pairs(f32x16 a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
MICA_INLINE f32x16 round_even(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// The magnitude of `a` with the sign of `s`.
MICA_INLINE f32x16 copy_sign(f32x16 a, f32x16 s) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, s.v))};
}

MICA_INLINE mask16 lt(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
MICA_INLINE mask16 le(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
MICA_INLINE mask16 gt(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
MICA_INLINE mask16 ge(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
MICA_INLINE mask16 eq(f32x16 a, f32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
MICA_INLINE mask16 is_nan(f32x16 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
MICA_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return {_mm512_mask_blend_ps(m.m, b.v, a.v)};
}
MICA_INLINE i32x16 select(mask16 m, i32x16 a, i32x16 b) {
  return {_mm512_mask_blend_epi32(m.m, b.v, a.v)};
}
// Bit i: lane i.
MICA_INLINE uint32_t bits(mask16 m) { return m.m; }
MICA_INLINE bool any(mask16 m) { return m.m != 0; }
MICA_INLINE mask16 mask_and(mask16 a, mask16 b) { return {static_cast<__mmask16>(a.m & b.m)}; }
MICA_INLINE mask16 mask_or(mask16 a, mask16 b) { return {static_cast<__mmask16>(a.m | b.m)}; }
MICA_INLINE mask16 mask_first(int64_t n) { return {first_lanes(n)}; }

MICA_INLINE i32x16 set1_i32(int32_t i) { return {_mm512_set1_epi32(i)}; }
MICA_INLINE i32x16 iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
MICA_INLINE i32x16 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
MICA_INLINE i32x16 load_i32_n(const int32_t* p, int64_t n) {
  return {_mm512_maskz_loadu_epi32(first_lanes(n), p)};
}
MICA_INLINE void store_i32(int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a.v); }
MICA_INLINE i32x16 operator+(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
MICA_INLINE i32x16 operator-(i32x16 a, i32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
MICA_INLINE i32x16 operator&(i32x16 a, i32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
MICA_INLINE i32x16 operator|(i32x16 a, i32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
MICA_INLINE i32x16 operator^(i32x16 a, i32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int kBits>
MICA_INLINE i32x16 shl(i32x16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>  // zeros come in
MICA_INLINE i32x16 shr(i32x16 a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>  // the sign comes in
MICA_INLINE i32x16 sra(i32x16 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
MICA_INLINE mask16 gt(i32x16 a, i32x16 b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
MICA_INLINE mask16 eq(i32x16 a, i32x16 b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
MICA_INLINE f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
// Half to even; out of range gives INT32_MIN.
MICA_INLINE i32x16 to_i32(f32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
MICA_INLINE i32x16 as_i32(f32x16 a) { return {_mm512_castps_si512(a.v)}; }
MICA_INLINE f32x16 as_f32(i32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
MICA_INLINE i32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
MICA_INLINE i32x16 load_u8(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

// Values must be in [-128, 127].
MICA_INLINE void store_i8(int8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

MICA_INLINE f32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
MICA_INLINE f32x16 load_f16_n(const uint16_t* p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}
MICA_INLINE void store_f16(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
MICA_INLINE void store_f16_n(uint16_t* p, f32x16 a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n),
                           _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
MICA_INLINE f32x16 widen_bf16(__m256i h) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
// The conversion instruction of AVX512_BF16 flushes subnormals, so integers do it.
MICA_INLINE __m256i narrow_bf16(f32x16 a) {
  const __m512i x = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(x, _mm512_set1_epi32(0x400000));
  const __m512i y = _mm512_mask_blend_epi32(is_nan(a).m, rounded, quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(y, 16));
}
MICA_INLINE f32x16 load_bf16(const uint16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MICA_INLINE f32x16 load_bf16_n(const uint16_t* p, int64_t n) {
  return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
MICA_INLINE void store_bf16(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a));
}
MICA_INLINE void store_bf16_n(uint16_t* p, f32x16 a, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bf16(a));
}

MICA_INLINE __m256 fold_half(__m512 v, bool upper) {
  return upper ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v);
}
MICA_INLINE float reduce_add(f32x16 a) {
  const __m256 s8 = _mm256_add_ps(fold_half(a.v, false), fold_half(a.v, true));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
MICA_INLINE float reduce_max(f32x16 a) {
  const __m256 s8 = _mm256_max_ps(fold_half(a.v, false), fold_half(a.v, true));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
MICA_INLINE float reduce_min(f32x16 a) {
  const __m256 s8 = _mm256_min_ps(fold_half(a.v, false), fold_half(a.v, true));
  const __m128 s4 = _mm_min_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_min_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_min_ss(s2, _mm_movehdup_ps(s2)));
}

// a * 2^n for integral n; also into the subnormals.
MICA_INLINE f32x16 scale_2(f32x16 a, f32x16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// What rounding took from p = a * b; exact unless it underflows.
MICA_INLINE f32x16 mul_error(f32x16 a, f32x16 b, f32x16 p) { return fma(a, b, neg(p)); }

MICA_CPU_END
