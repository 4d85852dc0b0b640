// Reference codec of i64: decoded by value (rounded half to even beyond 2^24), never encoded.
#include "ops/dtypes/codec.h"

namespace mica {
namespace {

void decode(const int64_t& stored, float* y) { *y = static_cast<float>(stored); }

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(I64, i64, 1, 8, (decode_blocks<int64_t, 1, decode>), nullptr)
