// See k_fit.h.
#include "ops/dtypes/k_fit.h"

#include <cmath>

namespace mica {
namespace {

// Candidate steps: the full range is spread over q_last + offset quants.
constexpr float kOffsets[] = {-2.4f, -2.0f, -1.6f, -1.2f, -0.8f, -0.4f, 0.0f, 0.4f};

// Sums over the 32 elements for one choice of quants.
struct Sums {
  float q = 0, qq = 0, qx = 0;  // of weight * (q, q * q, q * x)
};

Sums sums_of_step(const float* x, const float* weight, float low, float inverse, int32_t q_last) {
  Sums s;
  const auto last = static_cast<float>(q_last);
  for (int i = 0; i < 32; ++i) {
    float q = (x[i] - low) * inverse;
    q = q > last ? last : q;
    q = (q + 0x1.8p23f) - 0x1.8p23f;  // half to even
    const float wq = weight[i] * q;
    s.q += wq;
    s.qq += wq * q;
    s.qx += wq * x[i];
  }
  return s;
}

// Quants of a group for a given step and shift (x is about step * q - shift); the weighted squared
// error is returned.
float quantize_group(const float* x, const float* weight, float step, float shift, int32_t q_last,
                     int32_t* out_q) {
  const float inverse = step > 0 ? 1.0f / step : 0.0f;
  const auto last = static_cast<float>(q_last);
  float error = 0;
  for (int i = 0; i < 32; ++i) {
    float q = (x[i] + shift) * inverse;
    q = q > last ? last : q < 0 ? 0 : q;
    out_q[i] = round_even(q);
    const float miss = step * static_cast<float>(out_q[i]) - shift - x[i];
    error += weight[i] * miss * miss;
  }
  return error;
}

}  // namespace

void k_weights(const float* x, int n, float* weight) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] * x[i];
  const float rms = std::sqrt(sum / static_cast<float>(n));
  for (int i = 0; i < n; ++i) weight[i] = rms + std::fabs(x[i]);
}

ScaleMin fit_scale_min(const float* x, const float* weight, int32_t q_last) {
  float low = 0;
  float high = x[0];
  float w = 0;
  float wx = 0;
  for (int i = 0; i < 32; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    w += weight[i];
    wx += weight[i] * x[i];
  }
  const float range = high - low;
  ScaleMin best = {range / static_cast<float>(q_last), -low};
  if (!(range > 0x1p-80f)) return {0, -low};  // flat; or too small for the sums below
  float least = INFINITY;
  for (const float offset : kOffsets) {
    const Sums s =
        sums_of_step(x, weight, low, (static_cast<float>(q_last) + offset) / range, q_last);
    const float determinant = w * s.qq - s.q * s.q;
    if (!(determinant > 0)) continue;
    float scale = (w * s.qx - s.q * wx) / determinant;
    float min = (s.q * s.qx - s.qq * wx) / determinant;
    if (min < 0) {
      min = 0;
      scale = s.qx / s.qq;
    }
    if (!(scale > 0)) continue;
    // The weighted squared error without its constant part, the sum of weight * x * x.
    const float error =
        scale * (scale * s.qq - 2 * min * s.q - 2 * s.qx) + min * (min * w + 2 * wx);
    if (error < least) {
      least = error;
      best = {scale, min};
    }
  }
  return best;
}

float fit_scale(const float* x, const float* weight, int n, int32_t q_half) {
  float largest = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  if (!(std::fabs(largest) > 0x1p-80f)) return 0;
  const auto half = static_cast<float>(q_half);
  float best = -largest / half;
  float most = 0;
  for (const float offset : kOffsets) {
    const float inverse = -(half + offset) / largest;
    float qq = 0;
    float qx = 0;
    for (int i = 0; i < n; ++i) {
      float q = x[i] * inverse;
      q = q > half - 1 ? half - 1 : q < -half ? -half : q;
      q = (q + 0x1.8p23f) - 0x1.8p23f;
      qq += weight[i] * q * q;
      qx += weight[i] * q * x[i];
    }
    // The error falls by qx * qx / qq against a zero scale.
    if (qq > 0 && qx * qx > most * qq) {
      most = qx * qx / qq;
      best = qx / qq;
    }
  }
  return best;
}

void fit_k_block(const float* x, int32_t q_last, KBlockFit& out) {
  float value[256];
  float weight[256];
  ScaleMin fit[8];
  float largest_scale = 0;
  float largest_min = 0;
  for (int i = 0; i < 256; ++i) value[i] = within(x[i], kLimitK);
  for (int g = 0; g < 8; ++g) {
    k_weights(value + 32 * g, 32, weight + 32 * g);
    fit[g] = fit_scale_min(value + 32 * g, weight + 32 * g, q_last);
    largest_scale = fit[g].scale > largest_scale ? fit[g].scale : largest_scale;
    largest_min = fit[g].min > largest_min ? fit[g].min : largest_min;
  }
  out.d = f32_to_f16(largest_scale / 63.0f);
  out.dmin = f32_to_f16(largest_min / 63.0f);
  const float d = f16_to_f32(out.d);
  const float dmin = f16_to_f32(out.dmin);
  for (int g = 0; g < 8; ++g) {
    // The integers below and above each of the two numbers: the best of the four pairs.
    const auto scale = static_cast<int32_t>(fit[g].scale * inverse_scale(d, out.d));
    const auto min = static_cast<int32_t>(fit[g].min * inverse_scale(dmin, out.dmin));
    float least = INFINITY;
    for (int k = 0; k < 4; ++k) {
      const int32_t try_scale = clamp_int(scale + k % 2, 0, 63);
      const int32_t try_min = clamp_int(min + k / 2, 0, 63);
      int32_t q[32];
      const float error =
          quantize_group(value + 32 * g, weight + 32 * g, d * static_cast<float>(try_scale),
                         dmin * static_cast<float>(try_min), q_last, q);
      if (error < least) {
        least = error;
        out.scale[g] = static_cast<uint8_t>(try_scale);
        out.min[g] = static_cast<uint8_t>(try_min);
        std::memcpy(out.q + 32 * g, q, sizeof q);
      }
    }
  }
}

}  // namespace mica
