/* Matrix product. Every builder records an error on the graph and returns the invalid tensor when
 * an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_MATMUL_H_
#define MICA_OPS_MATMUL_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[n, m, i2, i3] = sum over k of w[k, n, i2 / r2, i3 / r3] * x[k, m, i2, i3],
 * r2 = b2 / c2, r3 = b3 / c3.
 *
 *   w  [K, N, c2, c3]  a weight of any float or quantized dtype, or a computed F32, F16 or BF16
 *                      tensor. Rows are contiguous; other strides are free.
 *   x  [K, M, b2, b3]  F32, F16 or BF16; rows are contiguous. b2 is a multiple of c2, b3 of c3:
 *                      slices of w are shared by neighbouring slices of x.
 *   result             F32 [N, M, b2, b3], with x's rank and extent.
 *
 * So both operands are rows of K elements: w as GGUF files store a linear layer's weight (N outputs
 * of K inputs), x as rows of activations.
 *
 * Products are of x as the kernel's numerics round it (mica_numerics in mica/backend.h: x to F16,
 * BF16, or int8 with a scale per 32 or 256 elements; quantized weights exact or, with
 * MICA_NUM_F16_W, rounded to F16); sums are F32 or better. Not-a-number and
 * infinity in x come through with the F32, F16 and BF16 numerics; what they give with int8 is
 * unspecified but confined to their row of x.
 *
 * Errors: K differs; b2, b3 are not multiples; dtypes; rows that are not contiguous (mica_copy
 * first); w has an extent, or x has one on K: only attention sums over extents. */
MICA_API mica_tensor mica_matmul(mica_graph* graph, mica_tensor w, mica_tensor x);

#ifdef __cplusplus
}
#endif
#endif
