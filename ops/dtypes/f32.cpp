// Reference codec of f32: a copy.
#include <cstring>

#include "core/base/dtype.h"

namespace mica {
namespace {

void decode(const void* src, float* dst, size_t n) { std::memcpy(dst, src, n * sizeof(float)); }
void encode(const float* src, void* dst, size_t n) { std::memcpy(dst, src, n * sizeof(float)); }

}  // namespace
}  // namespace mica

MICA_DEFINE_DTYPE(F32, f32, 1, 4, decode, encode)
