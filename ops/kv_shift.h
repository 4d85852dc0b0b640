/* Rotation of stored K to new positions, in place. The builder records an error on the graph when
 * an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_KV_SHIFT_H_
#define MICA_OPS_KV_SHIFT_H_
#include "mica/graph.h"
#include "rope.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rotates K of the cells that the step's list names (mica_kv_reserve_shift; mica/kv_table.h) from
 * the position that it was rotated to to another one, of all heads, and encodes it again: K'[:, g,
 * i] = RoPE of K[:, g, i] by the difference of the positions, without RoPE's magnitude, which K has
 * already (attn_factor and YaRN's are not applied again). Cells that are not listed, or whose two
 * positions are equal, are not touched.
 *
 *   kv      of mica_graph_kv, of a layer that owns its storage. Any dtype of a cache.
 *   params  those of the RoPE that K went through. n_rot 0: head_dim_k.
 *
 * Errors: as mica_rope. */
MICA_API void mica_kv_shift(mica_graph* graph, const mica_kv* kv, const mica_rope_params* params);

#ifdef __cplusplus
}
#endif
#endif
