// Reference codec of q6_k.
#include "ops/dtypes/q6_k.h"

#include <cmath>

#include "ops/dtypes/k_fit.h"

namespace mica {
namespace {

void decode(const mica_block_q6_k& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int column = i % 128;
    const int32_t low = b.ql[half * 64 + column % 64] >> (column / 64 * 4) & 15;
    const int32_t high = b.qh[half * 32 + column % 32] >> (column / 32 * 2) & 3;
    const int32_t q = (low | high << 4) - 32;
    const int8_t scale = b.scales[i / 16];
    y[i] = d * static_cast<float>(scale) * static_cast<float>(q);
  }
}

void store_quants(const int32_t q[256], mica_block_q6_k& b) {
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 32; ++i) {
      const int32_t* p = q + 128 * half + i;
      b.ql[64 * half + i] = static_cast<uint8_t>((p[0] & 15) | (p[64] & 15) << 4);
      b.ql[64 * half + 32 + i] = static_cast<uint8_t>((p[32] & 15) | (p[96] & 15) << 4);
      b.qh[32 * half + i] =
          static_cast<uint8_t>(p[0] >> 4 | p[32] >> 4 << 2 | p[64] >> 4 << 4 | p[96] >> 4 << 6);
    }
  }
}

void encode(const float* x, mica_block_q6_k& b) {
  float value[256];
  float scale[16];
  float largest = 0;
  for (int i = 0; i < 256; ++i) value[i] = within(x[i], kLimitK);
  for (int g = 0; g < 16; ++g) {
    float weight[16];
    k_weights(value + 16 * g, 16, weight);
    scale[g] = fit_scale(value + 16 * g, weight, 16, 32);
    if (std::fabs(scale[g]) > std::fabs(largest)) largest = scale[g];
  }
  b.d = f32_to_f16(largest / -128.0f);  // the largest scale is the integer -128
  const float d = f16_to_f32(b.d);
  const float inverse_d = inverse_scale(d, b.d);
  int32_t q[256];
  for (int g = 0; g < 16; ++g) {
    const int32_t k = clamp_int(round_even(scale[g] * inverse_d), -128, 127);
    b.scales[g] = static_cast<int8_t>(k);
    const float step = d * static_cast<float>(k);
    const float inverse = step != 0 ? 1.0f / step : 0.0f;
    for (int i = 16 * g; i < 16 * g + 16; ++i) {
      const float exact = value[i] * inverse;
      const float near = exact > 31 ? 31.0f : exact < -32 ? -32.0f : exact;
      q[i] = round_even(near) + 32;
    }
  }
  store_quants(q, b);
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q6_K, q6_k, 256, 210, (decode_blocks<mica_block_q6_k, 256, decode>),
                  (encode_blocks<mica_block_q6_k, 256, encode>))
