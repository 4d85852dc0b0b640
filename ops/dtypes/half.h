// f16 and bf16 to and from f32 in portable code. Everything here has internal linkage and uses no
// library, so that files compiled for one instruction set may include it.
#pragma once
#include <stdint.h>

namespace mica {

static inline uint32_t float_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, sizeof u);
  return u;
}
static inline float bits_float(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, sizeof f);
  return f;
}

// Exact for every input. A NaN stays one: payload kept, quiet bit set, as vcvtph2ps does. Never
// goes through an f32 subnormal, so it does not depend on the thread's denormals-are-zero mode.
static inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  const uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
  const uint32_t special = (magnitude << 13) | 0x7f800000u | quiet;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // exponent bias 15 to 127
  const uint32_t small = float_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t bits = magnitude < 0x400u ? small : magnitude < 0x7c00u ? normal : special;
  return bits_float(sign | bits);
}

// Half to even; 65520 and above become infinity; a NaN stays one (as vcvtps2ph does).
static inline uint16_t f32_to_f16(float f) {
  const uint32_t bits = float_bits(f);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t x = bits & 0x7fffffffu;
  // Below 2^-14: beside 0.5 the last place of an f32 is 2^-24, that of an f16 subnormal, so the
  // addition does the rounding.
  const uint32_t small = float_bits(bits_float(x) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (x + 0xfffu + ((x >> 13) & 1u) - (112u << 23)) >> 13;
  const uint32_t finite = x < 0x38800000u ? small : normal;
  const uint32_t special = x > 0x7f800000u ? 0x7e00u | ((x >> 13) & 0x3ffu) : 0x7c00u;
  return static_cast<uint16_t>(sign | (x < 0x477ff000u ? finite : special));
}

static inline float bf16_to_f32(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }

// Half to even, subnormals included; what rounds above the largest finite value becomes infinity;
// a NaN stays one (quiet bit set).
static inline uint16_t f32_to_bf16(float f) {
  const uint32_t bits = float_bits(f);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// To the nearest integer, half to even, for |x| <= 2^22.
static inline int32_t round_even(float x) {
  const float shifted = x + 0x1.8p23f;  // the last place is now 1
  return static_cast<int32_t>(float_bits(shifted) - 0x4b400000u);
}

}  // namespace mica
