/* Copies: into packed memory, or to another dtype. Every builder records an error on the graph and
 * returns the invalid tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_COPY_H_
#define MICA_OPS_COPY_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The values of x as `dtype`, packed, with x's shape and extent.
 *
 *   x  any dtype and strides. From a quantized dtype to F32 or itself; from F32 to a quantized
 *      dtype (dim[0] must be whole blocks); plain dtypes to each other.
 *
 * To a float dtype: rounds once, half to even; too large gives infinity. To I32 and I64: the
 * nearest integer, half to even; too large gives the largest or smallest one, not-a-number gives 0.
 * To a quantized dtype: as mica_dtype_encode, bit by bit.
 *
 * Errors: an unknown dtype; quantized to another than F32; other than F32 to quantized; dim[0] not
 * whole blocks of `dtype`. */
MICA_API mica_tensor mica_cast(mica_graph* graph, mica_tensor x, mica_dtype dtype);

/* x packed, bit by bit. What permuted tensors and slices need before ops that want rows in one run
 * of bytes. */
MICA_API mica_tensor mica_copy(mica_graph* graph, mica_tensor x);

#ifdef __cplusplus
}
#endif
#endif
