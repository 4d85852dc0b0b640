// rope: rotary position embedding, with linear scaling, frequency factors and YaRN.
#include "ops/rope.h"

#ifndef MICA_CASES
#include <cmath>

#include "ops/rope_reference.h"

namespace mica {
namespace {

enum Input : uint32_t { kX, kAngles, kInputs };

mica_status infer(const InferCall& call) {
  const auto& args = *static_cast<const mica_rope_args*>(call.args);
  const Desc& x = call.in[kX];
  const Desc& angles = call.in[kAngles];
  Error& error = call.error;
  MICA_TRY(need_float(call, "x", x));
  if (x.rank != 3)
    return error.fail(MICA_INVALID_ARGUMENT, "x ", shape_text(x).text,
                      " is not [head_dim, n_heads, n_tokens]");
  MICA_TRY(need_contiguous_rows(call, "x", x));
  if (angles.dtype != MICA_F32 || angles.rank != 2 || !angles.contiguous() ||
      angles.dim[0] != args.n_rot || args.n_rot % 2 != 0)
    return error.fail(MICA_INVALID_ARGUMENT, "angles are ", dtype_name(angles.dtype), " ",
                      shape_text(angles).text, ", not f32 [", args.n_rot, ", n_tokens], packed");
  if (angles.dim[1] != x.dim[2] || angles.extent != x.extent)
    return error.fail(MICA_INVALID_ARGUMENT, "angles ", shape_text(angles).text, " and x ",
                      shape_text(x).text, " do not have the same tokens");
  MICA_TRY(need_finite(call, "the magnitude", args.magnitude));
  MICA_TRY(check_rope_head(call, args.n_rot, args.offset, args.pairing, x.dim[0]));
  return pack_output_like(call, x);
}

mica_status reference(const RefCall& call) {
  const auto& a = call.arg<mica_rope_args>();
  const HostTensor& x = call.in[kX];
  const HostTensor& angles = call.in[kAngles];
  const int64_t head_dim = x.dim[0];
  const int64_t n_pairs = a.n_rot / 2;
  const double m = double{a.magnitude};
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(head_dim))) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t h, int64_t t, int64_t, int64_t i_row) {
    x.read_row(row.data(), h, t);
    double* const magnitude =
        call.magnitude != nullptr ? call.magnitude + i_row * head_dim : nullptr;
    for (int64_t d = 0; magnitude != nullptr && d < head_dim; ++d)
      magnitude[d] = std::fabs(row[static_cast<size_t>(d)]);
    for (int64_t i = 0; i < n_pairs; ++i) {
      const RopePair pair = rope_pair(a.pairing, a.offset, n_pairs, i);
      if (magnitude != nullptr)
        magnitude[pair.d0] = magnitude[pair.d1] =
            std::fabs(m) * (std::fabs(row[static_cast<size_t>(pair.d0)]) +
                            std::fabs(row[static_cast<size_t>(pair.d1)]));
      rotate(row.data(), pair, m * angles.at(2 * i, t), m * angles.at(2 * i + 1, t));
    }
    call.out.write_row(row.data(), h, t);
  });
  set_terms(call, 2);
  return MICA_OK;
}

enum AnglesInput : uint32_t { kAnglesPositions, kAnglesFactors, kAnglesInputs };

mica_status infer_angles(const InferCall& call) {
  const auto& args = *static_cast<const mica_rope_angles_args*>(call.args);
  const Desc& positions = call.in[kAnglesPositions];
  if (positions.dtype != MICA_I32 || positions.rank != 1 || !positions.contiguous())
    return call.error.fail(MICA_INVALID_ARGUMENT, "positions are ", dtype_name(positions.dtype),
                           " ", shape_text(positions).text, ", not i32 [n], packed");
  MICA_TRY(check_rope_angles(call, args, call.in[kAnglesFactors]));
  const int64_t dim[] = {args.n_rot, positions.dim[0]};
  return pack_output(call, MICA_F32, 2, dim, positions.extent);
}

mica_status reference_angles(const RefCall& call) {
  const auto& a = call.arg<mica_rope_angles_args>();
  for (int64_t i = 0; i < a.n_rot / 2; ++i) {
    const double frequency = rope_frequency(a, call.in[kAnglesFactors], i);
    for (int64_t row = 0; row < call.out.dim[1]; ++row) {
      const double angle = static_cast<double>(call.in[kAnglesPositions].int_at(row)) * frequency;
      call.out.set(std::cos(angle), 2 * i, row);
      call.out.set(std::sin(angle), 2 * i + 1, row);
    }
  }
  for (int64_t i = 0; call.magnitude != nullptr && i < call.out.elements(); ++i)
    call.magnitude[i] = 1;
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_rope_angles = {MICA_OP_rope_angles,
                              "rope_angles",
                              1,
                              kAnglesInputs,
                              sizeof(mica_rope_angles_args),
                              kOpPlain,
                              -1,
                              infer_angles,
                              nullptr,
                              reference_angles};

const OpDef op_rope = {MICA_OP_rope, "rope", 2,     kInputs, sizeof(mica_rope_args),
                       kOpPlain,     0,      infer, nullptr, reference};

namespace {

// All layers, and Q and K, mostly have one.
mica_tensor angles_of(mica_graph* graph, mica_tensor positions, const mica_rope_params& p,
                      uint32_t n_rot) {
  const mica_rope_angles_args args = rope_angles_args_of(p, n_rot);
  const mica_tensor in[] = {positions, p.freq_factors};
  return append_shared(graph, op_rope_angles, in, 2, &args, sizeof args);
}

// What the rotated elements are multiplied by.
float magnitude_of(const mica_rope_params& p) {
  const double m = double{p.attn_factor};
  if (p.ext_factor == 0) return p.attn_factor;
  return static_cast<float>(m * (1 + 0.1 * std::log(1 / double{p.linear_scale})));
}

}  // namespace
}  // namespace mica

