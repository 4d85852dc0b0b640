// The search for scales of the K types: weighted least squares over a few candidate steps. For each
// step the quants are rounded, then the scale (and min) that fit those quants best are solved for
// in closed form; the candidate with the smallest weighted squared error wins.
#pragma once
#include "ops/dtypes/codec.h"

namespace mica {

// Values of a K block beyond this are moved to it.
constexpr float kLimitK = 8 * kLargestF16;

struct ScaleMin {
  float scale;  // >= 0
  float min;    // >= 0; x is about scale * q - min
};

// Large values count more: weight = root mean square + |x|.
void k_weights(const float* x, int n, float* weight);
// x about scale * q - min with q in 0 ... q_last; 32 values, all finite.
ScaleMin fit_scale_min(const float* x, const float* weight, int32_t q_last);
// x about scale * q with q in -q_half ... q_half - 1; n <= 32 values, all finite.
float fit_scale(const float* x, const float* weight, int n, int32_t q_half);

// The super-block's step and 6-bit numbers of q4_k and q5_k, and the quants 0 ... q_last.
struct KBlockFit {
  uint16_t d, dmin;
  uint8_t scale[8], min[8];
  int32_t q[256];
};
void fit_k_block(const float* x, int32_t q_last, KBlockFit& out);

}  // namespace mica
