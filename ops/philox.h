/* Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011: 128 random bits from a counter and a key, no state. Read by C, C++, CUDA and
 * GLSL. */
#ifndef MICA_OPS_PHILOX_H_
#define MICA_OPS_PHILOX_H_

#ifdef GL_core_profile
#define MICA_PHILOX_FN
#define MICA_PHILOX_WORD uint
#define MICA_PHILOX_BITS mica_philox_bits
#else
#include <stdint.h>
#ifdef __CUDACC__
#define MICA_PHILOX_FN static __host__ __device__ inline
#else
#define MICA_PHILOX_FN static inline
#endif
#define MICA_PHILOX_WORD uint32_t
#define MICA_PHILOX_BITS struct mica_philox_bits
#endif

struct mica_philox_bits {
  MICA_PHILOX_WORD x, y, z, w;
};

MICA_PHILOX_FN MICA_PHILOX_WORD mica_philox_high(MICA_PHILOX_WORD a, MICA_PHILOX_WORD b) {
#ifdef GL_core_profile
  uint high, low;
  umulExtended(a, b, high, low);
  return high;
#else
  return (uint32_t)(((uint64_t)a * b) >> 32);
#endif
}

MICA_PHILOX_FN MICA_PHILOX_BITS mica_philox4x32_10(MICA_PHILOX_BITS counter, MICA_PHILOX_WORD key0,
                                                   MICA_PHILOX_WORD key1) {
  for (int i_round = 0; i_round < 10; ++i_round) {
    MICA_PHILOX_BITS next;
    next.x = mica_philox_high(0xCD9E8D57u, counter.z) ^ counter.y ^ key0;
    next.y = 0xCD9E8D57u * counter.z;
    next.z = mica_philox_high(0xD2511F53u, counter.x) ^ counter.w ^ key1;
    next.w = 0xD2511F53u * counter.x;
    counter = next;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

#endif
