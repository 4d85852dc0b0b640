/* Arithmetic of two tensors, element by element. Every builder records an error on the graph and
 * returns the invalid tensor when an argument is wrong (mica/graph.h).
 *
 * For all of them:
 *   a       F32, F16 or BF16, any strides.
 *   b       F32, F16 or BF16 (not always a's), any strides; each dimension is a's or 1, and one of
 * 1 is repeated over a's. If it has an extent, it is a's. result  packed, with a's dtype, shape and
 * extent. Computed in F32 (or better), rounded once, half to even; IEEE 754 for infinities,
 * division by zero and not-a-number.
 *
 * Errors: dtypes; a dimension of b is neither 1 nor a's; extents differ. */
#ifndef MICA_OPS_BINARY_H_
#define MICA_OPS_BINARY_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

MICA_API mica_tensor mica_add(mica_graph* graph, mica_tensor a, mica_tensor b); /* a + b */
MICA_API mica_tensor mica_sub(mica_graph* graph, mica_tensor a, mica_tensor b); /* a - b */
MICA_API mica_tensor mica_mul(mica_graph* graph, mica_tensor a, mica_tensor b); /* a * b */
MICA_API mica_tensor mica_div(mica_graph* graph, mica_tensor a, mica_tensor b); /* a / b */

#ifdef __cplusplus
}
#endif
#endif
