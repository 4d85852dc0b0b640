/* Normalisation of rows. Every builder records an error on the graph and returns the invalid tensor
 * when an argument is wrong (mica/graph.h).
 *
 * For both of them:
 *   x       F32, F16 or BF16; rows (dim[0]) are contiguous.
 *   weight  F32, F16 or BF16 [dim[0] of x], contiguous, or MICA_NO_TENSOR: ones.
 *   eps     0 or more.
 *   result  packed, with x's dtype, shape and extent.
 *
 * A row of zeros with eps = 0 gives not-a-number.
 *
 * Errors: dtypes, shapes, strides; eps negative or not finite; x has its extent on dim[0]. */
#ifndef MICA_OPS_NORM_H_
#define MICA_OPS_NORM_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = weight * x / sqrt(mean(x^2) + eps) over dim[0] (Zhang and Sennrich, arXiv 1910.07467). */
MICA_API mica_tensor mica_rms_norm(mica_graph* graph, mica_tensor x, mica_tensor weight_or_none,
                                   float eps);

/* y = weight * (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + bias over dim[0] (Ba et al.,
 * arXiv 1607.06450). The variance is computed from the differences, so a mean far from 0 costs no
 * accuracy beyond that of the differences. bias: as weight, or MICA_NO_TENSOR: zeros. */
MICA_API mica_tensor mica_layer_norm(mica_graph* graph, mica_tensor x, mica_tensor weight_or_none,
                                     mica_tensor bias_or_none, float eps);

#ifdef __cplusplus
}
#endif
#endif
