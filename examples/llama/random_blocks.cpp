// Random blocks of every weight type: random bits, with scales that give sane values.
#include <algorithm>
#include <cstring>

#include "random_model.h"

namespace mica_llama {
namespace {

constexpr float kDeviation = 0.02f;  // of the weights

// SplitMix64 (Steele, Lea, Flood 2014) of a counter: any word can be made without those before it.
uint64_t random_word(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Where a block keeps its F16 scales, and what they must be. A value is d times a random integer
// (of K types: a quant times a sub-scale); m moves its mean to 0 (of K types m is subtracted, times
// a sub-scale).
struct BlockScales {
  mica_dtype dtype;
  uint32_t d_offset;
  float d;
  int32_t m_offset;  // -1: none
  float m;
};

constexpr float kQ4 = 4.61f, kQ5 = 9.23f, kQ8 = 73.9f;  // deviation of uniform 4, 5, 8 bits
// Sub-scales of 6 bits have mean 31.5; quants times sub-scales deviate by about those of the quants
// times the root mean square of the sub-scales, 36.6. Sub-scales of Q6_K are signed 8-bit numbers.
constexpr float kSub = 36.6f;

constexpr BlockScales kScales[] = {
    {MICA_Q4_0, 0, kDeviation / kQ4, -1, 0},
    {MICA_Q4_1, 0, kDeviation / kQ4, 2, -7.5f * kDeviation / kQ4},
    {MICA_Q5_0, 0, kDeviation / kQ5, -1, 0},
    {MICA_Q5_1, 0, kDeviation / kQ5, 2, -15.5f * kDeviation / kQ5},
    {MICA_Q8_0, 0, kDeviation / kQ8, -1, 0},
    {MICA_Q4_K, 0, kDeviation / (kQ4 * kSub), 2, 7.5f * kDeviation / (kQ4 * kSub)},
    {MICA_Q5_K, 0, kDeviation / (kQ5 * kSub), 2, 15.5f * kDeviation / (kQ5 * kSub)},
    {MICA_Q6_K, 208, kDeviation / (18.5f * kQ8), -1, 0},
};

uint16_t to_f16(float x) {
  uint16_t half = 0;
  (void)mica_dtype_encode(MICA_F16, &x, &half, 1);
  return half;
}

void set_scales(const BlockScales& s, size_t block_bytes, size_t bytes, char* dst) {
  const uint16_t d = to_f16(s.d), m = to_f16(s.m);
  for (char* block = dst; block != dst + bytes; block += block_bytes) {
    std::memcpy(block + s.d_offset, &d, sizeof d);
    if (s.m_offset >= 0) std::memcpy(block + s.m_offset, &m, sizeof m);
  }
}

// Floats: random sign and mantissa, the exponent of [2^-6, 2^-5).
template <class T>
void set_exponents(T keep, T exponent, size_t bytes, char* dst) {
  for (size_t i = 0; i < bytes; i += sizeof(T)) {
    T x;
    std::memcpy(&x, dst + i, sizeof x);
    x = static_cast<T>((x & keep) | exponent);
    std::memcpy(dst + i, &x, sizeof x);
  }
}

}  // namespace

void fill_random_blocks(mica_dtype dtype, uint64_t seed, uint64_t offset, uint64_t bytes,
                        void* dst) {
  char* out = static_cast<char*>(dst);
  const auto n = static_cast<size_t>(bytes);
  // Words count from the tensor's start, so that any cut of it gives the same bytes.
  for (size_t i = 0; i < n;) {
    const uint64_t at = offset + i;
    if (at % 8 == 0 && n - i >= 8) {
      const uint64_t word = random_word(seed, at / 8);
      std::memcpy(out + i, &word, 8);
      i += 8;
      continue;
    }
    const uint64_t word = random_word(seed, at / 8);
    const size_t skip = static_cast<size_t>(at % 8);
    const size_t k = std::min(8 - skip, n - i);
    std::memcpy(out + i, reinterpret_cast<const char*>(&word) + skip, k);
    i += k;
  }
  if (dtype == MICA_F32) return set_exponents<uint32_t>(0x807fffffu, 121u << 23, n, out);
  if (dtype == MICA_BF16) return set_exponents<uint16_t>(0x807f, 121u << 7, n, out);
  if (dtype == MICA_F16) return set_exponents<uint16_t>(0x83ff, 9u << 10, n, out);
  for (const BlockScales& s : kScales)
    if (s.dtype == dtype) return set_scales(s, mica_dtype_get(dtype)->block_bytes, n, out);
  fail(MICA_UNSUPPORTED, "no random weights of this type");
}

}  // namespace mica_llama
