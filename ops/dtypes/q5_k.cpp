// Reference codec of q5_k.
#include "ops/dtypes/q5_k.h"

#include "ops/dtypes/k_fit.h"
#include "ops/dtypes/k_scales.h"

namespace mica {
namespace {

void decode(const mica_block_q5_k& b, float* y) {
  const float d = f16_to_f32(b.d);
  const float dmin = f16_to_f32(b.dmin);
  uint8_t scale[8];
  uint8_t min[8];
  unpack_k_scales(b.scales, scale, min);
  for (int g = 0; g < 8; ++g) {
    const float step = d * static_cast<float>(scale[g]);
    const float shift = dmin * static_cast<float>(min[g]);
    const uint8_t* qs = b.qs + g / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int32_t q = (qs[i] >> (g % 2 * 4) & 15) | (b.qh[i] >> g & 1) << 4;
      y[32 * g + i] = step * static_cast<float>(q) - shift;
    }
  }
}

void encode(const float* x, mica_block_q5_k& b) {
  KBlockFit fit;
  fit_k_block(x, 31, fit);
  b.d = fit.d;
  b.dmin = fit.dmin;
  pack_k_scales(fit.scale, fit.min, b.scales);
  for (int i = 0; i < 128; ++i) {
    const int32_t* q = fit.q + i / 32 * 64 + i % 32;
    b.qs[i] = static_cast<uint8_t>((q[0] & 15) | (q[32] & 15) << 4);
  }
  for (int i = 0; i < 32; ++i) {
    int32_t bits = 0;
    for (int g = 0; g < 8; ++g) bits |= (fit.q[32 * g + i] >> 4) << g;
    b.qh[i] = static_cast<uint8_t>(bits);
  }
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q5_K, q5_k, 256, 176, (decode_blocks<mica_block_q5_k, 256, decode>),
                  (encode_blocks<mica_block_q5_k, 256, encode>))
