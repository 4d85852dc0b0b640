// add, sub, mul, div: arithmetic of two tensors, the second repeated over the first.
#include "ops/binary.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  MICA_TRY(need_float(call, "a", call.in[0]));
  MICA_TRY(need_float(call, "b", call.in[1]));
  MICA_TRY(need_broadcast(call, "b", call.in[1], "a", call.in[0]));
  return pack_output_like(call, call.in[0]);
}

struct Result {
  double value;
  double magnitude;
};

Result add(double a, double b) { return {a + b, __builtin_fabs(a) + __builtin_fabs(b)}; }
Result sub(double a, double b) { return {a - b, __builtin_fabs(a) + __builtin_fabs(b)}; }
Result mul(double a, double b) { return {a * b, __builtin_fabs(a * b)}; }
Result div(double a, double b) { return {a / b, __builtin_fabs(a / b)}; }

template <Result (*kFunction)(double, double), int kTerms>
mica_status reference(const RefCall& call) {
  const HostTensor& a = call.in[0];
  const HostTensor& b = call.in[1];
  const int64_t n = a.dim[0];
  Vec<double> a_row(*call.allocator);
  Vec<double> b_row(*call.allocator);
  if (!a_row.resize(static_cast<size_t>(n)) || !b_row.resize(static_cast<size_t>(b.dim[0]))) {
    return MICA_OUT_OF_MEMORY;
  }
  for_each_row(a, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    a.read_row(a_row.data(), i1, i2, i3);
    b.read_row(b_row.data(), repeated(i1, b.dim[1]), repeated(i2, b.dim[2]),
               repeated(i3, b.dim[3]));
    for (int64_t i = 0; i < n; ++i) {
      double& value = a_row[static_cast<size_t>(i)];
      const Result result = kFunction(value, b_row[static_cast<size_t>(repeated(i, b.dim[0]))]);
      value = result.value;
      if (call.magnitude != nullptr) call.magnitude[i_row * n + i] = result.magnitude;
    }
    call.out.write_row(a_row.data(), i1, i2, i3);
  });
  set_terms(call, kTerms);
  return MICA_OK;
}

template <Result (*kFunction)(double, double), int kTerms>
constexpr OpDef define(uint32_t id, const char* name) {
  return {id, name, 2, 2, 0, kOpPlain, 0, infer, nullptr, reference<kFunction, kTerms>};
}

mica_tensor build(mica_graph* graph, const OpDef& op, mica_tensor a, mica_tensor b) {
  const mica_tensor in[] = {a, b};
  return append(graph, op, in, 2, nullptr, 0);
}

}  // namespace

const OpDef op_add = define<add, 2>(MICA_OP_add, "add");
const OpDef op_sub = define<sub, 2>(MICA_OP_sub, "sub");
const OpDef op_mul = define<mul, 1>(MICA_OP_mul, "mul");
const OpDef op_div = define<div, 1>(MICA_OP_div, "div");

}  // namespace mica

mica_tensor mica_add(mica_graph* graph, mica_tensor a, mica_tensor b) {
  return mica::build(graph, mica::op_add, a, b);
}
mica_tensor mica_sub(mica_graph* graph, mica_tensor a, mica_tensor b) {
  return mica::build(graph, mica::op_sub, a, b);
}
mica_tensor mica_mul(mica_graph* graph, mica_tensor a, mica_tensor b) {
  return mica::build(graph, mica::op_mul, a, b);
}
mica_tensor mica_div(mica_graph* graph, mica_tensor a, mica_tensor b) {
  return mica::build(graph, mica::op_div, a, b);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

using Builder = mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor);

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

// What b holds: divisors keep away from 0.
Values right(Builder build) { return build == mica_div ? uniform(0.25, 4) : normal(); }

