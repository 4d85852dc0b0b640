// Reference codec of q8_0. Encoding: d = max |x| / 127 in f32, q = x * (1 / d) rounded half to
// even, d stored as f16.
#include "ops/dtypes/q8_0.h"

#include <cmath>

#include "ops/dtypes/codec.h"

namespace mica {
namespace {

constexpr float kLimit = 127 * kLargestF16;

void decode(const mica_block_q8_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(b.qs[i]);
}

void encode(const float* x, mica_block_q8_0& b) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    const float magnitude = std::fabs(within(x[i], kLimit));
    if (magnitude > largest) largest = magnitude;
  }
  const float d = largest / 127.0f;
  b.d = f32_to_f16(d);
  const float inverse = inverse_scale(d, b.d);
  for (int i = 0; i < 32; ++i) {
    b.qs[i] = static_cast<int8_t>(round_even(within(x[i], kLimit) * inverse));
  }
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q8_0, q8_0, 32, 34, (decode_blocks<mica_block_q8_0, 32, decode>),
                  (encode_blocks<mica_block_q8_0, 32, encode>))
