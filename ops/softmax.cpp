// softmax over rows, with a scale and an additive mask.
#include "ops/softmax.h"

#include "ops/softmax_args.h"

#ifndef MICA_CASES
#include <cmath>

#include "ops/common.h"

namespace mica {
namespace {

// Below this a result's own relative error does not matter: exp in F32 flushes to 0 there.
constexpr double kSmall = 0x1p-96;

mica_status infer(const InferCall& call) {
  const Desc& x = call.in[0];
  const Desc& mask = call.in[1];
  MICA_TRY(need_float(call, "x", x));
  MICA_TRY(need_fixed_rows(call, "x", x));
  MICA_TRY(need_contiguous_rows(call, "x", x));
  if (mask.rank != 0) {
    MICA_TRY(need_float(call, "mask", mask));
    if (mask.dim[0] != x.dim[0]) {
      return call.error.fail(MICA_INVALID_ARGUMENT, "mask has rows of ", mask.dim[0],
                             " elements, x of ", x.dim[0]);
    }
    MICA_TRY(need_broadcast(call, "mask", mask, "x", x, 1));
    MICA_TRY(need_contiguous_rows(call, "mask", mask));
  }
  MICA_TRY(need_finite(call, "scale", static_cast<const mica_softmax_args*>(call.args)->scale));
  return pack_output_like(call, x);
}

// Softmax of n scores in place. A row of -infinity becomes zeros.
void softmax_row(double* s, int64_t n) {
  const double inf = __builtin_inf();
  double largest = -inf;
  bool nan = false;
  for (int64_t i = 0; i < n; ++i) {
    nan = nan || std::isnan(s[i]);
    if (s[i] > largest) largest = s[i];
  }
  if (nan || largest == inf) {
    for (int64_t i = 0; i < n; ++i) s[i] = __builtin_nan("");
    return;
  }
  if (largest == -inf) {
    for (int64_t i = 0; i < n; ++i) s[i] = 0;
    return;
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    s[i] = std::exp(s[i] - largest);
    sum += s[i];
  }
  for (int64_t i = 0; i < n; ++i) s[i] /= sum;
}

mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const HostTensor& mask = call.in[1];
  const int64_t n = x.dim[0];
  const double scale = call.arg<mica_softmax_args>().scale;
  Vec<double> values(*call.allocator);
  if (!values.resize(static_cast<size_t>(n) * 3)) return MICA_OUT_OF_MEMORY;
  double* s = values.data();
  double* m = s + n;
  double* terms = m + n;  // magnitude of each score: what its rounding in F32 is relative to
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    x.read_row(s, i1, i2, i3);
    if (mask.present()) {
      mask.read_row(m, repeated(i1, mask.dim[1]), repeated(i2, mask.dim[2]),
                    repeated(i3, mask.dim[3]));
    }
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      terms[i] = std::fabs(s[i] * scale) + std::fabs(m[i]);
      s[i] = s[i] * scale + m[i];
      if (!std::isinf(terms[i]) && terms[i] > largest) largest = terms[i];
    }
    softmax_row(s, n);
    for (int64_t i = 0; call.magnitude != nullptr && i < n; ++i) {
      const double size = std::isinf(terms[i]) ? 0 : terms[i];
      const double p = s[i] > kSmall ? s[i] : kSmall;
      call.magnitude[i_row * n + i] = p * (1 + size + largest);
    }
    call.out.write_row(s, i1, i2, i3);
  });
  set_terms(call, static_cast<double>(n));
  return MICA_OK;
}

}  // namespace

const OpDef op_softmax = {MICA_OP_softmax, "softmax", 1,     2,       sizeof(mica_softmax_args),
                          kOpPlain,        -1,        infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_softmax(mica_graph* graph, mica_tensor x, mica_tensor mask_or_none, float scale) {
  const mica_tensor in[] = {x, mask_or_none};
  const mica_softmax_args args = {scale};
  return mica::append(graph, mica::op_softmax, in, 2, &args, sizeof args);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add(CaseList& list, const std::string& name, mica_dtype type, const std::vector<int64_t>& dim,
         const Values& values, float scale = 1) {
  list.add("softmax", name, [=](CaseBuilder& b) {
    const mica_tensor x = b.input("x", type, dim, values);
    b.output(mica_softmax(b.graph(), x, MICA_NO_TENSOR, scale));
  });
}

void add_masked(CaseList& list, const std::string& name, mica_dtype mask_type,
                const std::vector<int64_t>& dim, const std::vector<int64_t>& mask_dim,
                const Values& mask_values) {
  list.add("softmax", name, [=](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, dim, normal(4));
    const mica_tensor mask = b.input("mask", mask_type, mask_dim, mask_values);
    b.output(mica_softmax(b.graph(), x, mask, 0.125f));
  });
}

}  // namespace

void cases_softmax(CaseList& list) {
  const double inf = __builtin_inf();
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    const std::string name = type_name(type);
    for (const int64_t n : {1, 2, 7, 64, 129, 1000}) {
      add(list, name + ".n" + std::to_string(n), type, {n, 3}, normal(3));
    }
    add(list, name + ".four_dims", type, {33, 2, 3, 2}, normal(), 0.5f);
    add(list, name + ".infinite", type, {4, 3},
        mica::conformance::list({1, -inf, 2, -inf, -inf, -inf, -inf, -inf, 0, 3, -inf, 1}));
    const Values hole = mica::conformance::list({0, -inf, 0, 0.5, -inf});
    add_masked(list, "mask_" + name + ".same", type, {9, 4, 2}, {9, 4, 2}, hole);
    add_masked(list, "mask_" + name + ".row", type, {9, 4, 2}, {9}, hole);
    add_masked(list, "mask_" + name + ".heads", type, {9, 4, 3, 2}, {9, 1, 3}, hole);
    add_masked(list, "mask_" + name + ".nothing", type, {8, 3}, {8, 3},
               mica::conformance::list(
                   {-inf, -inf, -inf, -inf, -inf, -inf, -inf, -inf, 0, 0, -inf, 1, 0, 0, 0, 0}));
  }
  add(list, "f32.large", MICA_F32, {50, 3}, normal(1000));
  add(list, "f32.far", MICA_F32, {50, 3}, normal(1, 1e4));
  add(list, "f32.negative_scale", MICA_F32, {50, 3}, normal(2), -1.5f);
  add(list, "f32.zero_scale", MICA_F32, {50, 3}, normal(2), 0);
  add(list, "f32.equal", MICA_F32, {77, 2}, mica::conformance::list({-5}));
  // The NaN and the +infinity each spoil their own row of 4.
  add(list, "f32.special", MICA_F32, {4, 3},
      mica::conformance::list({1, 2, 3, 4, 1, __builtin_nan(""), 3, 4, 1, 2, inf, 4}));
  list.add("softmax", "f32.live2of6", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 6, 2);
    const mica_tensor x = b.input("x", MICA_F32, {20, 4, 6}, normal(), extent);
    const mica_tensor mask = b.input("mask", MICA_F32, {20, 1, 6}, normal(), extent);
    b.output(mica_softmax(b.graph(), x, mask, 1));
  });
  list.add("softmax", "f32.permuted", [](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, {20, 4, 3});
    const mica_tensor mask = b.input("mask", MICA_F16, {20, 4, 3});
    b.output(mica_softmax(b.graph(), mica_permute(b.graph(), x, 0, 2, 1, 3),
                          mica_permute(b.graph(), mask, 0, 2, 1, 3), 2));
  });
}

}  // namespace mica::conformance
#endif
