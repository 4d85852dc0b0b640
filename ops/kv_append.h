/* Storing the K and V of a step's tokens in the KV cache. */
#ifndef MICA_OPS_KV_APPEND_H_
#define MICA_OPS_KV_APPEND_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* K[:, :, slots[t]] = k[:, :, t] and V[:, :, slots[t]] = v[:, :, t], converted to the types of the
 * cache, for every token t of the step. Appends two nodes of the op kv_append, which attention ops
 * built later on the same layer come after.
 *
 *   kv     of mica_graph_kv.
 *   k      F32, F16 or BF16 [head_dim_k, n_kv_heads, n_tokens], rows contiguous, with the cache's
 *          extent of tokens.
 *   v      the same with head_dim_v; MICA_NO_TENSOR of a layer whose V is its K
 *          (mica_kv_layer.v_is_k), of which one node is appended.
 *
 * A slot is page * 64 + cell; a token whose slot is negative (or past the cache) is skipped.
 * Conversion rounds half to even, once; quantized types as mica_dtype_encode does, bit by bit; the
 * elements that pad a head to whole blocks count as 0.
 *
 * Errors, recorded on the graph: shapes, dtypes, strides, extents. */
MICA_API void mica_kv_append(mica_graph* graph, const mica_kv* kv, mica_tensor k, mica_tensor v);

#ifdef __cplusplus
}
#endif
#endif
