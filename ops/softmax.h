/* Softmax of rows. The builder records an error on the graph and returns the invalid tensor when an
 * argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_SOFTMAX_H_
#define MICA_OPS_SOFTMAX_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = exp(s[i] - max(s)) / sum over j of exp(s[j] - max(s)), s = scale * x + mask, over dim[0].
 *
 *   x       F32, F16 or BF16; rows are contiguous.
 *   mask    F32, F16 or BF16, rows contiguous; dim[0] is x's, each other dimension x's or 1, which
 *           is repeated; or MICA_NO_TENSOR. If it has an extent, it is x's.
 *   scale   finite.
 *   result  packed, with x's dtype, shape and extent.
 *
 * -infinity in s gives 0. A row of nothing but -infinity gives zeros: nothing is visible. A row
 * with not-a-number or +infinity gives not-a-number.
 *
 * Errors: dtypes, shapes, strides; scale; x has its extent on dim[0]. */
MICA_API mica_tensor mica_softmax(mica_graph* graph, mica_tensor x, mica_tensor mask_or_none,
                                  float scale);

#ifdef __cplusplus
}
#endif
#endif
