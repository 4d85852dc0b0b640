// swiglu and geglu: regions of an activation and a product.
#include "ops/glu.h"

#ifndef MICA_CASES
#include "core/graph/op.h"
#include "ops/binary.h"
#include "ops/unary.h"

mica_tensor mica_swiglu(mica_graph* graph, mica_tensor gate, mica_tensor up) {
  const mica::RegionScope region(graph, "swiglu");
  return mica_mul(graph, mica_silu(graph, gate), up);
}

mica_tensor mica_geglu(mica_graph* graph, mica_tensor gate, mica_tensor up) {
  const mica::RegionScope region(graph, "geglu");
  return mica_mul(graph, mica_gelu(graph, gate), up);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

using Builder = mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor);

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

// Gates keep out of the far negative side, which the cases of unary ops visit: F16 has no digits
// left there for the value between the two ops.
Values gates() { return uniform(-3, 8); }

void add_glu(CaseList& list, const std::string& op, Builder build, double slack) {
  const auto add = [&](const std::string& name, std::function<void(CaseBuilder&)> run) {
    list.add(op, name, std::move(run), slack);
  };
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    add(type_name(type), [=](CaseBuilder& b) {
      const mica_tensor gate = b.input("gate", type, {150, 7}, gates());
      b.output(build(b.graph(), gate, b.input("up", type, {150, 7})));
    });
  }
  add("f32.live3of5", [=](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 5, 3);
    const mica_tensor gate = b.input("gate", MICA_F32, {67, 5}, gates(), extent);
    b.output(build(b.graph(), gate, b.input("up", MICA_F32, {67, 5}, normal(), extent)));
  });
  add("f32.slices", [=](CaseBuilder& b) {  // gate and up from one product
    const int64_t dim[] = {32, 5}, second[] = {32, 0, 0, 0};
    const mica_tensor both = b.input("both", MICA_F32, {64, 5}, gates());
    b.output(build(b.graph(), mica_view(b.graph(), both, 2, dim, nullptr),
                   mica_view(b.graph(), both, 2, dim, second)));
  });
  add("f32.row", [=](CaseBuilder& b) {
    const mica_tensor gate = b.input("gate", MICA_F32, {40, 3}, gates());
    b.output(build(b.graph(), gate, b.input("up", MICA_F32, {40})));
  });
  add("f32.mixed", [=](CaseBuilder& b) {
    const mica_tensor gate = b.input("gate", MICA_F32, {40, 3}, gates());
    b.output(build(b.graph(), gate, b.input("up", MICA_F16, {40, 3})));
  });
  // One region's result is another's operand and an output, so its memory is not free.
  add("f32.chain", [=](CaseBuilder& b) {
    const mica_tensor gate = b.input("gate", MICA_F32, {40, 3}, gates());
    const mica_tensor first = build(b.graph(), gate, b.input("up", MICA_F32, {40, 3}));
    b.output(build(b.graph(), gate, first));
    b.output(first);
  });
}

}  // namespace

void cases_glu(CaseList& list) {
  // The bound of a region is that of its last op, the product, which knows nothing of the error of
  // the activation: relative to its value up to |x| units for silu's exp(-x), 3 (1 + |2u|) for
  // gelu's exp(-2u), u of its formula; on the negative side |x| is below 3 here, |2u| below 7.
  add_glu(list, "swiglu", mica_swiglu, 2);
  add_glu(list, "geglu", mica_geglu, 8);
}

}  // namespace mica::conformance
#endif
