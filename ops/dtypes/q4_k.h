// Block layout of q4_k: 256 elements in 8 groups of 32, value d * scale * q - dmin * min.
// Little-endian.
#pragma once
#include <stdint.h>

typedef struct mica_block_q4_k {
  uint16_t d;         /* f16 */
  uint16_t dmin;      /* f16 */
  uint8_t scales[12]; /* 8 scales and 8 mins of 6 bits; see k_scales.h */
  uint8_t qs[128];    /* per 64 elements 32 bytes: low nibbles first, then high nibbles */
} mica_block_q4_k;

#ifdef __cplusplus
static_assert(sizeof(mica_block_q4_k) == 144, "the layout is that of files");
#endif
