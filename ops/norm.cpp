// rms_norm and layer_norm: rows brought to one size, or to mean 0 and variance 1.
#include "ops/norm.h"

#include "ops/norm_args.h"

#ifndef MICA_CASES
#include <cmath>

#include "ops/common.h"

namespace mica {
namespace {

// weight or bias; rank 0: absent.
mica_status need_row(const InferCall& call, const char* name, const Desc& w) {
  const Desc& x = call.in[0];
  if (w.rank == 0) return MICA_OK;
  MICA_TRY(need_float(call, name, w));
  if (w.dim[0] != x.dim[0] || w.elements() != x.dim[0]) {
    return call.error.fail(MICA_INVALID_ARGUMENT, name, " is ", shape_text(w).text,
                           ", rows of x have ", x.dim[0], " elements");
  }
  if (w.extent != kNoExtent) {
    return call.error.fail(MICA_INVALID_ARGUMENT, name, " ", shape_text(w).text, " has an extent");
  }
  return need_contiguous_rows(call, name, w);
}

mica_status infer(const InferCall& call, float eps) {
  const Desc& x = call.in[0];
  MICA_TRY(need_float(call, "x", x));
  MICA_TRY(need_fixed_rows(call, "x", x));
  MICA_TRY(need_contiguous_rows(call, "x", x));
  for (uint32_t i = 1; i < call.n_in; ++i) {
    MICA_TRY(need_row(call, i == 1 ? "weight" : "bias", call.in[i]));
  }
  MICA_TRY(need_finite(call, "eps", eps));
  if (eps < 0) return call.error.fail(MICA_INVALID_ARGUMENT, "eps is negative");
  return pack_output_like(call, x);
}

mica_status infer_rms_norm(const InferCall& call) {
  return infer(call, static_cast<const mica_rms_norm_args*>(call.args)->eps);
}
mica_status infer_layer_norm(const InferCall& call) {
  return infer(call, static_cast<const mica_layer_norm_args*>(call.args)->eps);
}

// What a row of n elements needs: its values, weight and bias.
class Rows {
 public:
  explicit Rows(const mica_allocator& a) : values_(a) {}
  [[nodiscard]] bool open(const RefCall& call) {
    n_ = call.in[0].dim[0];
    if (!values_.resize(static_cast<size_t>(n_) * 3)) return false;
    for (int64_t i = 0; i < n_; ++i) weight()[i] = 1;
    if (call.n_in > 1 && call.in[1].present()) call.in[1].read_row(weight(), 0);
    if (call.n_in > 2 && call.in[2].present()) call.in[2].read_row(bias(), 0);
    return true;
  }
  double* row() { return values_.data(); }
  double* weight() { return values_.data() + n_; }
  double* bias() { return values_.data() + 2 * n_; }

 private:
  Vec<double> values_;
  int64_t n_ = 0;
};

mica_status rms_norm(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const int64_t n = x.dim[0];
  const double eps = call.arg<mica_rms_norm_args>().eps;
  Rows rows(*call.allocator);
  if (!rows.open(call)) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    double* row = rows.row();
    x.read_row(row, i1, i2, i3);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += row[i] * row[i];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      row[i] = row[i] * factor * rows.weight()[i];
      if (call.magnitude != nullptr) call.magnitude[i_row * n + i] = std::fabs(row[i]);
    }
    call.out.write_row(row, i1, i2, i3);
  });
  set_terms(call, static_cast<double>(n));
  return MICA_OK;
}

mica_status layer_norm(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const int64_t n = x.dim[0];
  const double eps = call.arg<mica_layer_norm_args>().eps;
  Rows rows(*call.allocator);
  if (!rows.open(call)) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    double* row = rows.row();
    x.read_row(row, i1, i2, i3);
    double sum = 0;
    double magnitudes = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += row[i];
      magnitudes += std::fabs(row[i]);
    }
    const double mean = sum / static_cast<double>(n);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += (row[i] - mean) * (row[i] - mean);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    // The mean's own terms count: its error moves every element.
    const double mean_terms = magnitudes / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) {
      const double weight = rows.weight()[i];
      const double bias = rows.bias()[i];
      if (call.magnitude != nullptr) {
        call.magnitude[i_row * n + i] =
            (std::fabs(row[i]) + mean_terms) * factor * std::fabs(weight) + std::fabs(bias);
      }
      row[i] = (row[i] - mean) * factor * weight + bias;
    }
    call.out.write_row(row, i1, i2, i3);
  });
  set_terms(call, static_cast<double>(n));
  return MICA_OK;
}

}  // namespace

const OpDef op_rms_norm = {
    MICA_OP_rms_norm, "rms_norm", 1,       2, sizeof(mica_rms_norm_args), kOpPlain, -1,
    infer_rms_norm,   nullptr,    rms_norm};
const OpDef op_layer_norm = {
    MICA_OP_layer_norm, "layer_norm", 1,         3, sizeof(mica_layer_norm_args), kOpPlain, -1,
    infer_layer_norm,   nullptr,      layer_norm};

}  // namespace mica

