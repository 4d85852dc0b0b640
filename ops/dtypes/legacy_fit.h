// Scales of the 32-element types without a search: by the value of largest magnitude, or by the
// range. The quants follow the f32 scale, before it is rounded to f16.
#pragma once
#include <cmath>

#include "ops/dtypes/codec.h"

namespace mica {

// Values d * (q - kZero), q in 0 ... 2 * kZero - 1: d = m / -kZero, where m is the value (with its
// sign; the first of equals) of largest magnitude, so that m itself is the quant 0.
template <int32_t kZero>
void fit_symmetric(const float* x, uint16_t& out_d, int32_t q[32]) {
  constexpr float kLimit = static_cast<float>(kZero) * kLargestF16;
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    const float v = within(x[i], kLimit);
    if (std::fabs(v) > std::fabs(largest)) largest = v;
  }
  const float d = largest / static_cast<float>(-kZero);
  out_d = f32_to_f16(d);
  const float inverse = inverse_scale(d, out_d);
  for (int i = 0; i < 32; ++i) {
    q[i] = clamp_int(round_even(within(x[i], kLimit) * inverse) + kZero, 0, 2 * kZero - 1);
  }
}

// Values d * q + m, q in 0 ... kLast: m = min, d = (max - min) / kLast.
template <int32_t kLast>
void fit_range(const float* x, uint16_t& out_d, uint16_t& out_m, int32_t q[32]) {
  float low = within(x[0], kLargestF16);
  float high = low;
  for (int i = 1; i < 32; ++i) {
    const float v = within(x[i], kLargestF16);
    if (v < low) low = v;
    if (v > high) high = v;
  }
  const float d = (high - low) / static_cast<float>(kLast);
  out_d = f32_to_f16(d);
  out_m = f32_to_f16(low);
  const float inverse = inverse_scale(d, out_d);
  for (int i = 0; i < 32; ++i) {
    q[i] = clamp_int(round_even((within(x[i], kLargestF16) - low) * inverse), 0, kLast);
  }
}

}  // namespace mica
