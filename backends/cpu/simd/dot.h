// Integer dot products of 16 rows side by side, on 64 bytes: 4 consecutive elements of each row.
// Weights are unsigned bytes, activations signed ones in [-127, 127].
#pragma once
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN

// So that arrays over columns and vectors become registers; where there are none, code stays small.
#if defined(__AVX2__)
#define MICA_UNROLL _Pragma("GCC unroll 16")
#else
#define MICA_UNROLL _Pragma("GCC unroll 1")
#endif
#define MICA_INLINE_MEMBER static inline __attribute__((always_inline))

#if defined(__AVX512F__)

struct u8x64 {
  __m512i v;
};
typedef int32_t any_word __attribute__((may_alias));

MICA_INLINE u8x64 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
MICA_INLINE u8x64 low_nibbles(u8x64 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
MICA_INLINE u8x64 high_nibbles(u8x64 a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
// Moves kMask << kFrom of every byte of `high` to kMask << 4 of q; q has zeros there.
template <int kMask, int kFrom>
MICA_INLINE u8x64 add_bits(u8x64 q, u8x64 high) {
  const __m512i mask = _mm512_set1_epi8(static_cast<char>(kMask << 4));
  __m512i h = high.v;
  if constexpr (kFrom < 4) h = _mm512_slli_epi16(h, 4 - kFrom);
  if constexpr (kFrom > 4) h = _mm512_srli_epi16(h, kFrom - 4);
  return {_mm512_ternarylogic_epi32(q.v, h, mask, 0xf8)};
}

// The byte that an 8-bit weight of 0 is stored as and that dot() leaves to `init` to subtract.
constexpr int32_t kByteZero = 128;

// init + sum over kVectors * 4 elements. gcc 12 has no memory broadcast for the intrinsic.
template <int kVectors, int kBits>
MICA_INLINE i32x16 dot(const u8x64* q, const int8_t* x, i32x16 init) {
  __m512i a = init.v;
  MICA_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(a)
        : "v"(q[j].v), "m"(*reinterpret_cast<const any_word*>(x + 4 * j)));
  }
  return {a};
}

// acc + a pair of bytes of each row (32 bytes at p) times a pair of 16-bit numbers.
MICA_INLINE i32x16 dot_pair(i32x16 acc, const uint8_t* p, int32_t pair) {
  const __m512i w = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_dpwssd_epi32(acc.v, w, _mm512_set1_epi32(pair))};
}

// acc + a pair of BF16 of each row times a pair of BF16; needs avx512_bf16.
MICA_INLINE f32x16 dot_bf16(f32x16 acc, const uint8_t* w, const char* pair) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0"
      : "+v"(acc.v)
      : "v"(_mm512_loadu_si512(w)), "m"(*reinterpret_cast<const any_word*>(pair)));
  return acc;
}

#elif defined(__AVX2__)

struct u8x64 {
  __m256i a, b;
};
MICA_INLINE u8x64 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
MICA_INLINE u8x64 low_nibbles(u8x64 q) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(q.a, mask), _mm256_and_si256(q.b, mask)};
}
MICA_INLINE u8x64 high_nibbles(u8x64 q) {
  return low_nibbles({_mm256_srli_epi16(q.a, 4), _mm256_srli_epi16(q.b, 4)});
}
template <int kMask, int kFrom>
MICA_INLINE __m256i bits_at_4(__m256i h) {
  if constexpr (kFrom < 4) h = _mm256_slli_epi16(h, 4 - kFrom);
  if constexpr (kFrom > 4) h = _mm256_srli_epi16(h, kFrom - 4);
  return _mm256_and_si256(h, _mm256_set1_epi8(static_cast<char>(kMask << 4)));
}
// Moves kMask << kFrom of every byte of `high` to kMask << 4 of q; q has zeros there.
template <int kMask, int kFrom>
MICA_INLINE u8x64 add_bits(u8x64 q, u8x64 high) {
  return {_mm256_or_si256(q.a, bits_at_4<kMask, kFrom>(high.a)),
          _mm256_or_si256(q.b, bits_at_4<kMask, kFrom>(high.b))};
}

constexpr int32_t kByteZero = 0;  // dot() of 8-bit weights subtracts their 128 itself

