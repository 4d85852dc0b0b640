/* The index of the largest element. */
#ifndef MICA_OPS_ARGMAX_H_
#define MICA_OPS_ARGMAX_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[r] = the lowest i with x[i, r] >= x[j, r] for all j. Not-a-number never wins; a row of nothing
 * else gives 0.
 *
 *   x       F32 [n, rows ...], rows contiguous.
 *   result  I32 [rows ...] (of rank 1 if x's rank is 1 or 2), packed, with x's extent.
 *
 * Errors, recorded on the graph: dtype, strides, an extent on dim[0]. */
MICA_API mica_tensor mica_argmax(mica_graph* graph, mica_tensor x);

#ifdef __cplusplus
}
#endif
#endif
