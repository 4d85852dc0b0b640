// Block layout of q8_0: 32 elements, value d * q. Little-endian.
#pragma once
#include <stdint.h>

typedef struct mica_block_q8_0 {
  uint16_t d; /* f16 */
  int8_t qs[32];
} mica_block_q8_0;

#ifdef __cplusplus
static_assert(sizeof(mica_block_q8_0) == 34, "the layout is that of files");
#endif
