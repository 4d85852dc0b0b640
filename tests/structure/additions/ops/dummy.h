/* What tests/structure/additions.sh adds: an op and a composite op. */
#ifndef MICA_OPS_DUMMY_H_
#define MICA_OPS_DUMMY_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = -x. x: F32, contiguous. */
MICA_API mica_tensor mica_dummy_negate(mica_graph* graph, mica_tensor x);
/* relu(gate) * up: mica_mul(graph, mica_relu(graph, gate), up). */
MICA_API mica_tensor mica_dummy_gate(mica_graph* graph, mica_tensor gate, mica_tensor up);

#ifdef __cplusplus
}
#endif
#endif
