/* Rounding of activations to int8 as the numerics MICA_NUM_Q8_32 and MICA_NUM_Q8_256 define it: the
 * exact F32 operations, in their order. Plain functions of internal linkage, for references and for
 * files compiled for one instruction set.
 *
 * A block is 32 or 256 consecutive elements of a row (the last one of a row may be shorter):
 *   amax = max |x|; inverse = 127 / amax; q = half-to-even(x * inverse); scale = amax / 127.
 * amax = 0, or so small that 127 / amax is not finite (below 2^-120 or so), gives zeros. A block
 * with an infinity or a not-a-number has no defined result. */
#ifndef MICA_OPS_MATMUL_Q8_H_
#define MICA_OPS_MATMUL_Q8_H_
#include <stdint.h>

namespace mica {

// 127 / amax, or 0 where that gives a block of zeros.
static inline float q8_inverse(float amax) {
  constexpr float kSmallest = 127.0f / 0x1.fffffep127f;  // 127 / amax is finite above it
  return amax > kSmallest ? 127.0f / amax : 0.0f;
}

static inline float q8_scale(float amax) { return amax / 127.0f; }

// rint, not the addition of a large constant: that would be fused with the multiplication where
// the instruction set has FMA, and round once instead of twice.
static inline int32_t q8_quant(float x, float inverse) {
  return static_cast<int32_t>(__builtin_rintf(x * inverse));
}

// The values that a row of n elements has after rounding: q * scale, exact in double. Blocks
// without a defined result become not-a-number.
static inline void q8_round_row(double* row, int64_t n, int64_t block) {
  for (int64_t first = 0; first < n; first += block) {
    const int64_t end = first + block < n ? first + block : n;
    float amax = 0;
    bool finite = true;
    for (int64_t i = first; i < end; ++i) {
      const float magnitude = __builtin_fabsf(static_cast<float>(row[i]));
      finite = finite && magnitude <= 0x1.fffffep127f;
      if (magnitude > amax) amax = magnitude;
    }
    const float inverse = q8_inverse(amax);
    const double scale = q8_scale(amax);
    for (int64_t i = first; i < end; ++i) {
      row[i] = finite ? scale * q8_quant(static_cast<float>(row[i]), inverse) : __builtin_nan("");
    }
  }
}

}  // namespace mica
#endif
