/* Graphs: tensors as values, built by plain expressions, checked once.
 *
 * A tensor has up to 4 dimensions; dim[0] is fastest. A builder given something wrong returns the
 * invalid tensor (index 0), which every builder accepts and returns; the graph keeps the first
 * error. Build the whole model, then ask mica_graph_status once.
 *
 * A dimension may be an extent: a maximum when the graph is compiled, a value in every step. Only a
 * tensor's slowest dimension can be one. Builders of ops are in mica/ops.h. */
#ifndef MICA_GRAPH_H_
#define MICA_GRAPH_H_
#include "context.h"
#include "dtype.h"

MICA_C_BEGIN

#define MICA_MAX_RANK 4

typedef struct mica_graph mica_graph;
typedef struct mica_weights mica_weights;
typedef struct mica_kv_cache mica_kv_cache;

/* A value of one graph. {0, 0} is the invalid tensor, and "no tensor" for optional inputs. */
typedef struct mica_tensor {
  uint32_t index;
  uint32_t graph; /* tag: a tensor used with another graph is an error, not a mix-up */
} mica_tensor;
#define MICA_NO_TENSOR (mica_tensor_none())
static inline mica_tensor mica_tensor_none(void) {
  mica_tensor none = {0, 0};
  return none;
}

/* A named dimension of one graph; {0, 0} means none. Plans of one session that name the same extent
 * share its value. */
typedef struct mica_extent {
  uint32_t index;
  uint32_t graph; /* tag, as a tensor's */
} mica_extent;
#define MICA_NO_EXTENT (mica_extent_none())
static inline mica_extent mica_extent_none(void) {
  mica_extent none = {0, 0};
  return none;
}

typedef struct mica_tensor_info {
  mica_dtype dtype;
  uint32_t rank;
  int64_t dim[MICA_MAX_RANK]; /* unused ones are 1; an extent's is its maximum */
  mica_extent extent;         /* of dim[rank - 1]; of a plan's output, the compiled graph's */
} mica_tensor_info;

/* Sessions of the same context compile it. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY. */
MICA_API mica_status mica_graph_create(mica_context* context, mica_graph** out_graph);
/* Plans made from it live on. NULL is a no-op. */
MICA_API void mica_graph_release(mica_graph* graph);
/* The first error of building, or MICA_OK. `out_text` (may be NULL) lives as long as the graph. */
MICA_API mica_status mica_graph_status(const mica_graph* graph, const char** out_text);

/* Names what is built from here on ("blk.3"), for error texts and reports; NULL: no name. */
MICA_API void mica_graph_scope(mica_graph* graph, const char* name);
/* Errors: INVALID_ARGUMENT (not a tensor of this graph). */
MICA_API mica_status mica_graph_tensor_info(const mica_graph* graph, mica_tensor tensor,
                                            mica_tensor_info* out_info);

/* An extent with its maximum (1 … 2^31-1). Asked for again by the same name, it must have the same
 * maximum. Its value in a step defaults to the maximum. */
MICA_API mica_extent mica_graph_extent(mica_graph* graph, const char* name, int64_t max);

/* Data of a step: lives in the session's step block. Inputs of one name in several plans of a
 * session share their place (the larger size counts; dtype must be equal). Any name but "". When
 * `extent` is given, dim[rank - 1] must be its maximum. Any dtype: of a quantized one, dim[0] is
 * whole blocks. */
MICA_API mica_tensor mica_input(mica_graph* graph, const char* name, mica_dtype dtype,
                                uint32_t rank, const int64_t* dim, mica_extent extent);
/* A described weight by name. The graph keeps `weights` alive. They may be of another context, on
 * the same device (mica/context.h). */
MICA_API mica_tensor mica_weight(mica_graph* graph, mica_weights* weights, const char* name);

/* Keeps a value readable after the step under `name`, and is what keeps nodes alive: what no output
 * and no state needs is not computed. */
MICA_API void mica_output(mica_graph* graph, mica_tensor tensor, const char* name);

/* K and V storage of a cache's layer with its tables, as the cache ops take them. The tables are
 * written by each step from the cache's reserve; they have no names, and no op writes them. */
typedef struct mica_kv {
  mica_tensor k;             /* state; K rows, the backend's layout */
  mica_tensor v;             /* state */
  mica_tensor positions;     /* I32 [n_tokens]: the position of each token of the step */
  mica_tensor key_positions; /* I32 [n_tokens]: the one its K is to be rotated to; `positions`
                                itself unless keys are MICA_KV_KEYS_RELATIVE or _UNROTATED */
  mica_tensor slots;         /* I32 [n_tokens]: the cell each token's K and V go to, -1: to none */
  mica_tensor table;         /* I32: see mica/kv_table.h */
  mica_tensor turns;  /* I32 [max_turns], with an extent of the cache's own: the positions of the
                         rows that table entries name; of RELATIVE and UNROTATED keys */
  mica_tensor shifts; /* I32: what the op kv_shift is to rotate; see mica/kv_table.h */
  uint32_t keys;      /* mica_kv_keys of the cache (mica/kv_cache.h) */
  uint32_t max_seqs;  /* of the cache: how `table` is laid out */
  uint32_t window;    /* of the layer */
  uint32_t n_first;
} mica_kv;
/* Layers of one cache group share `table` and `slots`. A layer that shares another's storage
 * (mica_kv_layer.source) gets that layer's k and v. `n_tokens`: the graph's extent for tokens; its
 * maximum is at most the cache's max_step_tokens, and its value in a step is the number of tokens
 * reserved (mica_kv_reserve). The cache must be of the graph's context. */
MICA_API mica_kv mica_graph_kv(mica_graph* graph, mica_kv_cache* cache, uint32_t i_layer,
                               mica_extent n_tokens);

MICA_C_END
#endif