MICA_INLINE __m256i broadcast4(const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm256_set1_epi32(word);
}
// vpmaddubsw saturates at 16 bits. Of kBits-bit weights this many products of pairs fit in a sum:
// 2 * 127 * (2^kBits - 1) * n <= 32767. With 8 bits none does: those are made |w| * (x with w's
// sign).
template <int kBits>
constexpr int kPairSums = kBits == 4   ? 8
                          : kBits == 5 ? 4
                          : kBits == 6 ? 2
                                       : 1;

template <int kBits>
MICA_INLINE __m256i pair_products(__m256i w, __m256i x) {
  if constexpr (kBits < 8) return _mm256_maddubs_epi16(w, x);
  const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
  return _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(x, s));
}

template <int kVectors, int kBits>
MICA_INLINE i32x16 dot(const u8x64* q, const int8_t* x, i32x16 init) {
  const __m256i ones = _mm256_set1_epi16(1);
  constexpr int kSums = kPairSums<kBits> < kVectors ? kPairSums<kBits> : kVectors;
  i32x16 acc = init;
  MICA_UNROLL
  for (int j = 0; j < kVectors; j += kSums) {
    const __m256i x0 = broadcast4(x + 4 * j);
    __m256i a = pair_products<kBits>(q[j].a, x0);
    __m256i b = pair_products<kBits>(q[j].b, x0);
    MICA_UNROLL
    for (int i = 1; i < kSums; ++i) {
      const __m256i xi = broadcast4(x + 4 * (j + i));
      a = _mm256_add_epi16(a, pair_products<kBits>(q[j + i].a, xi));
      b = _mm256_add_epi16(b, pair_products<kBits>(q[j + i].b, xi));
    }
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(a, ones));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(b, ones));
  }
  return acc;
}

MICA_INLINE i32x16 dot_pair(i32x16 acc, const uint8_t* p, int32_t pair) {
  const __m256i x = _mm256_set1_epi32(pair);
  const __m128i* v = reinterpret_cast<const __m128i*>(p);
  const __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128(v));
  const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(v + 1));
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(a, x)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(b, x))};
}

#else

struct u8x64 {
  uint8_t b[64];
};
MICA_INLINE u8x64 load_bytes(const uint8_t* p) {
  u8x64 q;
  __builtin_memcpy(&q, p, 64);
  return q;
}
MICA_INLINE u8x64 low_nibbles(u8x64 q) {
  for (int i = 0; i < 64; ++i) q.b[i] &= 15;
  return q;
}
MICA_INLINE u8x64 high_nibbles(u8x64 q) {
  for (int i = 0; i < 64; ++i) q.b[i] = static_cast<uint8_t>(q.b[i] >> 4);
  return q;
}
// Moves kMask << kFrom of every byte of `high` to kMask << 4 of q; q has zeros there.
template <int kMask, int kFrom>
MICA_INLINE u8x64 add_bits(u8x64 q, u8x64 high) {
  for (int i = 0; i < 64; ++i) {
    q.b[i] = static_cast<uint8_t>(q.b[i] | (((high.b[i] >> kFrom) & kMask) << 4));
  }
  return q;
}

constexpr int32_t kByteZero = 128;

template <int kVectors, int kBits>
MICA_INLINE i32x16 dot(const u8x64* q, const int8_t* x, i32x16 init) {
  int32_t acc[16];
  store_i32(acc, init);
  for (int j = 0; j < kVectors; ++j) {
    for (int r = 0; r < 16; ++r) {
      for (int k = 0; k < 4; ++k) acc[r] += q[j].b[4 * r + k] * x[4 * j + k];
    }
  }
  return load_i32(acc);
}

MICA_INLINE i32x16 dot_pair(i32x16 acc, const uint8_t* p, int32_t pair) {
  const int32_t x0 = static_cast<int16_t>(pair & 0xffff);
  const int32_t x1 = pair >> 16;
  int32_t sum[16];
  store_i32(sum, acc);
  for (int r = 0; r < 16; ++r) sum[r] += p[2 * r] * x0 + p[2 * r + 1] * x1;
  return load_i32(sum);
}

#endif

MICA_CPU_END
