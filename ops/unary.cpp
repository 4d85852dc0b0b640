// Functions of one tensor: scale, silu, gelu, gelu_erf, tanh, relu, sigmoid.
#include "ops/unary.h"

#include "ops/unary_args.h"

#ifndef MICA_CASES
#include <cmath>

#include "ops/common.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  MICA_TRY(need_float(call, "x", call.in[0]));
  return pack_output_like(call, call.in[0]);
}

mica_status infer_scale(const InferCall& call) {
  const auto& args = *static_cast<const mica_scale_args*>(call.args);
  MICA_TRY(need_finite(call, "scale", args.scale));
  MICA_TRY(need_finite(call, "bias", args.bias));
  return infer(call);
}

// A function's value and the sum of the magnitudes of the terms that a kernel adds up to get it, by
// which errors are judged: where terms cancel (1 + tanh, 1 - exp), it is more than the value's.
struct Result {
  double value;
  double magnitude;
};

// Below this a sigmoid's own relative error does not matter: exp in F32 flushes to 0 there.
constexpr double kSmallSigmoid = 0x1p-24;

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double at_least(double x, double least) { return x > least ? x : least; }

Result silu(double x) {
  return {x / (1 + std::exp(-x)), std::fabs(x) * at_least(logistic(x), kSmallSigmoid)};
}
Result gelu(double x) {
  constexpr double kSqrt2OverPi = 0.79788456080286535588;
  // 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which keeps the digits of the far negative side.
  const double u = kSqrt2OverPi * (x + 0.044715 * x * x * x);
  return {x / (1 + std::exp(-2 * u)), 0.5 * std::fabs(x) * (1 + std::fabs(std::tanh(u)))};
}
Result gelu_erf(double x) {
  constexpr double kSqrtHalf = 0.70710678118654752440;
  const double e = std::erf(x * kSqrtHalf);
  // 1 + erf(z) = erfc(-z), which keeps them here.
  return {0.5 * x * std::erfc(-x * kSqrtHalf), 0.5 * std::fabs(x) * (1 + std::fabs(e))};
}
// (exp(2x) - 1) / (exp(2x) + 1)
Result hyperbolic(double x) { return {std::tanh(x), 1}; }
Result relu(double x) { return {x > 0 || std::isnan(x) ? x : 0.0, std::fabs(x)}; }
Result sigmoid(double x) { return {logistic(x), at_least(logistic(x), kSmallSigmoid)}; }

template <class Function>
mica_status map(const RefCall& call, double n_terms, Function function) {
  const HostTensor& x = call.in[0];
  const int64_t n = x.dim[0];
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(n))) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    x.read_row(row.data(), i1, i2, i3);
    for (int64_t i = 0; i < n; ++i) {
      const Result result = function(row[static_cast<size_t>(i)]);
      row[static_cast<size_t>(i)] = result.value;
      if (call.magnitude != nullptr) call.magnitude[i_row * n + i] = result.magnitude;
    }
    call.out.write_row(row.data(), i1, i2, i3);
  });
  set_terms(call, n_terms);
  return MICA_OK;
}

mica_status scale(const RefCall& call) {
  const auto& args = call.arg<mica_scale_args>();
  const double factor = args.scale;
  const double bias = args.bias;
  return map(call, bias == 0 ? 1 : 2, [=](double x) {
    return Result{x * factor + bias, std::fabs(x * factor) + std::fabs(bias)};
  });
}

template <Result (*kFunction)(double)>
mica_status reference(const RefCall& call) {
  return map(call, 2, kFunction);
}

template <Result (*kFunction)(double)>
constexpr OpDef define(uint32_t id, const char* name) {
  return {id, name, 1, 1, 0, kOpPlain, 0, infer, nullptr, reference<kFunction>};
}

mica_tensor build(mica_graph* graph, const OpDef& op, mica_tensor x) {
  return append(graph, op, &x, 1, nullptr, 0);
}

}  // namespace

const OpDef op_scale = {MICA_OP_scale, "scale", 1,           1,       sizeof(mica_scale_args),
                        kOpPlain,      0,       infer_scale, nullptr, scale};
