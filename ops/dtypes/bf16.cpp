// Reference codec of bf16: the upper half of an f32; infinities and NaN are kept.
#include "ops/dtypes/codec.h"

namespace mica {
namespace {

void decode(const uint16_t& stored, float* y) { *y = bf16_to_f32(stored); }
void encode(const float* x, uint16_t& stored) { stored = f32_to_bf16(*x); }

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(BF16, bf16, 1, 2, (decode_blocks<uint16_t, 1, decode>),
                  (encode_blocks<uint16_t, 1, encode>))
