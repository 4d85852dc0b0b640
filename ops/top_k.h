/* The indices of the k largest elements. */
#ifndef MICA_OPS_TOP_K_H_
#define MICA_OPS_TOP_K_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[:, r] = the indices of the k largest elements of x[:, r], largest first; of equal ones the
 * lower index first; not-a-number after everything else.
 *
 *   x       F32 [n, rows ...], rows contiguous.
 *   k       1 to n.
 *   result  I32 [k, rows ...], packed, with x's extent.
 *
 * Errors, recorded on the graph: dtype, strides, k, an extent on dim[0]. */
MICA_API mica_tensor mica_top_k(mica_graph* graph, mica_tensor x, uint32_t k);

#ifdef __cplusplus
}
#endif
#endif
