/* Backends and devices. A program lists the backends it links (mica_backend_cpu(), …) or loads
 * plug-ins by path; then opens devices by name. */
#ifndef MICA_DEVICE_H_
#define MICA_DEVICE_H_
#include "context.h"
#include "dtype.h"

MICA_C_BEGIN

typedef struct mica_backend mica_backend; /* mica/backend.h, for those who write one */
typedef struct mica_device mica_device;

/* The backends of this library. ref: every op in double precision, slow; the oracle. cuda, vulkan:
 * no devices where this build, the machine or its driver lacks them; opening one says why. */
MICA_API const mica_backend* mica_backend_ref(void);
MICA_API const mica_backend* mica_backend_cpu(void);
MICA_API const mica_backend* mica_backend_cuda(void);
MICA_API const mica_backend* mica_backend_vulkan(void);

/* Adds a backend to the context. Errors: INVALID_ARGUMENT (NULL, an incompatible ABI version, a
 * required function that is NULL, a name already there), OUT_OF_MEMORY. */
MICA_API mica_status mica_context_add_backend(mica_context* context, const mica_backend* backend);
/* Loads a shared object that exports mica_backend_entry and adds its backend. It stays loaded as
 * long as the context. Only this path is searched. Errors: NOT_FOUND, UNSUPPORTED (not a plug-in,
 * or another ABI version). */
MICA_API mica_status mica_context_load_backend(mica_context* context, const char* path);

typedef struct mica_device_info {
  char backend[32];
  char name[128];        /* "AMD EPYC 9654, avx512" */
  char options[128];     /* what may follow "backend:", comma-separated; "" for nothing */
  uint64_t memory_bytes; /* total; 0: unknown */
  uint64_t free_bytes;   /* now; 0: unknown */
  uint32_t is_cpu;       /* non-zero: it computes on the processor's cores, in its memory */
} mica_device_info;

/* Devices of all added backends, in order of adding. Errors: INVALID_ARGUMENT. */
MICA_API mica_status mica_device_count(mica_context* context, uint32_t* out_n);
MICA_API mica_status mica_device_describe(mica_context* context, uint32_t i,
                                          mica_device_info* out_info);
/* `name`: "cpu", "ref", "cpu:avx2" (backend, colon, option), "cuda:1". Errors: NOT_FOUND (no such
 * backend or option; the text lists those there are), NO_DEVICE, OUT_OF_MEMORY. */
MICA_API mica_status mica_device_open(mica_context* context, const char* name,
                                      mica_device** out_device);
MICA_API void mica_device_release(mica_device* device);
/* As of now. Errors: INVALID_ARGUMENT. */
MICA_API mica_status mica_device_get_info(const mica_device* device, mica_device_info* out_info);

MICA_C_END
#endif