mica_tensor mica_rope(mica_graph* graph, mica_tensor x, mica_tensor positions,
                      const mica_rope_params* params) {
  const mica_rope_params defaults = MICA_ROPE_PARAMS_INIT;
  const mica_rope_params& p = params != nullptr ? *params : defaults;
  if (p.struct_size != sizeof(mica_rope_params))
    return mica::builder_error(graph, "rope", "params.struct_size is not this version's");
  mica_rope_args args = {p.n_rot, p.offset, static_cast<uint32_t>(p.pairing),
                         mica::magnitude_of(p)};
  mica_tensor_info info;
  mica_tensor in[] = {x, MICA_NO_TENSOR};
  // Of an x that is none there are no angles: append says what is wrong with it.
  if (mica_graph_tensor_info(graph, x, &info) == MICA_OK) {
    if (args.n_rot == 0 && info.dim[0] <= INT32_MAX)
      args.n_rot = static_cast<uint32_t>(info.dim[0]);
    in[1] = mica::angles_of(graph, positions, p, args.n_rot);
  }
  return mica::append(graph, mica::op_rope, in, 2, &args, sizeof args);
}

mica_tensor mica_rope_angles(mica_graph* graph, mica_tensor positions,
                             const mica_rope_params* params) {
  if (params == nullptr) return mica::builder_error(graph, "rope_angles", "params are NULL");
  if (params->struct_size != sizeof(mica_rope_params))
    return mica::builder_error(graph, "rope_angles", "params.struct_size is not this version's");
  return mica::angles_of(graph, positions, *params, params->n_rot);
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

void add_angles(CaseList& list) {
  const auto add = [&](const std::string& name, mica_rope_params p, bool factors, int64_t n,
                       int64_t live, const Values& positions) {
    list.add("rope_angles", name, [=](CaseBuilder& b) {
      mica_rope_params with = p;
      if (factors) with.freq_factors = b.weight("factors", MICA_F32, {p.n_rot / 2}, uniform(1, 8));
      const mica_extent rows = live < n ? b.extent("n", n, live) : mica_extent{};
      const mica_tensor at = b.input("positions", MICA_I32, {n}, positions, rows);
      b.output(mica_rope_angles(b.graph(), at, &with));
    });
  };
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  p.n_rot = 64;
  add("positions", p, false, 37, 37, integers(0, 4095));
  add("live20of37", p, false, 37, 20, integers(0, 4095));
  add("zeros", p, false, 64, 64, integers(0, 0));
  add("far", p, false, 8, 8,
      mica::conformance::list({-1048576, -70000, -1, 0, 1, 65537, 1048575, 1048576}));
  add("factors", p, true, 9, 9, integers(-131071, 131071));
  add("prompt", p, false, 512, 511, iota(-100, 1));
  p.n_rot = 2;
  add("smallest", p, false, 1, 1, integers(7, 7));
  p = yarn_case(0.25f, 1, 1.3f).p;
  p.n_rot = 128;
  add("yarn", p, false, 21, 21, integers(0, 131071));
  add("yarn.factors", p, true, 21, 21, integers(-131071, 131071));
}

}  // namespace

void cases_rope(CaseList& list) {
  add_angles(list);
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
  // Q and K of other heads, elements, pairs and magnitudes, by one table.
  list.add("rope", "shared_angles", [](CaseBuilder& b) {
    const mica_extent tokens = b.extent("n_tokens", 6, 5);
    const mica_tensor positions = b.input("positions", MICA_I32, {6}, integers(0, 4095), tokens);
    mica_rope_params p = MICA_ROPE_PARAMS_INIT;
    p.n_rot = 32;
    const mica_tensor q = b.input("q", MICA_F32, {48, 4, 6}, normal(), tokens);
    b.output(mica_rope(b.graph(), q, positions, &p));
    p.offset = 8;
    p.pairing = MICA_ROPE_HALF_SPLIT;
    p.attn_factor = 0.7f;
    const mica_tensor k = b.input("k", MICA_F16, {40, 2, 6}, normal(), tokens);
    b.output(mica_rope(b.graph(), k, positions, &p));
  });
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
