// The eight 6-bit scales and eight 6-bit mins of q4_k and q5_k, in 12 bytes: bytes 0...3 hold
// scales 0...3, bytes 4...7 mins 0...3 in their low 6 bits; bytes 8...11 hold the low 4 bits of
// scales 4...7 (low nibble) and mins 4...7 (high nibble), whose upper 2 bits are the top of bytes
// 0...7.
#pragma once
#include <stdint.h>

namespace mica {

static inline void unpack_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8]) {
  for (int i = 0; i < 4; ++i) {
    scale[i] = packed[i] & 63;
    min[i] = packed[4 + i] & 63;
    scale[4 + i] = static_cast<uint8_t>((packed[8 + i] & 15) | (packed[i] >> 6 << 4));
    min[4 + i] = static_cast<uint8_t>((packed[8 + i] >> 4) | (packed[4 + i] >> 6 << 4));
  }
}

static inline void pack_k_scales(const uint8_t scale[8], const uint8_t min[8], uint8_t packed[12]) {
  for (int i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(scale[i] | (scale[4 + i] >> 4 << 6));
    packed[4 + i] = static_cast<uint8_t>(min[i] | (min[4 + i] >> 4 << 6));
    packed[8 + i] = static_cast<uint8_t>((scale[4 + i] & 15) | (min[4 + i] << 4));
  }
}

}  // namespace mica
