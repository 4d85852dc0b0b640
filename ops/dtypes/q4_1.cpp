// Reference codec of q4_1.
#include "ops/dtypes/q4_1.h"

#include "ops/dtypes/legacy_fit.h"
#include "ops/dtypes/nibbles.h"

namespace mica {
namespace {

void decode(const mica_block_q4_1& b, float* y) {
  const float d = f16_to_f32(b.d);
  const float m = f16_to_f32(b.m);
  for (int i = 0; i < 32; ++i) {
    const int32_t q = get_nibble(b.qs, i);
    y[i] = d * static_cast<float>(q) + m;
  }
}

void encode(const float* x, mica_block_q4_1& b) {
  int32_t q[32];
  fit_range<15>(x, b.d, b.m, q);
  put_nibbles(q, b.qs);
}

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(Q4_1, q4_1, 32, 20, (decode_blocks<mica_block_q4_1, 32, decode>),
                  (encode_blocks<mica_block_q4_1, 32, encode>))
