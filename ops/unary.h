/* Functions of one tensor, element by element. Every builder records an error on the graph and
 * returns the invalid tensor when an argument is wrong (mica/graph.h).
 *
 * For all of them: x is F32, F16 or BF16 with any strides; the result is packed, with x's dtype,
 * shape and extent, computed in F32 (or better) and rounded once. Not-a-number gives not-a-number;
 * silu and the gelus of -infinity are 0 or not-a-number (their formulas are infinity times 0).
 *
 * Errors: another dtype; for mica_scale a number that is not finite. */
#ifndef MICA_OPS_UNARY_H_
#define MICA_OPS_UNARY_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x * scale + bias */
MICA_API mica_tensor mica_scale(mica_graph* graph, mica_tensor x, float scale, float bias);
/* x / (1 + exp(-x)), also called swish (Elfwing et al., arXiv 1702.03118). */
MICA_API mica_tensor mica_silu(mica_graph* graph, mica_tensor x);
/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the approximation of Hendrycks and Gimpel
 * (arXiv 1606.08415) that GPT-2 and Gemma use. */
MICA_API mica_tensor mica_gelu(mica_graph* graph, mica_tensor x);
/* 0.5 x (1 + erf(x / sqrt(2))), the exact form (same paper). */
MICA_API mica_tensor mica_gelu_erf(mica_graph* graph, mica_tensor x);
MICA_API mica_tensor mica_tanh(mica_graph* graph, mica_tensor x);
/* max(x, 0) */
MICA_API mica_tensor mica_relu(mica_graph* graph, mica_tensor x);
/* 1 / (1 + exp(-x)) */
MICA_API mica_tensor mica_sigmoid(mica_graph* graph, mica_tensor x);

#ifdef __cplusplus
}
#endif
#endif