const OpDef op_silu = define<silu>(MICA_OP_silu, "silu");
const OpDef op_gelu = define<gelu>(MICA_OP_gelu, "gelu");
const OpDef op_gelu_erf = define<gelu_erf>(MICA_OP_gelu_erf, "gelu_erf");
const OpDef op_tanh = define<hyperbolic>(MICA_OP_tanh, "tanh");
const OpDef op_relu = define<relu>(MICA_OP_relu, "relu");
const OpDef op_sigmoid = define<sigmoid>(MICA_OP_sigmoid, "sigmoid");

}  // namespace mica

mica_tensor mica_scale(mica_graph* graph, mica_tensor x, float scale, float bias) {
  const mica_scale_args args = {scale, bias};
  return mica::append(graph, mica::op_scale, &x, 1, &args, sizeof args);
}
mica_tensor mica_silu(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_silu, x);
}
mica_tensor mica_gelu(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_gelu, x);
}
mica_tensor mica_gelu_erf(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_gelu_erf, x);
}
mica_tensor mica_tanh(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_tanh, x);
}
mica_tensor mica_relu(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_relu, x);
}
mica_tensor mica_sigmoid(mica_graph* graph, mica_tensor x) {
  return mica::build(graph, mica::op_sigmoid, x);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

using Builder = mica_tensor (*)(mica_graph*, mica_tensor);

mica_tensor scale_only(mica_graph* g, mica_tensor x) { return mica_scale(g, x, -1.75f, 0); }
mica_tensor scale_bias(mica_graph* g, mica_tensor x) { return mica_scale(g, x, 0.3f, 2.5f); }

struct Unary {
  const char* op;
  const char* prefix;
  Builder build;
};
const Unary kUnaries[] = {{"scale", "", scale_only},       {"scale", "bias.", scale_bias},
                          {"silu", "", mica_silu},         {"gelu", "", mica_gelu},
                          {"gelu_erf", "", mica_gelu_erf}, {"tanh", "", mica_tanh},
                          {"relu", "", mica_relu},         {"sigmoid", "", mica_sigmoid}};

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add_unary(CaseList& list, const Unary& unary) {
  const Builder build = unary.build;
  const std::string prefix = unary.prefix;
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    const std::string name = prefix + type_name(type);
    list.add(unary.op, name, [=](CaseBuilder& b) {
      b.output(build(b.graph(), b.input("x", type, {67, 5, 2}, normal(3))));
    });
    list.add(unary.op, name + ".permuted", [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", type, {9, 4, 20}, normal(3));
      b.output(build(b.graph(), mica_permute(b.graph(), x, 2, 0, 1, 3)));
    });
    list.add(unary.op, name + ".slice.live2of5", [=](CaseBuilder& b) {
      const int64_t dim[] = {11, 5}, start[] = {3, 0, 0, 0};
      const mica_extent extent = b.extent("n_tokens", 5, 2);
      const mica_tensor x = b.input("x", type, {20, 5}, normal(), extent);
      b.output(build(b.graph(), mica_view(b.graph(), x, 2, dim, start)));
    });
    // Both tails, where exp leaves F32's range.
    list.add(unary.op, name + ".tails", [=](CaseBuilder& b) {
      b.output(build(b.graph(), b.input("x", type, {401}, iota(-100, 0.5))));
    });
    // Large numbers, subnormals, signed zeros and what is not a number.
    list.add(unary.op, name + ".special", [=](CaseBuilder& b) {
      const Values values =
          mica::conformance::list({0, -0.0, 1e-40, -1e-40, 1e-7, -1e-7, 1000, -1000, 60000, -60000,
                                   __builtin_inf(), __builtin_nan("")});
      b.output(build(b.graph(), b.input("x", type, {12, 3}, values)));
    });
  }
  list.add(unary.op, prefix + "f32.one",
           [=](CaseBuilder& b) { b.output(build(b.graph(), b.input("x", MICA_F32, {1}))); });
  list.add(unary.op, prefix + "f32.huge", [=](CaseBuilder& b) {
    b.output(build(b.graph(), b.input("x", MICA_F32, {4},
                                      mica::conformance::list({1e30, -1e30, 3e38, -3e38}))));
  });
}

}  // namespace

void cases_unary(CaseList& list) {
  for (const Unary& unary : kUnaries) add_unary(list, unary);
}

}  // namespace mica::conformance
#endif
