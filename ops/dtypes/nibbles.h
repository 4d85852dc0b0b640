// Quants of the 32-element types: 4 bits in two halves of 16 bytes, and a fifth bit apart.
#pragma once
#include <stdint.h>

namespace mica {

static inline int32_t get_nibble(const uint8_t qs[16], int i) {
  return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
static inline void put_nibbles(const int32_t q[32], uint8_t qs[16]) {
  for (int i = 0; i < 16; ++i) {
    qs[i] = static_cast<uint8_t>((q[i] & 15) | ((q[16 + i] & 15) << 4));
  }
}

static inline int32_t get_fifth_bit(const uint8_t qh[4], int i) {
  return (qh[i / 8] >> (i % 8) & 1) << 4;
}
static inline void put_fifth_bits(const int32_t q[32], uint8_t qh[4]) {
  for (int i = 0; i < 4; ++i) {
    int32_t bits = 0;
    for (int j = 0; j < 8; ++j) bits |= (q[8 * i + j] >> 4 & 1) << j;
    qh[i] = static_cast<uint8_t>(bits);
  }
}

}  // namespace mica