void add_shapes(CaseList& list, const std::string& op, Builder build) {
  const std::vector<int64_t> shapes[] = {{37, 5, 3, 2}, {1},        {37},
                                         {1, 5},        {37, 1, 3}, {1, 1, 1, 2}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; ++i) {
    const std::vector<int64_t> b_dim = shapes[i];
    list.add(op, "f32.shape" + std::to_string(i), [=](CaseBuilder& b) {
      const mica_tensor x = b.input("a", MICA_F32, {37, 5, 3, 2});
      b.output(build(b.graph(), x, b.input("b", MICA_F32, b_dim, right(build))));
    });
  }
}

void add_strides(CaseList& list, const std::string& op, Builder build) {
  list.add(op, "f32.permuted", [=](CaseBuilder& b) {
    const mica_tensor x = b.input("a", MICA_F32, {9, 20});
    const mica_tensor y = b.input("b", MICA_F32, {9, 20}, right(build));
    b.output(build(b.graph(), mica_transpose(b.graph(), x), mica_transpose(b.graph(), y)));
  });
  list.add(op, "f32.slices", [=](CaseBuilder& b) {
    const int64_t dim[] = {10, 4}, left[] = {0, 2, 0, 0}, middle[] = {7, 1, 0, 0};
    const mica_tensor x = b.input("x", MICA_F32, {20, 6}, right(build));
    b.output(build(b.graph(), mica_view(b.graph(), x, 2, dim, left),
                   mica_view(b.graph(), x, 2, dim, middle)));
  });
  list.add(op, "f32.row.live3of7", [=](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 7, 3);
    const mica_tensor x = b.input("a", MICA_F32, {16, 7}, normal(), extent);
    b.output(build(b.graph(), x, b.input("b", MICA_F32, {16}, right(build))));
  });
  list.add(op, "f32.same.live1of7", [=](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 7, 1);
    const mica_tensor x = b.input("a", MICA_F32, {3, 2, 7}, normal(), extent);
    const mica_tensor y = b.input("b", MICA_F32, {1, 2, 7}, right(build), extent);
    b.output(build(b.graph(), x, y));
  });
  // A residual: the sum may take over the memory of a value that dies.
  list.add(
      op, "f32.chain",
      [=](CaseBuilder& b) {
        const mica_tensor x = b.input("a", MICA_F32, {33, 4});
        const mica_tensor y = b.input("b", MICA_F32, {33, 4}, right(build));
        mica_tensor sum = mica_scale(b.graph(), x, 0.5f, 0);
        for (int i = 0; i < 3; ++i) sum = build(b.graph(), sum, y);
        b.output(build(b.graph(), sum, x));
        b.output(build(b.graph(), sum, sum));
      },
      4);  // four roundings, one after the other
}

}  // namespace

void cases_binary(CaseList& list) {
  const std::pair<const char*, Builder> ops[] = {
      {"add", mica_add}, {"sub", mica_sub}, {"mul", mica_mul}, {"div", mica_div}};
  for (const auto& [name, build_op] : ops) {
    const std::string op = name;
    const Builder build = build_op;
    add_shapes(list, op, build);
    add_strides(list, op, build);
    for (const mica_dtype a_type : {MICA_F32, MICA_F16, MICA_BF16}) {
      for (const mica_dtype b_type : {MICA_F32, MICA_F16, MICA_BF16}) {
        list.add(op, type_name(a_type) + "." + type_name(b_type), [=](CaseBuilder& b) {
          const mica_tensor x = b.input("a", a_type, {65, 3});
          b.output(build(b.graph(), x, b.input("b", b_type, {65, 1}, right(build))));
        });
      }
    }
    list.add(op, "f32.special", [=](CaseBuilder& b) {
      const double inf = __builtin_inf();
      const Values values = mica::conformance::list(
          {1, 0, -0.0, inf, -inf, __builtin_nan(""), 1e-40, 3e38, -3e38, 1e-20});
      const mica_tensor x = b.input("a", MICA_F32, {10, 10}, values);
      const mica_tensor y = b.input("b", MICA_F32, {1, 10}, values);
      b.output(build(b.graph(), x, y));
    });
  }
}

}  // namespace mica::conformance
#endif
