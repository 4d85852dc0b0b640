/* Gathering and scattering of rows by index. Every builder records an error on the graph and
 * returns the invalid tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_ROWS_H_
#define MICA_OPS_ROWS_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[k, i] = table[k, ids[i]]: embedding look-up, or the choice of some rows of a result.
 *
 *   table   [K, R]  any dtype; rows are contiguous. It may have an extent.
 *   ids     I32 [n]
 *   result  F32 [K, n], with the extent of ids. Each element is decoded exactly, or rounded once.
 *
 * An id outside [0, R) (R at its value in the step) gives a row of zeros: ids are data, and no data
 * can make a step fail.
 *
 * Errors: ranks above 2 (table) and 1 (ids), dtypes, table rows that are not contiguous. */
MICA_API mica_tensor mica_get_rows(mica_graph* graph, mica_tensor table, mica_tensor ids);

/* dst[k, ids[i]] = src[k, i], converted to dst's dtype. Writes an input of the step in place; what
 * uses the result sees the new rows.
 *
 *   dst     [K, R]  an input, of any dtype but I32 and I64; packed, no extent.
 *   src     F32, F16 or BF16 [K, n]; rows are contiguous.
 *   ids     I32 or I64 [n], with the extent of src. Ids outside [0, R) are skipped. If an id occurs
 *           twice, which of its rows stays is unspecified.
 *   result  dst's new value.
 *
 * Conversion rounds half to even, once; quantized dtypes as mica_dtype_encode does, bit by bit.
 *
 * Errors: K or n differ; dtypes; strides; extents; dst is not an input. */
MICA_API mica_tensor mica_set_rows(mica_graph* graph, mica_tensor dst, mica_tensor src,
                                   mica_tensor ids);

#ifdef __cplusplus
}
#endif
#endif
