// argmax: the index of the largest element of each row.
#include "ops/argmax.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  const Desc& x = call.in[0];
  if (x.dtype != MICA_F32)
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is ", dtype_name(x.dtype), ", not f32");
  MICA_TRY(need_fixed_rows(call, "x", x));
  MICA_TRY(need_contiguous_rows(call, "x", x));
  if (x.dim[0] > INT32_MAX)
    return call.error.fail(MICA_INVALID_ARGUMENT, "rows of ", x.dim[0],
                           " elements have indices beyond i32");
  const uint32_t rank = x.rank > 1 ? x.rank - 1 : 1;
  return pack_output(call, MICA_I32, rank, x.dim + 1, x.extent);
}

mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const HostTensor& out = call.out;
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(x.dim[0]))) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    x.read_row(row.data(), i1, i2, i3);
    int64_t best = 0;
    bool any = false;
    for (int64_t i = 0; i < x.dim[0]; ++i) {
      const double value = row[static_cast<size_t>(i)];
      if (value != value || (any && value <= row[static_cast<size_t>(best)])) continue;
      best = i;
      any = true;
    }
    out.set(static_cast<double>(best), i1, i2, i3);
    if (call.magnitude != nullptr) call.magnitude[i_row] = 0;
  });
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_argmax = {MICA_OP_argmax, "argmax", 1,     1,       0,
                         kOpPlain,       -1,       infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_argmax(mica_graph* graph, mica_tensor x) {
  return mica::append(graph, mica::op_argmax, &x, 1, nullptr, 0);
}

#else
#include <cmath>

#include "tests/conformance/case.h"

namespace mica::conformance {

void cases_argmax(CaseList& list) {
  const auto add = [&](const char* name, const std::vector<int64_t>& dim, const Values& values) {
    list.add("argmax", name, [=](CaseBuilder& b) {
      b.output(mica_argmax(b.graph(), b.input("x", MICA_F32, dim, values)));
    });
  };
  const auto nan = std::nan("");
  const double inf = HUGE_VAL;
  add("one", {1}, normal());
  add("rank1", {1000}, normal());
  add("rank4", {33, 3, 2, 4}, normal());
  add("vocab", {49152, 3}, normal());
  add("vocab.ties", {49152, 3}, integers(-20, 20));
  add("equal", {100, 2}, mica::conformance::list({-3}));
  add("zeros", {4, 2}, mica::conformance::list({-0.0, 0.0, 0.0, -0.0}));
  add("nan", {7, 5}, mica::conformance::list({nan, -2, nan, 5, 5, nan}));
  add("only_nan", {7, 2}, mica::conformance::list({nan}));
  add("infinities", {6, 6}, mica::conformance::list({-inf, nan, -inf, 3, inf, inf, -inf}));
  add("only_minus_infinity", {9, 2}, mica::conformance::list({-inf}));
  add("nan_then_minus_infinity", {3, 1}, mica::conformance::list({nan, -inf, -inf}));
  list.add("argmax", "live2of8", [](CaseBuilder& b) {
    const mica_extent rows = b.extent("n_outputs", 8, 2);
    b.output(mica_argmax(b.graph(), b.input("x", MICA_F32, {300, 8}, normal(), rows)));
  });
  list.add("argmax", "slice", [](CaseBuilder& b) {
    const int64_t dim[] = {50, 4}, start[] = {7, 1, 0, 0};
    const mica_tensor x = b.input("x", MICA_F32, {64, 6});
    b.output(mica_argmax(b.graph(), mica_view(b.graph(), x, 2, dim, start)));
  });
}

}  // namespace mica::conformance
#endif
