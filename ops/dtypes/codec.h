// Shared by the reference codecs: walking blocks at any address, and the rule for values that a
// block cannot hold.
//
// Decoding: d has 11 significant bits, a block scale at most 8, a quant at most 6, so every product
// is exact in f32 and only a final "+ m" or "- m" rounds, once. Hence any order of the factors and
// fused multiply-add give the same bits on every backend.
//
// Encoding of block types: NaN counts as 0, and values (infinities too) beyond the type's limit are
// moved to it, so that scales stay finite in f16 and every block decodes to finite numbers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/base/dtype.h"
#include "ops/dtypes/half.h"

namespace mica {

constexpr float kLargestF16 = 65504.0f;

// NaN fails both comparisons and gives 0.
inline float within(float x, float limit) {
  return x > limit ? limit : x < -limit ? -limit : x == x ? x : 0.0f;
}
inline int32_t clamp_int(int32_t v, int32_t low, int32_t high) {
  return v < low ? low : v > high ? high : v;
}
// x / d for a block scale d that is stored as f16: 0 when that scale is 0.
inline float inverse_scale(float d, uint16_t stored) {
  return (stored & 0x7fffu) == 0 ? 0.0f : 1.0f / d;
}

template <class Block, size_t kElems, void (*kDecode)(const Block&, float*)>
void decode_blocks(const void* src, float* dst, size_t n) {
  const char* p = static_cast<const char*>(src);
  for (size_t i = 0; i < n; i += kElems, p += sizeof(Block)) {
    Block block;
    std::memcpy(&block, p, sizeof block);
    kDecode(block, dst + i);
  }
}

template <class Block, size_t kElems, void (*kEncode)(const float*, Block&)>
void encode_blocks(const float* src, void* dst, size_t n) {
  char* p = static_cast<char*>(dst);
  for (size_t i = 0; i < n; i += kElems, p += sizeof(Block)) {
    Block block;
    kEncode(src + i, block);
    std::memcpy(p, &block, sizeof block);
  }
}

}  // namespace mica
