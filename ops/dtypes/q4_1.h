// Block layout of q4_1: 32 elements, value d * q + m. Little-endian.
#pragma once
#include <stdint.h>

typedef struct mica_block_q4_1 {
  uint16_t d;     /* f16 */
  uint16_t m;     /* f16 */
  uint8_t qs[16]; /* low nibbles: elements 0...15, high nibbles: 16...31 */
} mica_block_q4_1;

#ifdef __cplusplus
static_assert(sizeof(mica_block_q4_1) == 20, "the layout is that of files");
#endif
