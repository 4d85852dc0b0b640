// Block layout of q5_0: 32 elements, value d * (q - 16). Little-endian.
#pragma once
#include <stdint.h>

typedef struct mica_block_q5_0 {
  uint16_t d;     /* f16 */
  uint8_t qh[4];  /* bit i of the 32: the fifth bit of element i */
  uint8_t qs[16]; /* low nibbles: elements 0...15, high nibbles: 16...31 */
} mica_block_q5_0;

#ifdef __cplusplus
static_assert(sizeof(mica_block_q5_0) == 22, "the layout is that of files");
#endif
