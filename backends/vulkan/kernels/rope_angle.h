// Angles of RoPE as its shaders take them: turns per position of each pair, computed in double.
#pragma once
#include <cmath>
#include <cstdint>

#include "ops/rope_args.h"

namespace mica::vulkan {

constexpr uint32_t kRopePairs = 4096;  // at most
constexpr double kPi = 3.14159265358979323846;

// How much of pair i turns at its original speed (YaRN, arXiv 2309.00071).
inline double yarn_mix(const mica_rope_args& a, uint32_t i) {
  const double per = a.n_rot / (2.0 * std::log(static_cast<double>(a.base)));
  const auto pair_of = [&](float beta) { return per * std::log(a.n_ctx_orig / (2 * kPi * beta)); };
  const double low = std::fmax(0.0, std::floor(pair_of(a.beta_fast)));
  const double high = std::fmin(a.n_rot - 1.0, std::ceil(pair_of(a.beta_slow)));
  const double ramp = (i - low) / std::fmax(high - low, 0.001);
  return a.ext_factor * (1.0 - std::fmin(1.0, std::fmax(0.0, ramp)));
}

// Turns per position of pair i, before factors.
inline double rope_turns(const mica_rope_args& a, uint32_t i) {
  const double original = std::pow(static_cast<double>(a.base), -2.0 * i / a.n_rot);
  double scale = a.linear_scale;
  if (a.ext_factor != 0.0f) {
    const double mix = yarn_mix(a, i);
    scale = scale * (1.0 - mix) + mix;
  }
  return original * scale / (2.0 * kPi);
}

// x modulo 1 as a fraction of 2^64.
inline uint64_t fixed_point(double x) {
  const double part = x - std::floor(x);
  const double high = std::floor(part * 0x1p32);
  const double low = std::floor((part * 0x1p32 - high) * 0x1p32);
  return (static_cast<uint64_t>(high) << 32) + static_cast<uint64_t>(low);
}

// What the rotated elements are multiplied by.
inline float rope_magnitude(const mica_rope_args& a) {
  double magnitude = a.attn_factor;
  if (a.ext_factor != 0.0f)
    magnitude *= 1.0 + 0.1 * std::log(1.0 / static_cast<double>(a.linear_scale));
  return static_cast<float>(magnitude);
}

}  // namespace mica::vulkan
