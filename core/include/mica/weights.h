/* Weights: described first (plans compile against that), then loaded once and immutable.
 * Reference-counted; shared by plans, sessions and contexts on one device. */
#ifndef MICA_WEIGHTS_H_
#define MICA_WEIGHTS_H_
#include "device.h"
#include "gguf.h"
#include "graph.h"

MICA_C_BEGIN

/* Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
MICA_API mica_status mica_weights_create(mica_device* device, mica_weights** out_weights);
MICA_API void mica_weights_release(mica_weights* weights);
MICA_API void mica_weights_retain(mica_weights* weights);

/* Adds one weight: [dim[0], dim[1], …], rows along dim[0]. Errors: INVALID_ARGUMENT (a name already
 * there, a shape that no tensor can have, weights already loaded), OUT_OF_MEMORY. */
MICA_API mica_status mica_weights_describe(mica_weights* weights, const char* name,
                                           mica_dtype dtype, uint32_t rank, const int64_t* dim);
/* Describes all tensors of a file. */
MICA_API mica_status mica_weights_describe_gguf(mica_weights* weights, const mica_gguf* file);
/* Shape and type by name. Errors: NOT_FOUND. */
MICA_API mica_status mica_weights_info(const mica_weights* weights, const char* name,
                                       mica_tensor_info* out_info);
MICA_API uint32_t mica_weights_count(const mica_weights* weights);
/* The i-th in order of description; NULL past the end. */
MICA_API const char* mica_weights_name(const mica_weights* weights, uint32_t i);
/* Device bytes that loading will take, in the device's layouts. */
MICA_API uint64_t mica_weights_bytes(const mica_weights* weights);

/* Where the data comes from. `read` gives `bytes` of weight `i` (plain rows of its dtype) from
 * `offset`: it either fills `staging` (which has room for `bytes`) and sets *out = staging, or
 * points *out at its own memory, valid until the next call. */
typedef struct mica_weight_source {
  void* user;
  mica_status (*read)(void* user, uint32_t i, uint64_t offset, uint64_t bytes, void* staging,
                      const void** out);
  /* May be NULL. Called with bytes done and bytes in all; non-zero cancels. */
  int (*progress)(void* user, uint64_t done, uint64_t total);
} mica_weight_source;

/* Allocates and streams the weights in, repacked to the device's layout; once. On failure (IO,
 * OUT_OF_MEMORY, OVER_BUDGET when they are larger than the device's free memory, CANCELLED, the
 * source's own status) nothing is kept and loading may be tried again. */
MICA_API mica_status mica_weights_load(mica_weights* weights, const mica_weight_source* source);
/* For benchmarks, where what a weight holds does not matter: a device that can, fills weights of
 * two dimensions and more with random values itself, of a standard deviation of about 0.02, the
 * same for a seed. All others, and on other devices all, come from the source as above. */
MICA_API mica_status mica_weights_load_random(mica_weights* weights,
                                              const mica_weight_source* source, uint64_t seed);
/* From the file they were described from (same names, types, shapes). `progress` may be NULL. */
MICA_API mica_status mica_weights_load_gguf(mica_weights* weights, mica_gguf* file,
                                            int (*progress)(void* user, uint64_t done,
                                                            uint64_t total),
                                            void* user);
MICA_API int mica_weights_is_loaded(const mica_weights* weights);
/* The exact bytes that were loaded: plain rows again, out of the device's layout.
 * Errors: INVALID_ARGUMENT (size), NOT_FOUND, INVALID_ARGUMENT (not loaded). */
MICA_API mica_status mica_weights_read(mica_weights* weights, const char* name, void* dst,
                                       uint64_t bytes);

MICA_C_END
#endif
