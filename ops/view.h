/* Views: the same memory with other dimensions and strides; nothing is computed. Every builder
 * records an error on the graph and returns the invalid tensor when an argument is wrong
 * (mica/graph.h).
 *
 * The extent of a tensor belongs to its slowest dimension and stays there: slices do not cut it,
 * reshape neither splits nor merges it, permute does not move it. Quantized tensors are seen in
 * whole blocks, and dim[0] keeps its place. Views of weights are a device's choice: a backend that
 * repacks weights refuses them when the plan is compiled. */
#ifndef MICA_OPS_VIEW_H_
#define MICA_OPS_VIEW_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A slice: elements start[i] … start[i] + dim[i] - 1 of each dimension i, with x's strides.
 *
 *   dim    `rank` numbers; dimensions of x at and beyond `rank` are cut to the one at `start`.
 *   start  4 numbers (0 for dimensions x does not have), or NULL: all 0.
 *
 * When x has an extent, `rank` is x's and the last dimension is taken whole.
 *
 * Errors: rank not 1 … 4; dim NULL or a number below 1; outside x; blocks cut; the extent cut. */
MICA_API mica_tensor mica_view(mica_graph* graph, mica_tensor x, uint32_t rank, const int64_t* dim,
                               const int64_t* start);

/* The same elements in the same order with other dimensions. Possible without a copy when the
 * dimensions that are merged are adjacent in memory (always so for packed tensors).
 *
 * When x has an extent, the last dimension of the result is the last of x.
 *
 * Errors: rank not 1 … 4; dim NULL or a number below 1 or above 2^32 - 1; another number of
 * elements; x's strides (mica_copy first); blocks; the extent. */
MICA_API mica_tensor mica_reshape(mica_graph* graph, mica_tensor x, uint32_t rank,
                                  const int64_t* dim);

/* dim[i] of the result is dim[a_i] of x; {a0, a1, a2, a3} is a permutation of 0 … 3 (dimensions x
 * does not have are 1). The result's rank is the smallest that holds all of x's dimensions:
 * permuting [K, M] by (0, 2, 1, 3) gives [K, 1, M].
 *
 * Errors: not a permutation; the extent would no longer be last; a0 != 0 for quantized x. */
MICA_API mica_tensor mica_permute(mica_graph* graph, mica_tensor x, uint32_t a0, uint32_t a1,
                                  uint32_t a2, uint32_t a3);

/* mica_permute(graph, x, 1, 0, 2, 3). */
MICA_API mica_tensor mica_transpose(mica_graph* graph, mica_tensor x);

#ifdef __cplusplus
}
#endif
#endif
