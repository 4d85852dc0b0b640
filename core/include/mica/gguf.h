/* Reader of GGUF files, versions 2 and 3, little-endian. Everything in a file is checked before it
 * is believed: after mica_gguf_open every offset, size, type and name is known to be sound. */
#ifndef MICA_GGUF_H_
#define MICA_GGUF_H_
#include "context.h"
#include "dtype.h"

MICA_C_BEGIN

typedef struct mica_gguf mica_gguf;

/* Numbers of the file format. */
typedef enum mica_gguf_type {
  MICA_GGUF_U8 = 0,
  MICA_GGUF_I8 = 1,
  MICA_GGUF_U16 = 2,
  MICA_GGUF_I16 = 3,
  MICA_GGUF_U32 = 4,
  MICA_GGUF_I32 = 5,
  MICA_GGUF_F32 = 6,
  MICA_GGUF_BOOL = 7,
  MICA_GGUF_STRING = 8,
  MICA_GGUF_ARRAY = 9,
  MICA_GGUF_U64 = 10,
  MICA_GGUF_I64 = 11,
  MICA_GGUF_F64 = 12,
  MICA_GGUF_TYPE_FORCE_INT = 0x7fffffff
} mica_gguf_type;

typedef enum mica_gguf_mode {
  MICA_GGUF_MAP = 0,  /* map the file; a file that shrinks while mapped raises SIGBUS on access */
  MICA_GGUF_READ = 1, /* map nothing: metadata is read to memory, tensor data on demand */
  MICA_GGUF_MODE_FORCE_INT = 0x7fffffff
} mica_gguf_mode;

typedef struct mica_gguf_tensor {
  const char* name; /* NUL-terminated, no NUL inside, at most 64 bytes; escape before printing */
  mica_dtype dtype;
  uint32_t rank;  /* 1 … 4 */
  int64_t dim[4]; /* each >= 1; dim[0] is fastest; unused ones are 1 */
  uint64_t bytes;
  uint64_t offset; /* of the data, from the file's start */
} mica_gguf_tensor;

/* Opens a regular file. Errors: NOT_FOUND, IO (also: a directory, a FIFO), BAD_FILE (with the key
 * or tensor and the reason), UNSUPPORTED (a version or tensor type this build lacks; more than 2^17
 * keys or 2^20 tensors), CANCELLED, OUT_OF_MEMORY. */
MICA_API mica_status mica_gguf_open(mica_context* context, const char* path, mica_gguf_mode mode,
                                    mica_gguf** out_file);
/* NULL is a no-op. */
MICA_API void mica_gguf_release(mica_gguf* file);

MICA_API uint32_t mica_gguf_version(const mica_gguf* file);
MICA_API uint64_t mica_gguf_n_tensors(const mica_gguf* file);
/* The i-th tensor in file order; NULL past the end. Lives as long as the file. */
MICA_API const mica_gguf_tensor* mica_gguf_tensor_at(const mica_gguf* file, uint64_t i);
/* By name; NULL when there is none. */
MICA_API const mica_gguf_tensor* mica_gguf_tensor_find(const mica_gguf* file, const char* name);
/* Copies `bytes` of a tensor's data from `offset` in it. Errors: INVALID_ARGUMENT (range), IO. */
MICA_API mica_status mica_gguf_read(mica_gguf* file, const mica_gguf_tensor* tensor,
                                    uint64_t offset, uint64_t bytes, void* dst);
/* The tensor's data in the mapping, or NULL in READ mode. Lives as long as the file. */
MICA_API const void* mica_gguf_map(const mica_gguf* file, const mica_gguf_tensor* tensor);

MICA_API uint64_t mica_gguf_n_keys(const mica_gguf* file);
/* The i-th key's name, NULL past the end; its type, and for arrays the element type and count. */
MICA_API const char* mica_gguf_key_at(const mica_gguf* file, uint64_t i, mica_gguf_type* out_type,
                                      mica_gguf_type* out_elem_type, uint64_t* out_n);
/* The i-th key as it lies in the file: name, type and value, as another file can take it over
 * whatever the type. NULL past the end. Lives as long as the file. */
MICA_API const void* mica_gguf_key_raw(const mica_gguf* file, uint64_t i, size_t* out_bytes);
/* 1 when the key exists. */
MICA_API int mica_gguf_has(const mica_gguf* file, const char* key);

/* Typed getters: a value is converted only when that loses nothing (u32 key as u64: yes; -1 as u32:
 * no). Errors: NOT_FOUND, INVALID_ARGUMENT (another type, or out of range; the text names both). */
MICA_API mica_status mica_gguf_get_u32(mica_gguf* file, const char* key, uint32_t* out);
MICA_API mica_status mica_gguf_get_u64(mica_gguf* file, const char* key, uint64_t* out);
MICA_API mica_status mica_gguf_get_i64(mica_gguf* file, const char* key, int64_t* out);
MICA_API mica_status mica_gguf_get_f32(mica_gguf* file, const char* key, float* out);
MICA_API mica_status mica_gguf_get_f64(mica_gguf* file, const char* key, double* out);
MICA_API mica_status mica_gguf_get_bool(mica_gguf* file, const char* key, int* out);
/* Strings are not NUL-terminated and may hold any byte; they live as long as the file. */
MICA_API mica_status mica_gguf_get_string(mica_gguf* file, const char* key, const char** out_data,
                                          size_t* out_size);

/* Arrays: element count, then elements by index, converted as above. Numbers of any array of
 * numbers or booleans; strings of arrays of strings. Arrays of arrays: only their count. */
MICA_API mica_status mica_gguf_array_size(mica_gguf* file, const char* key, uint64_t* out_n);
MICA_API mica_status mica_gguf_array_i64(mica_gguf* file, const char* key, uint64_t first,
                                         uint64_t n, int64_t* out);
MICA_API mica_status mica_gguf_array_f32(mica_gguf* file, const char* key, uint64_t first,
                                         uint64_t n, float* out);
/* Amortised O(1) when the indices of one key rise. */
MICA_API mica_status mica_gguf_array_string(mica_gguf* file, const char* key, uint64_t i,
                                            const char** out_data, size_t* out_size);

MICA_C_END
#endif
