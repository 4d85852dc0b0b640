/* Joining two tensors. Every builder records an error on the graph and returns the invalid tensor
 * when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_CONCAT_H_
#define MICA_OPS_CONCAT_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* b behind a along dimension `dim` (0 … 3).
 *
 *   a, b    one dtype (any), any strides, equal in all other dimensions.
 *   result  packed; dim[dim] is the sum; bit by bit what a and b hold.
 *
 * An extent must be common to both and stays where it is: joining along it is an error.
 *
 * Errors: dtypes or other dimensions differ; dim > 3; extents. */
MICA_API mica_tensor mica_concat(mica_graph* graph, mica_tensor a, mica_tensor b, uint32_t dim);

#ifdef __cplusplus
}
#endif
#endif
