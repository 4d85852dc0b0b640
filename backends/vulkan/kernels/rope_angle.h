// Angles of RoPE as its shaders take them: revolutions per position of each pair, modulo 1.
#pragma once
#include <cmath>
#include <cstdint>

#include "ops/rope_angles.h"

namespace mica::vulkan {

constexpr uint32_t kRopePairs = 4096;  // at most

// Revolutions per position of pair i, before its frequency factor.
inline double rope_revolutions(const mica_rope_angles_args& a, const RopeScale& scale, uint32_t i) {
  constexpr double kTwoPi = 6.28318530717958647692;
  return rope_radians(a, scale, i) / kTwoPi;
}

// A frequency factor divides what the shaders keep modulo 1: that is right only of less than one.
inline bool revolves_once(const mica_rope_angles_args& a) {
  const RopeScale scale = rope_scale(a);
  for (uint32_t i = 0; i < a.n_rot / 2; ++i)
    if (std::fabs(rope_revolutions(a, scale, i)) >= 1) return false;
  return true;
}

// x modulo 1 as a fraction of 2^64.
inline uint64_t fixed_point(double x) {
  const double part = x - std::floor(x);
  const double high = std::floor(part * 0x1p32);
  const double low = std::floor((part * 0x1p32 - high) * 0x1p32);
  return (static_cast<uint64_t>(high) << 32) + static_cast<uint64_t>(low);
}

inline void fixed_revolutions(const mica_rope_angles_args& a, uint64_t* out) {
  const RopeScale scale = rope_scale(a);
  for (uint32_t i = 0; i < a.n_rot / 2; ++i) out[i] = fixed_point(rope_revolutions(a, scale, i));
}

}  // namespace mica::vulkan