mica_tensor mica_rms_norm(mica_graph* graph, mica_tensor x, mica_tensor weight_or_none, float eps) {
  const mica_tensor in[] = {x, weight_or_none};
  const mica_rms_norm_args args = {eps};
  return mica::append(graph, mica::op_rms_norm, in, 2, &args, sizeof args);
}

mica_tensor mica_layer_norm(mica_graph* graph, mica_tensor x, mica_tensor weight_or_none,
                            mica_tensor bias_or_none, float eps) {
  const mica_tensor in[] = {x, weight_or_none, bias_or_none};
  const mica_layer_norm_args args = {eps};
  return mica::append(graph, mica::op_layer_norm, in, 3, &args, sizeof args);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

struct Norm {
  mica_dtype x_type = MICA_F32;
  std::vector<int64_t> dim;
  Values values = normal();
  float eps = 1e-5f;
  bool weight = true;
  bool bias = true;
  mica_dtype w_type = MICA_F32;
  int64_t live = 0;
};

void add_norm(CaseList& list, const std::string& name, const Norm& norm) {
  const auto prepare = [=](CaseBuilder& b, mica_tensor& x, mica_tensor& w) {
    mica_extent extent = MICA_NO_EXTENT;
    if (norm.live > 0) extent = b.extent("n_tokens", norm.dim.back(), norm.live);
    x = b.input("x", norm.x_type, norm.dim, norm.values, extent);
    w = MICA_NO_TENSOR;
    if (norm.weight) w = b.weight("weight", norm.w_type, {norm.dim[0]}, normal(0.3, 1));
  };
  list.add("rms_norm", name, [=](CaseBuilder& b) {
    mica_tensor x, w;
    prepare(b, x, w);
    b.output(mica_rms_norm(b.graph(), x, w, norm.eps));
  });
  list.add("layer_norm", name, [=](CaseBuilder& b) {
    mica_tensor x, w, bias = MICA_NO_TENSOR;
    prepare(b, x, w);
    if (norm.bias) bias = b.weight("bias", norm.w_type, {norm.dim[0]});
    b.output(mica_layer_norm(b.graph(), x, w, bias, norm.eps));
  });
}

}  // namespace

void cases_norm(CaseList& list) {
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    const std::string name = type_name(type);
    for (const int64_t n : {2, 7, 64, 577}) {
      add_norm(list, name + ".n" + std::to_string(n), {.x_type = type, .dim = {n, 5}});
    }
    add_norm(list, name + ".f16_weight", {.x_type = type, .dim = {48, 3}, .w_type = MICA_F16});
    add_norm(list, name + ".no_weight",
             {.x_type = type, .dim = {33, 2}, .weight = false, .bias = false});
    add_norm(list, name + ".live3of8", {.x_type = type, .dim = {96, 8}, .live = 3});
  }
  add_norm(list, "f32.vector", {.dim = {576}});
  add_norm(list, "f32.no_bias", {.dim = {40, 3}, .bias = false});
  add_norm(list, "f32.bf16_weight", {.dim = {40, 3}, .w_type = MICA_BF16});
  add_norm(list, "f32.heads.live2of3", {.dim = {64, 9, 3}, .live = 2});
  add_norm(list, "f32.four_dims", {.dim = {20, 3, 2, 2}});
  add_norm(list, "f32.wide", {.dim = {4099, 2}});
  add_norm(list, "f32.large", {.dim = {100, 3}, .values = normal(1e15)});
  add_norm(list, "f32.small", {.dim = {100, 3}, .values = normal(1e-4), .eps = 1e-6f});
  add_norm(list, "f32.zeros", {.dim = {100, 3}, .values = mica::conformance::list({0})});
  add_norm(list, "f32.big_eps", {.dim = {100, 3}, .eps = 0.5f});
  add_norm(list, "f32.mean100", {.dim = {100, 3}, .values = normal(1, 100)});
  for (const char* op : {"rms_norm", "layer_norm"}) {
    const bool rms = std::string(op) == "rms_norm";
    const auto build = [=](mica_graph* g, mica_tensor x) {
      if (rms) return mica_rms_norm(g, x, MICA_NO_TENSOR, 1e-5f);
      return mica_layer_norm(g, x, MICA_NO_TENSOR, MICA_NO_TENSOR, 1e-5f);
    };
    list.add(op, "f32.permuted", [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", MICA_F32, {24, 3, 5});
      b.output(build(b.graph(), mica_permute(b.graph(), x, 0, 2, 1, 3)));
    });
    list.add(op, "f32.slice", [=](CaseBuilder& b) {
      const int64_t dim[] = {30, 4}, start[] = {9, 1, 0, 0};
      const mica_tensor x = b.input("x", MICA_F32, {50, 6});
      b.output(build(b.graph(), mica_view(b.graph(), x, 2, dim, start)));
    });
    list.add(op, "f32.nan_row", [=](CaseBuilder& b) {
      std::vector<double> values(48, 0.5);
      values[3] = 2;
      values[20] = __builtin_nan("");  // in the second row of 16 only
      values[40] = -1;
      const mica_tensor x = b.input("x", MICA_F32, {16, 3}, mica::conformance::list(values));
      b.output(build(b.graph(), x));
    });
  }
}

}  // namespace mica::conformance
#endif
