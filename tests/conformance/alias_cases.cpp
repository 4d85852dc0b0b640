// Ops whose result may lie in the memory of their first operand, where that dies: the planner does
// so here, and no other op is needed, so that a backend of one op is tried too.
#include "ops/binary.h"
#include "ops/rope.h"
#include "ops/unary.h"
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

using Unary = mica_tensor (*)(mica_graph*, mica_tensor);
using Binary = mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor);

void add(CaseList& list, const char* op, std::function<void(CaseBuilder&)> build) {
  list.add(op, "alias", std::move(build));
  list.cases.back().chain = true;  // each application rounds what the one before it rounded
}

}  // namespace

void cases_alias(CaseList& list) {
  const std::pair<const char*, Binary> binaries[] = {
      {"add", mica_add}, {"sub", mica_sub}, {"mul", mica_mul}, {"div", mica_div}};
  for (const auto& [name, op] : binaries)
    add(list, name, [op = op](CaseBuilder& b) {
      const mica_tensor y = b.input("b", MICA_F32, {33, 4}, uniform(0.5, 2));
      mica_tensor x = b.input("a", MICA_F32, {33, 4});
      for (int i = 0; i < 3; ++i) x = op(b.graph(), x, y);
      b.output(x);
    });
  const std::pair<const char*, Unary> unaries[] = {
      {"silu", mica_silu}, {"gelu", mica_gelu},       {"gelu_erf", mica_gelu_erf},
      {"tanh", mica_tanh}, {"sigmoid", mica_sigmoid}, {"relu", mica_relu}};
  for (const auto& [name, op] : unaries)
    add(list, name, [op = op](CaseBuilder& b) {
      mica_tensor x = b.input("x", MICA_F32, {65, 3});
      for (int i = 0; i < 3; ++i) x = op(b.graph(), x);
      b.output(x);
    });
  add(list, "scale", [](CaseBuilder& b) {
    mica_tensor x = b.input("x", MICA_F32, {65, 3});
    for (int i = 0; i < 3; ++i) x = mica_scale(b.graph(), x, 0.75f, 0.5f);
    b.output(x);
  });
  for (const mica_rope_pairing pairing : {MICA_ROPE_ADJACENT, MICA_ROPE_HALF_SPLIT})
    list.add("rope", pairing == MICA_ROPE_ADJACENT ? "alias.adjacent" : "alias.half_split",
             [pairing](CaseBuilder& b) {
               mica_rope_params p = MICA_ROPE_PARAMS_INIT;
               p.pairing = pairing;
               const mica_tensor at = b.input("at", MICA_I32, {5}, integers(0, 4000));
               mica_tensor x = b.input("x", MICA_F32, {32, 3, 5});
               for (int i = 0; i < 3; ++i) x = mica_rope(b.graph(), x, at, &p);
               b.output(x);
             }),
        list.cases.back().chain = true;
}

}  // namespace mica::conformance
