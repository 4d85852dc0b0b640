/* Sessions and plans. A session is one use of a model: it compiles graphs to plans against
 * described weights, says exactly what memory that needs, allocates it once, and runs steps.
 * Running allocates nothing. A session is used by one thread at a time.
 *
 *   create -> compile -> memory (optional) -> allocate -> { set inputs, extents; run; read } … */
#ifndef MICA_SESSION_H_
#define MICA_SESSION_H_
#include "device.h"
#include "graph.h"
#include "kv_cache.h"
#include "weights.h"

MICA_C_BEGIN

typedef struct mica_session mica_session;
typedef struct mica_plan mica_plan;

typedef struct mica_session_params {
  size_t struct_size;
  /* NULL: none. Of the same device and context, and of no other session. The session keeps it alive
   * and owns its storage: mica_session_release empties the cache's sequences. */
  mica_kv_cache* cache;
  /* Of kernels. NULL: the fastest; "naive": the plain ones where they exist; or a row's name, as
   * mica_plan_explain prints it behind op and dtype ("packed", "wgmma"): it is taken where an op
   * has it and it runs the case. A name that no node of a graph has is refused. */
  const char* variant;
  int32_t unfused; /* non-zero: run regions member by member */
  /* Devices of the same context, tried in order for a node that the session's device cannot run;
   * none unless given. The session keeps them. Such a node costs a copy of its inputs and outputs
   * through the host a step, and the weights it reads are held twice. An op that writes state, or
   * reads a cache, never falls back. */
  mica_device* const* fallback;
  uint32_t n_fallback;
} mica_session_params;
#define MICA_SESSION_PARAMS_INIT \
  { sizeof(mica_session_params), NULL, NULL, 0, NULL, 0 }

/* Errors: INVALID_ARGUMENT (a cache of another session, device or context; a fallback device of
 * another context), OUT_OF_MEMORY. */
MICA_API mica_status mica_session_create(mica_device* device, const mica_session_params* params,
                                         mica_session** out_session);
/* Releases the session with its plans, after the step that runs. NULL is a no-op. */
MICA_API void mica_session_release(mica_session* session);

/* Validates, places, claims fusions, plans memory. Strict: an op that neither the device nor a
 * fallback device can run is UNSUPPORTED, with the op and the reasons. Call it once for all graphs
 * of the session, or again later: a plan added after mica_session_allocate gets its own memory at
 * the next allocate. On failure all of out_plans[0 … n_graphs - 1] are NULL. Errors:
 * INVALID_ARGUMENT (a graph that failed or is of another context, a cache that is not the
 * session's), UNSUPPORTED, OUT_OF_MEMORY, BUSY, DEVICE_LOST. */
MICA_API mica_status mica_session_compile(mica_session* session, uint32_t n_graphs,
                                          mica_graph* const* graphs, mica_plan** out_plans);

typedef struct mica_memory {
  uint64_t weights_bytes; /* of all weights its plans use, in the device's layout */
  uint64_t kv_bytes;
  uint64_t activations_bytes; /* one arena shared by the plans; the largest counts */
  uint64_t workspace_bytes;   /* inside the arena: kernels' own */
  uint64_t step_bytes;        /* the step block */
  uint64_t reserve_bytes;     /* beside buffers: what a driver is expected to take, scratch */
  uint64_t fallback_bytes;    /* on fallback devices: weights' copies, values, steps, reserve */
  uint64_t total_bytes;       /* weights + kv + activations + step + reserve + fallback */
} mica_memory;
/* Exact, before anything is allocated. */
MICA_API mica_status mica_session_memory(const mica_session* session, mica_memory* out_memory);

/* Allocates arena, step block and KV storage. The weights must be loaded. Errors: OVER_BUDGET
 * (need, budget or free memory, what to lower), OUT_OF_MEMORY (nothing is kept; may be retried). */
MICA_API mica_status mica_session_allocate(mica_session* session);

/* Writes `bytes` of an input of the step block at byte `offset`. Rows beyond the extent's value
 * need not be. It stays until written again. Errors: NOT_FOUND, INVALID_ARGUMENT (range), BUSY. */
MICA_API mica_status mica_session_set(mica_session* session, const char* input, uint64_t offset,
                                      const void* data, uint64_t bytes);
/* An extent's value for the coming steps, 0 … maximum, until it is set again. The extent of a
 * cache's tokens (mica_graph_kv) has the number that mica_kv_reserve said and need not be set; if
 * it is, a step of another number is refused. Errors: NOT_FOUND, INVALID_ARGUMENT, BUSY. */
MICA_API mica_status mica_session_set_extent(mica_session* session, const char* extent,
                                             int64_t value);
/* Reads an input back: ops may write into the step block. Errors: as mica_session_set. */
MICA_API mica_status mica_session_get(mica_session* session, const char* input, uint64_t offset,
                                      void* dst, uint64_t bytes);

/* One step. If the plan uses a cache, a reserve must be pending (INVALID_ARGUMENT otherwise); a
 * step that succeeds commits it, one that is refused, fails or is cancelled abandons it, but for
 * BUSY: then the reserve stays. Errors: INVALID_ARGUMENT (not allocated; a reserve of more tokens
 * than the plan takes, or of another number than its extent was set to), BUSY, CANCELLED,
 * DEVICE_LOST. */
MICA_API mica_status mica_plan_run(mica_plan* plan);
/* The same in two: nothing of the session may be touched in between. Where nodes fell back, submit
 * returns when all but the last part of the step has run. A long step goes on within wait. */
MICA_API mica_status mica_plan_submit(mica_plan* plan);
MICA_API mica_status mica_plan_wait(mica_plan* plan);

/* An output of the session's last step: `bytes` from byte `offset` (plain rows). Plans share
 * memory: once another plan of the session has begun a step, it is refused. Errors: NOT_FOUND,
 * INVALID_ARGUMENT (range, no step yet, another plan ran since), UNSUPPORTED (the output is a
 * weight or a cache), BUSY, DEVICE_LOST. */
MICA_API mica_status mica_plan_read(mica_plan* plan, const char* output, uint64_t offset, void* dst,
                                    uint64_t bytes);
/* Shape and dtype of an output, with maxima. */
MICA_API mica_status mica_plan_output_info(const mica_plan* plan, const char* output,
                                           mica_tensor_info* out_info);

/* How the unit that made an output computes (enum mica_numerics of mica/backend.h). */
MICA_API mica_status mica_plan_output_numerics(const mica_plan* plan, const char* output,
                                               uint32_t* out_numerics);

/* Writes where every node runs, which regions were claimed and why others were not, and the memory
 * map, as text. `out_size`: the length it has or would have; `buffer` may be NULL. */
MICA_API mica_status mica_plan_explain(const mica_plan* plan, char* buffer, size_t capacity,
                                       size_t* out_size);

MICA_C_END
#endif
