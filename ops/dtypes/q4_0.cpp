// Reference codec of q4_0.
#include "ops/dtypes/q4_0.h"

#include "ops/dtypes/legacy_fit.h"
#include "ops/dtypes/nibbles.h"

namespace mica {
namespace {

void decode(const mica_block_q4_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) {
    const int32_t q = get_nibble(b.qs, i);
    y[i] = d * static_cast<float>(q - 8);
  }
}

void encode(const float* x, mica_block_q4_0& b) {
  int32_t q[32];
  fit_symmetric<8>(x, b.d, q);
  put_nibbles(q, b.qs);
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q4_0, q4_0, 32, 18, (decode_blocks<mica_block_q4_0, 32, decode>),
                  (encode_blocks<mica_block_q4_0, 32, encode>))
