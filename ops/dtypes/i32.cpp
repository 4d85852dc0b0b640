// Reference codec of i32: decoded by value (rounded half to even beyond 2^24), never encoded.
#include "ops/dtypes/codec.h"

namespace mica {
namespace {

void decode(const int32_t& stored, float* y) { *y = static_cast<float>(stored); }

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(I32, i32, 1, 4, (decode_blocks<int32_t, 1, decode>), nullptr)
