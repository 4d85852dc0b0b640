// What the ops that rotate share: their args, checks, and the references' angles in double.
#pragma once
#include <cmath>

#include "ops/common.h"
#include "ops/rope.h"
#include "ops/rope_args.h"

namespace mica {

inline mica_rope_angles_args rope_angles_args_of(const mica_rope_params& p, uint32_t n_rot) {
  return {n_rot, p.n_ctx_orig, p.base, p.linear_scale, p.ext_factor, p.beta_fast, p.beta_slow};
}

// How much of pair i turns at its original speed.
inline double yarn_mix(const mica_rope_angles_args& a, int64_t i) {
  constexpr double kPi = 3.14159265358979323846;
  const auto correction = [&](double beta) {
    return a.n_rot * std::log(a.n_ctx_orig / (2 * kPi * beta)) / (2 * std::log(double{a.base}));
  };
  const double low = std::fmax(0, std::floor(correction(a.beta_fast)));
  const double high = std::fmin(a.n_rot - 1.0, std::ceil(correction(a.beta_slow)));
  const double ramp = (static_cast<double>(i) - low) / std::fmax(high - low, 0.001);
  return double{a.ext_factor} * (1 - std::fmin(1, std::fmax(0, ramp)));
}

// Angle per position of pair i.
inline double rope_frequency(const mica_rope_angles_args& a, const HostTensor& factors, int64_t i) {
  double original = std::pow(double{a.base}, -2.0 * static_cast<double>(i) / a.n_rot);
  if (factors.present()) original /= factors.at(i);
  const double scaled = double{a.linear_scale} * original;
  if (a.ext_factor == 0) return scaled;
  const double mix = yarn_mix(a, i);
  return scaled * (1 - mix) + original * mix;
}

// The elements that pair i rotates.
struct RopePair {
  int64_t d0, d1;
};
inline RopePair rope_pair(uint32_t pairing, int64_t offset, int64_t n_pairs, int64_t i) {
  return pairing == MICA_ROPE_ADJACENT ? RopePair{offset + 2 * i, offset + 2 * i + 1}
                                       : RopePair{offset + i, offset + i + n_pairs};
}
inline void rotate(double* row, RopePair pair, double c, double s) {
  const double x0 = row[pair.d0];
  const double x1 = row[pair.d1];
  row[pair.d0] = x0 * c - x1 * s;
  row[pair.d1] = x0 * s + x1 * c;
}

// The checks of what angles are made of.
inline mica_status check_rope_angles(const InferCall& call, const mica_rope_angles_args& a,
                                     const Desc& factors) {
  Error& error = call.error;
  if (a.n_rot == 0 || a.n_rot % 2 != 0)
    return error.fail(MICA_INVALID_ARGUMENT, "n_rot is ", a.n_rot, ", not an even number");
  if (factors.rank != 0 &&
      (factors.dtype != MICA_F32 || factors.rank != 1 || !factors.contiguous() ||
       factors.dim[0] != a.n_rot / 2 || factors.extent != kNoExtent))
    return error.fail(MICA_INVALID_ARGUMENT, "freq_factors are ", dtype_name(factors.dtype), " ",
                      shape_text(factors).text, ", not f32 [", a.n_rot / 2, "], packed");
  MICA_TRY(need_finite(call, "base", a.base));
  MICA_TRY(need_finite(call, "linear_scale", a.linear_scale));
  MICA_TRY(need_finite(call, "ext_factor", a.ext_factor));
  MICA_TRY(need_finite(call, "beta_fast", a.beta_fast));
  MICA_TRY(need_finite(call, "beta_slow", a.beta_slow));
  if (a.base <= 0)
    return error.fail(MICA_INVALID_ARGUMENT, "base is ", double{a.base}, ", not above 0");
  if (a.linear_scale <= 0)
    return error.fail(MICA_INVALID_ARGUMENT, "linear_scale is ", double{a.linear_scale},
                      ", not above 0");
  if (a.ext_factor == 0) return MICA_OK;
  if (a.base <= 1 || a.beta_fast <= 0 || a.beta_slow <= 0 || a.n_ctx_orig == 0)
    return error.fail(MICA_INVALID_ARGUMENT,
                      "YaRN needs base above 1, beta_fast, beta_slow and n_ctx_orig above 0");
  return MICA_OK;
}

// Of a head that is to be rotated.
inline mica_status check_rope_head(const InferCall& call, uint32_t n_rot, uint32_t offset,
                                   uint32_t pairing, int64_t head_dim) {
  if (int64_t{n_rot} + offset > head_dim)
    return call.error.fail(MICA_INVALID_ARGUMENT, "n_rot ", n_rot, " behind offset ", offset,
                           " does not fit in heads of ", head_dim);
  if (pairing != MICA_ROPE_ADJACENT && pairing != MICA_ROPE_HALF_SPLIT)
    return call.error.fail(MICA_INVALID_ARGUMENT, "pairing is ", pairing,
                           ", not MICA_ROPE_ADJACENT or MICA_ROPE_HALF_SPLIT");
  return MICA_OK;
}

}  // namespace mica
