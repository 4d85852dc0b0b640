/* A context: what the host program lends to mica (memory, log, threads, a cancel flag), and the
 * text of the last error. It holds no other state. In the process there is only what belongs to its
 * GPUs: one Vulkan device for all contexts that open the same GPU, and the CUDA runtime. */
#ifndef MICA_CONTEXT_H_
#define MICA_CONTEXT_H_
#include <stddef.h>
#include <stdint.h>

#include "status.h"

MICA_C_BEGIN

/* Host memory. `alloc` returns memory aligned to `align` (a power of two) or NULL; `free` gets the
 * same `bytes`. Both are called from any thread that calls mica, never while a plan runs. */
typedef struct mica_allocator {
  void* user;
  void* (*alloc)(void* user, size_t bytes, size_t align);
  void (*free)(void* user, void* ptr, size_t bytes);
} mica_allocator;

typedef enum mica_log_level { MICA_LOG_INFO = 0, MICA_LOG_WARNING = 1 } mica_log_level;
typedef struct mica_logger {
  void* user;
  void (*log)(void* user, mica_log_level level, const char* text); /* one line, no newline */
} mica_logger;

/* Threads. `parallel` calls fn(arg, i) exactly once for each i in [0, n), at the same time where it
 * can, and returns when all have returned. n never exceeds `n_threads`. The calls may wait for each
 * other, so each needs a thread of its own. */
typedef struct mica_executor {
  void* user;
  uint32_t n_threads;
  void (*parallel)(void* user, uint32_t n, void (*fn)(void* arg, uint32_t i), void* arg);
} mica_executor;

typedef struct mica_context mica_context;

typedef struct mica_context_params {
  size_t struct_size;
  const mica_allocator* allocator; /* NULL: malloc and free */
  const mica_logger* logger;       /* NULL: silent */
  const mica_executor* executor;   /* NULL: the cpu backend makes its own pool of n_threads */
  uint32_t n_threads;              /* 0: the number of physical cores */
  const volatile int32_t* cancel;  /* polled by loads and steps; non-zero stops them; may be NULL */
  uint64_t memory_budget_bytes;    /* per session, all it requests; 0: none */
} mica_context_params;
#define MICA_CONTEXT_PARAMS_INIT \
  { sizeof(mica_context_params), NULL, NULL, NULL, 0, NULL, 0 }

/* The structs pointed to by `params` are copied; `cancel` itself must outlive the context.
 * A context and its objects are used by one thread at a time; contexts are independent.
 * Weights (mica_weights) are immutable once loaded and may be shared between contexts.
 * params NULL: defaults. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
MICA_API mica_status mica_context_create(const mica_context_params* params,
                                         mica_context** out_context);
/* Objects made from the context keep it alive; releasing it first is fine. NULL is a no-op. */
MICA_API void mica_context_release(mica_context* context);
/* One sentence about the last call that failed on this context or an object of it; "" if none did.
 * Valid until the next failing call. */
MICA_API const char* mica_context_error(const mica_context* context);

/* "0.1.0". */
MICA_API const char* mica_version(void);

MICA_C_END
#endif
