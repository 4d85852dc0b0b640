// Reference codec of q5_0.
#include "ops/dtypes/q5_0.h"

#include "ops/dtypes/legacy_fit.h"
#include "ops/dtypes/nibbles.h"

namespace mica {
namespace {

void decode(const mica_block_q5_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) {
    const int32_t q = get_nibble(b.qs, i) | get_fifth_bit(b.qh, i);
    y[i] = d * static_cast<float>(q - 16);
  }
}

void encode(const float* x, mica_block_q5_0& b) {
  int32_t q[32];
  fit_symmetric<16>(x, b.d, q);
  put_nibbles(q, b.qs);
  put_fifth_bits(q, b.qh);
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q5_0, q5_0, 32, 22, (decode_blocks<mica_block_q5_0, 32, decode>),
                  (encode_blocks<mica_block_q5_0, 32, encode>))
