// Angles of rotary position embedding as ops/rope.h defines them, once for the backends cpu, cuda
// and vulkan. The reference has its own copy: it is the oracle. Every function has internal
// linkage, so files compiled for different instruction sets share none; doubles alone, for device
// code of CUDA too.
#pragma once
#include <math.h>
#include <stdint.h>

#include "ops/rope_args.h"

#ifndef MICA_HOST_DEVICE
#ifdef __CUDACC__
#define MICA_HOST_DEVICE __host__ __device__
#else
#define MICA_HOST_DEVICE
#endif
#endif

namespace mica {

// What the frequencies of all pairs have in common beside their powers of the base.
struct RopeScale {
  double linear;
  double ext_factor;  // 0: no YaRN
  double low, width;  // YaRN: from pair `low` on the mix falls, and `width` pairs later it is 0
};

// The pair that makes `beta` rotations in the context the model was trained with, as a number of
// pairs that need not be whole.
MICA_HOST_DEVICE static inline double rope_pair_of(const mica_rope_angles_args& a, float beta) {
  constexpr double kTwoPi = 6.28318530717958647692;
  return a.n_rot * log(a.n_ctx_orig / (kTwoPi * static_cast<double>(beta))) /
         (2.0 * log(static_cast<double>(a.base)));
}

MICA_HOST_DEVICE static inline RopeScale rope_scale(const mica_rope_angles_args& a) {
  RopeScale s = {static_cast<double>(a.linear_scale), static_cast<double>(a.ext_factor), 0.0, 1.0};
  if (a.ext_factor == 0.0f) return s;
  const double first = floor(rope_pair_of(a, a.beta_fast));
  const double last = ceil(rope_pair_of(a, a.beta_slow)), most = a.n_rot - 1.0;
  s.low = first > 0.0 ? first : 0.0;
  const double width = (last < most ? last : most) - s.low;
  s.width = width > 0.001 ? width : 0.001;
  return s;
}

// How much of pair i turns at its original speed (YaRN, arXiv 2309.00071).
MICA_HOST_DEVICE static inline double rope_yarn_mix(const RopeScale& s, int64_t i) {
  const double x = (static_cast<double>(i) - s.low) / s.width;
  return s.ext_factor * (1.0 - (x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x));
}

// What multiplies pair i's power of the base.
MICA_HOST_DEVICE static inline double rope_slowdown(const RopeScale& s, int64_t i) {
  const double mix = s.ext_factor != 0.0 ? rope_yarn_mix(s, i) : 0.0;
  return s.linear * (1.0 - mix) + mix;
}

// base^(-2i / n_rot).
MICA_HOST_DEVICE static inline double rope_power(const mica_rope_angles_args& a, int64_t i) {
  return pow(static_cast<double>(a.base), -2.0 * static_cast<double>(i) / a.n_rot);
}

// Radians per position of pair i, before its frequency factor divides them.
MICA_HOST_DEVICE static inline double rope_radians(const mica_rope_angles_args& a,
                                                   const RopeScale& s, int64_t i) {
  return rope_power(a, i) * rope_slowdown(s, i);
}

}  // namespace mica
