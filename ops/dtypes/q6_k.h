// Block layout of q6_k: 256 elements in 16 groups of 16, value d * scale * (q - 32). Little-endian.
#pragma once
#include <stdint.h>

typedef struct mica_block_q6_k {
  uint8_t ql[128]; /* per 128 elements 64 bytes: low nibbles elements 0...63, high: 64...127 */
  uint8_t qh[64];  /* per 128 elements 32 bytes: bits 2j, 2j+1 of byte i: element 32j + i */
  int8_t scales[16];
  uint16_t d; /* f16 */
} mica_block_q6_k;

#ifdef __cplusplus
static_assert(sizeof(mica_block_q6_k) == 210, "the layout is that of files");
#endif
