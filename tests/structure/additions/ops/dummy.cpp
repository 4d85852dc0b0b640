// A dummy op, y = -x, and a dummy composite of plain ops.
#include "ops/dummy.h"

#ifndef MICA_CASES
#include "core/graph/op.h"
#include "ops/binary.h"
#include "ops/unary.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  if (call.in[0].dtype != MICA_F32 || !call.in[0].contiguous())
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is not contiguous F32");
  call.out = call.in[0];
  return MICA_OK;
}

mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  for (int64_t i = 0; i < call.out.elements(); ++i) {
    const float v = static_cast<const float*>(x.data)[i];
    static_cast<float*>(call.out.data)[i] = -v;
    if (call.magnitude != nullptr) call.magnitude[i] = v < 0 ? -v : v;
  }
  if (call.n_terms != nullptr) *call.n_terms = 1;
  return MICA_OK;
}

}  // namespace

const OpDef op_dummy_negate = {
    MICA_OP_dummy_negate, "dummy_negate", 1, 1, 0, kOpPlain, -1, infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_dummy_negate(mica_graph* graph, mica_tensor x) {
  return mica::append(graph, mica::op_dummy_negate, &x, 1, nullptr, 0);
}

mica_tensor mica_dummy_gate(mica_graph* graph, mica_tensor gate, mica_tensor up) {
  const mica::RegionScope region(graph, "dummy_gate");
  return mica_mul(graph, mica_relu(graph, gate), up);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {

void cases_dummy(CaseList& list) {
  list.add("dummy_negate", "twice", [](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, {33, 5}, normal());
    b.output(mica_dummy_negate(b.graph(), mica_dummy_negate(b.graph(), x)));
  });
  list.add("dummy_gate", "live3of5", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 5, 3);
    const mica_tensor gate = b.input("gate", MICA_F32, {67, 5}, normal(), extent);
    b.output(mica_dummy_gate(b.graph(), gate, b.input("up", MICA_F32, {67, 5}, normal(), extent)));
  });
}

}  // namespace mica::conformance
#endif
