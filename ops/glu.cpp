// swiglu and geglu: regions of an activation and a product.
#include "ops/glu.h"

#ifndef MICA_CASES
#include "core/op.h"
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

void add_glu(CaseList& list, const std::string& op, Builder build) {
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    // A region of two ops: the value between them is rounded to the dtype, or not.
    const double slack = type == MICA_F32 ? 1 : 2;
    list.add(
        op, type_name(type),
        [=](CaseBuilder& b) {
          const mica_tensor gate = b.input("gate", type, {150, 7}, normal(3));
          b.output(build(b.graph(), gate, b.input("up", type, {150, 7})));
        },
        slack);
  }
  list.add(op, "f32.live3of5", [=](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 5, 3);
    const mica_tensor gate = b.input("gate", MICA_F32, {67, 5}, normal(3), extent);
    b.output(build(b.graph(), gate, b.input("up", MICA_F32, {67, 5}, normal(), extent)));
  });
  list.add(op, "f32.slices", [=](CaseBuilder& b) {  // gate and up from one product
    const int64_t dim[] = {32, 5}, second[] = {32, 0, 0, 0};
    const mica_tensor both = b.input("both", MICA_F32, {64, 5}, normal(2));
    b.output(build(b.graph(), mica_view(b.graph(), both, 2, dim, nullptr),
                   mica_view(b.graph(), both, 2, dim, second)));
  });
  list.add(op, "f32.row", [=](CaseBuilder& b) {
    const mica_tensor gate = b.input("gate", MICA_F32, {40, 3}, normal(3));
    b.output(build(b.graph(), gate, b.input("up", MICA_F32, {40})));
  });
  // The value between the two ops is used elsewhere too, so it needs memory even when claimed.
  list.add(
      op, "f32.kept",
      [=](CaseBuilder& b) {
        const mica_tensor gate = b.input("gate", MICA_F32, {40, 3}, normal(3));
        const mica_tensor first = build(b.graph(), gate, b.input("up", MICA_F32, {40, 3}));
        b.output(first);
        b.output(build(b.graph(), first, gate));
      },
      2);  // the second depends on the first's rounding
}

}  // namespace

void cases_glu(CaseList& list) {
  add_glu(list, "swiglu", mica_swiglu);
  add_glu(list, "geglu", mica_geglu);
}

}  // namespace mica::conformance
#endif
