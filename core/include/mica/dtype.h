/* Data types of tensors. Quantized types store rows of whole blocks. */
#ifndef MICA_DTYPE_H_
#define MICA_DTYPE_H_
#include <stddef.h>
#include <stdint.h>

#include "status.h"

MICA_C_BEGIN

typedef enum mica_dtype {
#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) MICA_##NAME = id,
#include "dtype.def"
#undef MICA_DTYPE
  MICA_DTYPE_FORCE_INT = 0x7fffffff
} mica_dtype;

typedef struct mica_dtype_info {
  mica_dtype dtype;
  const char* name;     /* lower case, "q4_k" */
  uint32_t block_elems; /* elements of one block; 1 for plain types */
  uint32_t block_bytes; /* bytes of one block */
  uint32_t is_quantized;
} mica_dtype_info;

/* NULL when `dtype` is not a type of this build. Thread-safe; the result lives for ever. */
MICA_API const mica_dtype_info* mica_dtype_get(mica_dtype dtype);
/* By lower- or upper-case name ("q4_0", "F16"); NULL when unknown. Thread-safe. */
MICA_API const mica_dtype_info* mica_dtype_find(const char* name);
/* The i-th type, or NULL past the last one: for listing them. */
MICA_API const mica_dtype_info* mica_dtype_at(uint32_t i);

/* Decodes `n` elements (a multiple of block_elems) starting at block boundary `src` to F32.
 * I32 and I64 are converted by value. Errors: INVALID_ARGUMENT (unknown dtype, n, NULL). */
MICA_API mica_status mica_dtype_decode(mica_dtype dtype, const void* src, float* dst, size_t n);
/* Encodes `n` F32 elements (a multiple of block_elems). Rounding is half to even; the result is
 * the same on every backend. Errors: INVALID_ARGUMENT; UNSUPPORTED for I32 and I64. */
MICA_API mica_status mica_dtype_encode(mica_dtype dtype, const float* src, void* dst, size_t n);

MICA_C_END
#endif
