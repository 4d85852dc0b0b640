// simd.h on AVX2, FMA, F16C: two registers a vector. Included by simd.h only.
#pragma once
#include <immintrin.h>

MICA_CPU_BEGIN

struct f32x16 {
  __m256 a, b;
};
struct i32x16 {
  __m256i a, b;
};
struct mask16 {  // all bits of a lane set or clear
  __m256 a, b;
};

// n in [0, 16]: lanes below n are all ones.
MICA_INLINE i32x16 first_lanes(int64_t n) {
  const __m256i limit = _mm256_set1_epi32(static_cast<int32_t>(n));
  return {_mm256_cmpgt_epi32(limit, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(limit, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

MICA_INLINE f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
MICA_INLINE f32x16 set1(float f) { return {_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
MICA_INLINE f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
MICA_INLINE f32x16 load_n(const float* p, int64_t n) {
  const i32x16 m = first_lanes(n);
  return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
MICA_INLINE void store(float* p, f32x16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
MICA_INLINE void store_n(float* p, f32x16 x, int64_t n) {
  const i32x16 m = first_lanes(n);
  _mm256_maskstore_ps(p, m.a, x.a);
  _mm256_maskstore_ps(p + 8, m.b, x.b);
}

MICA_INLINE f32x16 operator+(f32x16 x, f32x16 y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
MICA_INLINE f32x16 operator-(f32x16 x, f32x16 y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
MICA_INLINE f32x16 operator*(f32x16 x, f32x16 y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
MICA_INLINE f32x16 operator/(f32x16 x, f32x16 y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
// x * y + z and z - x * y.
MICA_INLINE f32x16 fma(f32x16 x, f32x16 y, f32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
MICA_INLINE f32x16 fnma(f32x16 x, f32x16 y, f32x16 z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
MICA_INLINE f32x16 max(f32x16 x, f32x16 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
MICA_INLINE f32x16 min(f32x16 x, f32x16 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
MICA_INLINE f32x16 sqrt(f32x16 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
MICA_INLINE f32x16 abs(f32x16 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
MICA_INLINE f32x16 neg(f32x16 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(sign, x.a), _mm256_xor_ps(sign, x.b)};
}
// Lanes 1, 0, 3, 2, …
MICA_INLINE f32x16 swap_pairs(f32x16 x) {
  return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)};
}
MICA_INLINE f32x16 round_even(f32x16 x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// The magnitude of `x` with the sign of `s`.
MICA_INLINE f32x16 copy_sign(f32x16 x, f32x16 s) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, s.a)),
          _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, s.b))};
}

template <int kPredicate>
MICA_INLINE mask16 compare(f32x16 x, f32x16 y) {
  return {_mm256_cmp_ps(x.a, y.a, kPredicate), _mm256_cmp_ps(x.b, y.b, kPredicate)};
}
MICA_INLINE mask16 lt(f32x16 x, f32x16 y) { return compare<_CMP_LT_OQ>(x, y); }
MICA_INLINE mask16 le(f32x16 x, f32x16 y) { return compare<_CMP_LE_OQ>(x, y); }
MICA_INLINE mask16 gt(f32x16 x, f32x16 y) { return compare<_CMP_GT_OQ>(x, y); }
MICA_INLINE mask16 ge(f32x16 x, f32x16 y) { return compare<_CMP_GE_OQ>(x, y); }
MICA_INLINE mask16 eq(f32x16 x, f32x16 y) { return compare<_CMP_EQ_OQ>(x, y); }
MICA_INLINE mask16 is_nan(f32x16 x) { return compare<_CMP_UNORD_Q>(x, x); }
MICA_INLINE f32x16 select(mask16 m, f32x16 x, f32x16 y) {
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}
MICA_INLINE i32x16 select(mask16 m, i32x16 x, i32x16 y) {
  return {_mm256_blendv_epi8(y.a, x.a, _mm256_castps_si256(m.a)),
          _mm256_blendv_epi8(y.b, x.b, _mm256_castps_si256(m.b))};
}
// Bit i: lane i.
MICA_INLINE uint32_t bits(mask16 m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.a)) |
         (static_cast<uint32_t>(_mm256_movemask_ps(m.b)) << 8);
}
MICA_INLINE bool any(mask16 m) { return _mm256_movemask_ps(_mm256_or_ps(m.a, m.b)) != 0; }
MICA_INLINE mask16 mask_and(mask16 x, mask16 y) {
  return {_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)};
}
MICA_INLINE mask16 mask_or(mask16 x, mask16 y) {
  return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)};
}
MICA_INLINE mask16 mask_first(int64_t n) {
  const i32x16 m = first_lanes(n);
  return {_mm256_castsi256_ps(m.a), _mm256_castsi256_ps(m.b)};
}

MICA_INLINE i32x16 set1_i32(int32_t i) { return {_mm256_set1_epi32(i), _mm256_set1_epi32(i)}; }
MICA_INLINE i32x16 iota() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
          _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
MICA_INLINE i32x16 load_i32(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
MICA_INLINE i32x16 load_i32_n(const int32_t* p, int64_t n) {
  const i32x16 m = first_lanes(n);
  return {_mm256_maskload_epi32(p, m.a), _mm256_maskload_epi32(p + 8, m.b)};
}
MICA_INLINE void store_i32(int32_t* p, i32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
MICA_INLINE i32x16 operator+(i32x16 x, i32x16 y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
MICA_INLINE i32x16 operator-(i32x16 x, i32x16 y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
MICA_INLINE i32x16 operator&(i32x16 x, i32x16 y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
MICA_INLINE i32x16 operator|(i32x16 x, i32x16 y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
MICA_INLINE i32x16 operator^(i32x16 x, i32x16 y) {
  return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
template <int kBits>
MICA_INLINE i32x16 shl(i32x16 x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>  // zeros come in
MICA_INLINE i32x16 shr(i32x16 x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
template <int kBits>  // the sign comes in
MICA_INLINE i32x16 sra(i32x16 x) {
  return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}
MICA_INLINE mask16 gt(i32x16 x, i32x16 y) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(x.a, y.a)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(x.b, y.b))};
}
MICA_INLINE mask16 eq(i32x16 x, i32x16 y) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(x.a, y.a)),
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(x.b, y.b))};
}
MICA_INLINE f32x16 to_f32(i32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
// Half to even; out of range gives INT32_MIN.
MICA_INLINE i32x16 to_i32(f32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
MICA_INLINE i32x16 as_i32(f32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
MICA_INLINE f32x16 as_f32(i32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
MICA_INLINE i32x16 load_i8(const int8_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}
MICA_INLINE i32x16 load_u8(const uint8_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
// Two vectors of 8 ints in [0, 65535] to 16 shorts.
MICA_INLINE __m256i narrow_u16(__m256i lo, __m256i hi) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);
}
// Values must be in [-128, 127].
MICA_INLINE void store_i8(int8_t* p, i32x16 x) {
  const __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

MICA_INLINE f32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
MICA_INLINE f32x16 load_f16_n(const uint16_t* p, int64_t n) {
  uint16_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_f16(lanes);
}
MICA_INLINE void store_f16(uint16_t* p, f32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                   _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
MICA_INLINE void store_f16_n(uint16_t* p, f32x16 x, int64_t n) {
  uint16_t lanes[16];
  store_f16(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
MICA_INLINE f32x16 load_bf16(const uint16_t* p) {
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i hi =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
  return as_f32(shl<16>(i32x16{lo, hi}));
}
MICA_INLINE f32x16 load_bf16_n(const uint16_t* p, int64_t n) {
  uint16_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}
MICA_INLINE void store_bf16(uint16_t* p, f32x16 x) {
  const i32x16 u = as_i32(x);
  const i32x16 rounded = u + ((shr<16>(u) & set1_i32(1)) + set1_i32(0x7fff));
  const i32x16 y = shr<16>(select(is_nan(x), u | set1_i32(0x400000), rounded));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_u16(y.a, y.b));
}
MICA_INLINE void store_bf16_n(uint16_t* p, f32x16 x, int64_t n) {
  uint16_t lanes[16];
  store_bf16(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

MICA_INLINE float reduce_add(f32x16 x) {
  const __m256 s8 = _mm256_add_ps(x.a, x.b);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
MICA_INLINE float reduce_max(f32x16 x) {
  const __m256 s8 = _mm256_max_ps(x.a, x.b);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}
MICA_INLINE float reduce_min(f32x16 x) {
  const __m256 s8 = _mm256_min_ps(x.a, x.b);
  const __m128 s4 = _mm_min_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_min_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_min_ss(s2, _mm_movehdup_ps(s2)));
}

// a * 2^n for integral n in [-252, 254]; also into the subnormals.
MICA_INLINE f32x16 scale_2(f32x16 a, f32x16 n) {
  const i32x16 whole = to_i32(n);
  const i32x16 half = sra<1>(whole);
  const f32x16 p = as_f32(shl<23>(half + set1_i32(127)));
  const f32x16 q = as_f32(shl<23>((whole - half) + set1_i32(127)));
  return (a * p) * q;
}

// What rounding took from p = x * y; exact unless it underflows.
MICA_INLINE f32x16 mul_error(f32x16 x, f32x16 y, f32x16 p) { return fma(x, y, neg(p)); }

MICA_CPU_END
