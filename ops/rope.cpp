// rope: rotary position embedding, with linear scaling, frequency factors and YaRN.
#include "ops/rope.h"

#ifndef MICA_CASES
#include <cmath>

#include "ops/common.h"
#include "ops/rope_args.h"

namespace mica {
namespace {

enum Input : uint32_t { kX, kPositions, kFactors, kInputs };

mica_status check_numbers(const InferCall& call, const mica_rope_args& a) {
  Error& error = call.error;
  MICA_TRY(need_finite(call, "base", a.base));
  MICA_TRY(need_finite(call, "linear_scale", a.linear_scale));
  MICA_TRY(need_finite(call, "ext_factor", a.ext_factor));
  MICA_TRY(need_finite(call, "attn_factor", a.attn_factor));
  MICA_TRY(need_finite(call, "beta_fast", a.beta_fast));
  MICA_TRY(need_finite(call, "beta_slow", a.beta_slow));
  if (a.base <= 0)
    return error.fail(MICA_INVALID_ARGUMENT, "base is ", double{a.base}, ", not above 0");
  if (a.linear_scale <= 0)
    return error.fail(MICA_INVALID_ARGUMENT, "linear_scale is ", double{a.linear_scale},
                      ", not above 0");
  if (a.ext_factor == 0) return MICA_OK;
  if (a.base <= 1 || a.beta_fast <= 0 || a.beta_slow <= 0 || a.n_ctx_orig == 0)
    return error.fail(MICA_INVALID_ARGUMENT,
                      "YaRN needs base above 1, beta_fast, beta_slow and n_ctx_orig above 0");
  return MICA_OK;
}

mica_status infer(const InferCall& call) {
  const auto& args = *static_cast<const mica_rope_args*>(call.args);
  const Desc& x = call.in[kX];
  const Desc& positions = call.in[kPositions];
  const Desc& factors = call.in[kFactors];
  Error& error = call.error;
  MICA_TRY(need_float(call, "x", x));
  if (x.rank != 3)
    return error.fail(MICA_INVALID_ARGUMENT, "x ", shape_text(x).text,
                      " is not [head_dim, n_heads, n_tokens]");
  MICA_TRY(need_contiguous_rows(call, "x", x));
  if (positions.dtype != MICA_I32 || positions.rank != 1 || !positions.contiguous())
    return error.fail(MICA_INVALID_ARGUMENT, "positions are ", dtype_name(positions.dtype), " ",
                      shape_text(positions).text, ", not i32 [n_tokens], packed");
  if (positions.dim[0] != x.dim[2] || positions.extent != x.extent)
    return error.fail(MICA_INVALID_ARGUMENT, "positions ", shape_text(positions).text, " and x ",
                      shape_text(x).text, " do not have the same tokens");
  if (args.n_rot == 0 || args.n_rot % 2 != 0)
    return error.fail(MICA_INVALID_ARGUMENT, "n_rot is ", args.n_rot, ", not an even number");
  if (int64_t{args.n_rot} + args.offset > x.dim[0])
    return error.fail(MICA_INVALID_ARGUMENT, "n_rot ", args.n_rot, " behind offset ", args.offset,
                      " does not fit in heads of ", x.dim[0]);
  if (args.pairing != MICA_ROPE_ADJACENT && args.pairing != MICA_ROPE_HALF_SPLIT)
    return error.fail(MICA_INVALID_ARGUMENT, "pairing is ", args.pairing,
                      ", not MICA_ROPE_ADJACENT or MICA_ROPE_HALF_SPLIT");
  if (factors.rank != 0 &&
      (factors.dtype != MICA_F32 || factors.rank != 1 || !factors.contiguous() ||
       factors.dim[0] != args.n_rot / 2 || factors.extent != kNoExtent))
    return error.fail(MICA_INVALID_ARGUMENT, "freq_factors are ", dtype_name(factors.dtype), " ",
                      shape_text(factors).text, ", not f32 [", args.n_rot / 2, "], packed");
  MICA_TRY(check_numbers(call, args));
  return pack_output_like(call, x);
}

// How much of pair i turns at its original speed.
double yarn_mix(const mica_rope_args& a, int64_t i) {
  constexpr double kPi = 3.14159265358979323846;
  const auto correction = [&](double beta) {
    return a.n_rot * std::log(a.n_ctx_orig / (2 * kPi * beta)) / (2 * std::log(double{a.base}));
  };
  const double low = std::fmax(0, std::floor(correction(a.beta_fast)));
  const double high = std::fmin(a.n_rot - 1.0, std::ceil(correction(a.beta_slow)));
  const double ramp = (static_cast<double>(i) - low) / std::fmax(high - low, 0.001);
  return double{a.ext_factor} * (1 - std::fmin(1, std::fmax(0, ramp)));
}

// Angle per position of pair i.
double frequency(const RefCall& call, int64_t i) {
  const auto& a = call.arg<mica_rope_args>();
  double original = std::pow(double{a.base}, -2.0 * static_cast<double>(i) / a.n_rot);
  if (call.in[kFactors].present()) original /= call.in[kFactors].at(i);
  const double scaled = double{a.linear_scale} * original;
  if (a.ext_factor == 0) return scaled;
  const double mix = yarn_mix(a, i);
  return scaled * (1 - mix) + original * mix;
}

mica_status reference(const RefCall& call) {
  const auto& a = call.arg<mica_rope_args>();
  const HostTensor& x = call.in[kX];
  const int64_t head_dim = x.dim[0];
  const int64_t n_pairs = a.n_rot / 2;
  double m = a.attn_factor;
  if (a.ext_factor != 0) m *= 1 + 0.1 * std::log(1 / double{a.linear_scale});
  Vec<double> turn(*call.allocator);
  Vec<double> row(*call.allocator);
  if (!turn.resize(static_cast<size_t>(n_pairs)) || !row.resize(static_cast<size_t>(head_dim)))
    return MICA_OUT_OF_MEMORY;
  for (int64_t i = 0; i < n_pairs; ++i) turn[static_cast<size_t>(i)] = frequency(call, i);
  for_each_row(x, [&](int64_t h, int64_t t, int64_t, int64_t i_row) {
    x.read_row(row.data(), h, t);
    double* const magnitude =
        call.magnitude != nullptr ? call.magnitude + i_row * head_dim : nullptr;
    for (int64_t d = 0; magnitude != nullptr && d < head_dim; ++d)
      magnitude[d] = std::fabs(row[static_cast<size_t>(d)]);
    const auto position = static_cast<double>(call.in[kPositions].int_at(t));
    const bool adjacent = a.pairing == MICA_ROPE_ADJACENT;
    for (int64_t i = 0; i < n_pairs; ++i) {
      const int64_t d0 = a.offset + (adjacent ? 2 * i : i);
      const int64_t d1 = d0 + (adjacent ? 1 : n_pairs);
      const double angle = position * turn[static_cast<size_t>(i)];
      const double c = m * std::cos(angle);
      const double s = m * std::sin(angle);
      const double x0 = row[static_cast<size_t>(d0)];
      const double x1 = row[static_cast<size_t>(d1)];
      row[static_cast<size_t>(d0)] = x0 * c - x1 * s;
      row[static_cast<size_t>(d1)] = x0 * s + x1 * c;
      if (magnitude != nullptr)
        magnitude[d0] = magnitude[d1] = std::fabs(m) * (std::fabs(x0) + std::fabs(x1));
    }
    call.out.write_row(row.data(), h, t);
  });
  set_terms(call, 2);
  return MICA_OK;
}

}  // namespace

const OpDef op_rope = {MICA_OP_rope, "rope", 2,     kInputs, sizeof(mica_rope_args),
                       kOpPlain,     0,      infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_rope(mica_graph* graph, mica_tensor x, mica_tensor positions,
                      const mica_rope_params* params) {
  const mica_rope_params defaults = MICA_ROPE_PARAMS_INIT;
  const mica_rope_params& p = params != nullptr ? *params : defaults;
  if (p.struct_size != sizeof(mica_rope_params))
    return mica::builder_error(graph, "rope", "params.struct_size is not this version's");
  mica_rope_args args = {p.n_rot,      p.offset,      static_cast<uint32_t>(p.pairing),
                         p.n_ctx_orig, p.base,        p.linear_scale,
                         p.ext_factor, p.attn_factor, p.beta_fast,
                         p.beta_slow};
  mica_tensor_info info;
  if (args.n_rot == 0 && mica_graph_tensor_info(graph, x, &info) == MICA_OK &&
      info.dim[0] <= INT32_MAX)
    args.n_rot = static_cast<uint32_t>(info.dim[0]);
  const mica_tensor in[] = {x, positions, p.freq_factors};
  return mica::append(graph, mica::op_rope, in, 3, &args, sizeof args);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

struct RopeCase {
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  mica_dtype dtype = MICA_F32;
  int64_t head_dim = 64, n_heads = 3, n_tokens = 5, live = 5;
  Values positions = integers(0, 4095);
  std::vector<double> factors;
};

void add_rope(CaseList& list, const std::string& name, const RopeCase& c) {
  list.add("rope", name, [=](CaseBuilder& b) {
    const mica_extent tokens = b.extent("n_tokens", c.n_tokens, c.live);
    const mica_tensor x =
        b.input("x", c.dtype, {c.head_dim, c.n_heads, c.n_tokens}, normal(), tokens);
    const mica_tensor positions = b.input("positions", MICA_I32, {c.n_tokens}, c.positions, tokens);
    mica_rope_params p = c.p;
    if (!c.factors.empty())
      p.freq_factors = b.weight("factors", MICA_F32, {static_cast<int64_t>(c.factors.size())},
                                mica::conformance::list(c.factors));
    b.output(mica_rope(b.graph(), x, positions, &p));
  });
}

RopeCase yarn_case(float linear_scale, float ext_factor, float attn_factor) {
  RopeCase c;
  c.head_dim = 128;
  c.p.pairing = MICA_ROPE_HALF_SPLIT;
  c.p.base = 1e6f;
  c.p.linear_scale = linear_scale;
  c.p.ext_factor = ext_factor;
  c.p.attn_factor = attn_factor;
  c.p.n_ctx_orig = 32768;
  c.positions = integers(0, 131071);
  return c;
}

}  // namespace

void cases_rope(CaseList& list) {
  for (const auto pairing : {MICA_ROPE_ADJACENT, MICA_ROPE_HALF_SPLIT}) {
    const std::string prefix = pairing == MICA_ROPE_ADJACENT ? "adjacent." : "half_split.";
    RopeCase c;
    c.p.pairing = pairing;
    for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
      c.dtype = type;
      add_rope(list, prefix + mica_dtype_get(type)->name, c);
    }
    c.dtype = MICA_F32;
    RopeCase far = c;
    far.positions = mica::conformance::list({-1048576, -70000, -1, 0, 1, 65537, 1048575, 1048576});
    far.n_tokens = far.live = 8;
    add_rope(list, prefix + "far", far);
    RopeCase partial = c;
    partial.head_dim = 80;
    partial.p.n_rot = 32;
    add_rope(list, prefix + "partial", partial);
    partial.p.offset = 48;
    add_rope(list, prefix + "offset", partial);
    partial.p.offset = 7;
    partial.p.n_rot = 10;
    add_rope(list, prefix + "odd_offset", partial);
    RopeCase live = c;
    live.n_tokens = 40;
    live.live = 33;
    add_rope(list, prefix + "live33of40", live);
    RopeCase factors = c;
    for (int i = 0; i < 32; ++i) factors.factors.push_back(i < 12 ? 1.0 : 1.0 + 0.37 * (i - 11));
    factors.p.base = 500000.0f;
    factors.positions = integers(0, 131071);
    add_rope(list, prefix + "factors", factors);
  }
  RopeCase linear;
  linear.p.linear_scale = 0.25f;
  add_rope(list, "linear", linear);
  RopeCase magnitude;
  magnitude.p.attn_factor = 1.3f;
  add_rope(list, "attn_factor", magnitude);
  RopeCase one;
  one.n_heads = one.n_tokens = one.live = 1;
  one.head_dim = one.p.n_rot = 2;
  add_rope(list, "smallest", one);
  add_rope(list, "yarn", yarn_case(0.25f, 1, 1));
  add_rope(list, "yarn.half_mix", yarn_case(0.25f, 0.5f, 0.9f));
  RopeCase narrow = yarn_case(0.5f, 1, 1);
  narrow.p.beta_fast = narrow.p.beta_slow = 4;
  add_rope(list, "yarn.narrow_ramp", narrow);
  narrow.p.beta_fast = 1;
  narrow.p.beta_slow = 32;
  add_rope(list, "yarn.step", narrow);
  RopeCase all = yarn_case(0.125f, 1, 1);
  all.p.n_rot = 64;
  all.p.offset = 64;
  all.dtype = MICA_BF16;
  for (int i = 0; i < 32; ++i) all.factors.push_back(1.0 + i / 16.0);
  add_rope(list, "yarn.partial.factors.bf16", all);
  // Heads of a wider tensor: Q inside a fused Q, K, V.
  list.add("rope", "slice", [](CaseBuilder& b) {
    const mica_extent tokens = b.extent("n_tokens", 6, 4);
    const mica_tensor x = b.input("x", MICA_F32, {64, 9, 6}, normal(), tokens);
    const mica_tensor positions = b.input("positions", MICA_I32, {6}, integers(0, 99), tokens);
    const int64_t dim[] = {64, 4, 6}, start[] = {0, 3, 0, 0};
    const mica_tensor part = mica_view(b.graph(), x, 3, dim, start);
    b.output(mica_rope(b.graph(), part, positions, nullptr));
  });
}

}  // namespace mica::conformance
#endif
