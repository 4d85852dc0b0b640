/* Gated linear units (Shazeer, arXiv 2002.05202): composites of plain ops, so that every backend
 * has them; one that has a kernel of this name computes them at once. Every builder records an
 * error on the graph and returns the invalid tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_GLU_H_
#define MICA_OPS_GLU_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* silu(gate) * up: mica_mul(graph, mica_silu(graph, gate), up). Shapes, dtypes and errors as
 * theirs: F32, F16 or BF16, result with the dtype and shape of gate. */
MICA_API mica_tensor mica_swiglu(mica_graph* graph, mica_tensor gate, mica_tensor up);
/* gelu(gate) * up, with the tanh approximation of mica_gelu. */
MICA_API mica_tensor mica_geglu(mica_graph* graph, mica_tensor gate, mica_tensor up);

#ifdef __cplusplus
}
#endif
#endif
