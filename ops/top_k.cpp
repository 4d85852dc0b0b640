// top_k: the indices of the k largest elements of each row.
#include "ops/top_k.h"

#ifndef MICA_CASES
#include <algorithm>

#include "ops/common.h"
#include "ops/top_k_args.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  const auto& args = *static_cast<const mica_top_k_args*>(call.args);
  const Desc& x = call.in[0];
  if (x.dtype != MICA_F32)
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is ", dtype_name(x.dtype), ", not f32");
  MICA_TRY(need_fixed_rows(call, "x", x));
  MICA_TRY(need_contiguous_rows(call, "x", x));
  if (x.dim[0] > INT32_MAX)
    return call.error.fail(MICA_INVALID_ARGUMENT, "rows of ", x.dim[0],
                           " elements have indices beyond i32");
  if (args.k < 1 || args.k > x.dim[0])
    return call.error.fail(MICA_INVALID_ARGUMENT, "k is ", args.k, ", not 1 to ", x.dim[0]);
  const int64_t dim[] = {args.k, x.dim[1], x.dim[2], x.dim[3]};
  return pack_output(call, MICA_I32, x.rank, dim, x.extent);
}

mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const auto n = static_cast<size_t>(x.dim[0]);
  const auto k = static_cast<ptrdiff_t>(call.arg<mica_top_k_args>().k);
  Vec<double> row(*call.allocator);
  Vec<int32_t> order(*call.allocator);
  if (!row.resize(n) || !order.resize(n)) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    x.read_row(row.data(), i1, i2, i3);
    for (size_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
    const auto before = [&](int32_t a, int32_t b) {
      const double va = row[static_cast<size_t>(a)];
      const double vb = row[static_cast<size_t>(b)];
      const bool nan_a = va != va;
      const bool nan_b = vb != vb;
      if (nan_a != nan_b) return nan_b;
      if (!nan_a && va != vb) return va > vb;
      return a < b;
    };
    std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
    for (ptrdiff_t i = 0; i < k; ++i) {
      call.out.set(order[static_cast<size_t>(i)], i, i1, i2, i3);
      if (call.magnitude != nullptr) call.magnitude[i_row * k + i] = 0;
    }
  });
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_top_k = {MICA_OP_top_k, "top_k", 1,     1,       sizeof(mica_top_k_args),
                        kOpPlain,      -1,      infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_top_k(mica_graph* graph, mica_tensor x, uint32_t k) {
  const mica_top_k_args args = {k};
  return mica::append(graph, mica::op_top_k, &x, 1, &args, sizeof args);
}

#else
#include <cmath>

#include "tests/conformance/case.h"

namespace mica::conformance {

void cases_top_k(CaseList& list) {
  const auto add = [&](const char* name, const std::vector<int64_t>& dim, uint32_t k,
                       const Values& values) {
    list.add("top_k", name, [=](CaseBuilder& b) {
      b.output(mica_top_k(b.graph(), b.input("x", MICA_F32, dim, values), k));
    });
  };
  const auto nan = std::nan("");
  const double inf = HUGE_VAL;
  add("one", {1}, 1, normal());
  add("rank1", {100}, 10, normal());
  add("rank4", {33, 3, 2, 4}, 5, normal());
  add("all", {77, 2}, 77, normal());
  add("all.ties", {77, 2}, 77, integers(-3, 3));
  add("vocab.k1", {49152, 2}, 1, normal());
  add("vocab.k40", {49152, 2}, 40, normal());
  add("vocab.k40.ties", {49152, 2}, 40, integers(-9, 9));
  add("vocab.k1000", {49152, 1}, 1000, normal());
  add("equal", {100, 2}, 30, mica::conformance::list({2.5}));
  add("rising", {5000, 1}, 64, iota(-3, 0.25));
  add("falling", {5000, 1}, 64, iota(3, -0.25));
  add("zeros", {6, 2}, 6, mica::conformance::list({-0.0, 0.0, 0.0, -0.0}));
  add("nan", {11, 3}, 11, mica::conformance::list({nan, 1, inf, nan, -inf, 1, -2}));
  add("nan.few", {11, 3}, 3, mica::conformance::list({nan, 1, inf, nan, -inf, 1, -2}));
  add("only_nan", {9, 2}, 4, mica::conformance::list({nan}));
  list.add("top_k", "live3of8", [](CaseBuilder& b) {
    const mica_extent rows = b.extent("n_outputs", 8, 3);
    b.output(mica_top_k(b.graph(), b.input("x", MICA_F32, {300, 8}, normal(), rows), 7));
  });
  list.add("top_k", "slice", [](CaseBuilder& b) {
    const int64_t dim[] = {50, 4}, start[] = {7, 1, 0, 0};
    const mica_tensor x = b.input("x", MICA_F32, {64, 6});
    b.output(mica_top_k(b.graph(), mica_view(b.graph(), x, 2, dim, start), 6));
  });
}

}  // namespace mica::conformance
#endif
