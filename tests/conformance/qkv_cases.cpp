// norm_qkv's pattern as cases, with all its options: as regions.cpp has the other fusions'.
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

const char* name_of(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

enum class Rope { kNone, kAdjacent, kHalfSplit, kPartial, kYarn, kFactors, kFirstHalf };
const char* const kRopeNames[] = {"none", "adjacent", "half_split", "partial",
                                  "yarn", "factors",  "first_half"};

struct Qkv {
  mica_dtype q = MICA_F32, k = MICA_F32, v = MICA_F32, cache_k = MICA_F32, cache_v = MICA_F32;
  uint32_t n_heads = 4, n_kv_heads = 2, head_dim_k = 32, head_dim_v = 32;
  int64_t n_embd = 96;
  bool bias = false, norm_is_read = false, q_is_read = false;
  // RoPE turns heads so many times as large as those of attention and cache; n_rot stays.
  uint32_t larger_q = 1, larger_k = 1;
  bool split_rows = false;  // V's rows are seen as [head_dim, 2 n_kv_heads, …] on their way
  bool v_is_k = false;      // no V is stored: no region, for one stores both
  int64_t prompt = 0;       // > 0: tokens of the only step, whose rows are of all sizes
  Rope rope_q = Rope::kAdjacent, rope_k = Rope::kAdjacent;
  float base_k = 10000;
  // K has them to itself, as where its cells stand for other positions than Q's.
  bool own_positions = false, own_factors = false;
  void set_rope(Rope rope) { rope_q = rope_k = rope; }
  void set_weights(mica_dtype d) { q = k = v = d; }
  bool same_params() const { return rope_q == rope_k && base_k == 10000 && !own_factors; }
};

// A prompt, single tokens, two sequences at once.
std::vector<Step> steps(bool single, int64_t prompt) {
  if (prompt > 0) return {{{{0, static_cast<uint32_t>(prompt)}}, {}}};
  if (single) return {{{{0, 1}}, {}}, {{{0, 1}}, {}}, {{{0, 1}}, {}}};
  return {{{{0, 5}}, {}}, {{{0, 1}}, {}}, {{{1, 3}}, {}}, {{{0, 1}, {1, 2}}, {}}, {{{0, 21}}, {}}};
}

mica_rope_params rope_params(CaseBuilder& b, const Qkv& s, Rope rope, const char* factors) {
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  p.pairing =
      rope == Rope::kHalfSplit || rope == Rope::kYarn ? MICA_ROPE_HALF_SPLIT : MICA_ROPE_ADJACENT;
  if (s.larger_q != s.larger_k) p.n_rot = s.head_dim_k;
  if (rope == Rope::kPartial || rope == Rope::kFirstHalf) p.n_rot = s.head_dim_k / 2;
  if (rope == Rope::kPartial) p.offset = s.head_dim_k / 4;
  if (rope == Rope::kYarn) {
    p.linear_scale = 0.25f;
    p.ext_factor = 1;
    p.n_ctx_orig = 64;
  }
  if (rope == Rope::kFactors)
    p.freq_factors = b.weight(factors, MICA_F32, {s.head_dim_k / 2}, uniform(1, 8));
  return p;
}

void rotate(CaseBuilder& b, const Qkv& s, const mica_kv& kv, mica_tensor& q, mica_tensor& k) {
  mica_rope_params params = rope_params(b, s, s.rope_q, "factors");
  if (s.rope_q != Rope::kNone) q = mica_rope(b.graph(), q, kv.positions, &params);
  if (s.rope_k == Rope::kNone) return;
  if (!s.same_params()) params = rope_params(b, s, s.rope_k, "k.factors");
  params.base = s.base_k;
  mica_tensor positions = kv.positions;
  if (s.own_positions) {
    mica_tensor_info info;
    if (mica_graph_tensor_info(b.graph(), positions, &info) != MICA_OK) return;
    positions = b.input("k.positions", MICA_I32, {info.dim[0]}, integers(-70, 4000), b.n_tokens());
  }
  k = mica_rope(b.graph(), k, positions, &params);
}

void build_qkv(CaseBuilder& b, const Qkv& s, bool single) {
  const int64_t max = s.prompt > 0 ? s.prompt : single ? 1 : 24;
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = s.n_kv_heads;
  layer.head_dim_k = s.head_dim_k;
  layer.head_dim_v = s.head_dim_v;
  layer.dtype_k = s.cache_k;
  layer.dtype_v = s.cache_v;
  layer.v_is_k = s.v_is_k ? 1 : 0;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 256;
  params.max_seqs = 2;
  if (s.v_is_k) params.keys = MICA_KV_KEYS_NONE;
  params.max_step_tokens = static_cast<uint32_t>(max);
  mica_kv_cache* cache = b.cache(params, steps(single, s.prompt));
  mica_graph* g = b.graph();
  const mica_kv kv = mica_graph_kv(g, cache, 0, b.n_tokens());
  const Values values = s.prompt > 0 ? sized_rows(s.n_embd) : normal();
  const mica_tensor x = b.input("x", MICA_F32, {s.n_embd, max}, values, b.n_tokens());
  const mica_tensor h =
      mica_rms_norm(g, x, b.weight("norm", MICA_F32, {s.n_embd}, uniform(0.5, 1.5)), 1e-5f);
  const auto project = [&](const char* name, mica_dtype dtype, uint32_t n_heads, uint32_t dim) {
    const int64_t n = int64_t{n_heads} * dim, heads[] = {dim, n_heads, max};
    mica_tensor y = mica_matmul(g, b.weight(name, dtype, {s.n_embd, n}, normal(0.06)), h);
    if (s.bias) y = mica_add(g, y, b.weight((std::string(name) + ".bias").c_str(), MICA_F32, {n}));
    return mica_reshape(g, y, 3, heads);
  };
  mica_tensor q = project("q", s.q, s.n_heads / s.larger_q, s.head_dim_k * s.larger_q);
  mica_tensor k = project("k", s.k, s.n_kv_heads / s.larger_k, s.head_dim_k * s.larger_k);
  mica_tensor v = MICA_NO_TENSOR;
  if (!s.v_is_k) v = project("v", s.v, s.n_kv_heads, s.head_dim_v);
  const auto seen_as = [&](mica_tensor t, uint32_t dim, uint32_t n_heads) {
    const int64_t heads[] = {dim, n_heads, max};
    return mica_reshape(g, t, 3, heads);
  };
  rotate(b, s, kv, q, k);
  if (s.larger_q > 1) q = seen_as(q, s.head_dim_k, s.n_heads);
  if (s.larger_k > 1) k = seen_as(k, s.head_dim_k, s.n_kv_heads);
  if (s.split_rows) {
    v = seen_as(v, s.head_dim_v / 2, 2 * s.n_kv_heads);
    v = seen_as(v, s.head_dim_v, s.n_kv_heads);
  }
  mica_kv_append(g, &kv, k, v);
  b.far_output(mica_attention(g, q, &kv, nullptr));
  if (s.q_is_read) b.output(mica_copy(g, q));
  if (s.norm_is_read) b.output(mica_copy(g, h));
}

void add_qkv(CaseList& list, const std::string& name, const Qkv& s) {
  for (const bool single : {true, false}) {
    list.add("norm_qkv", name + (single ? ".m1" : ".ragged"),
             [=](CaseBuilder& b) { build_qkv(b, s, single); });
    list.cases.back().chain = true;
  }
}

void cases_v_is_k(CaseList& list, mica_dtype d) {
  Qkv s;
  s.set_weights(d);
  s.set_rope(Rope::kNone);
  s.cache_k = s.cache_v = MICA_F16;
  s.v_is_k = true;
  add_qkv(list, std::string(name_of(d)) + ".v_is_k", s);
}

// RoPE of Q and of K are apart: of one alone, or of each with positions and options of its own.
void cases_rope_roles(CaseList& list, mica_dtype d) {
  const std::string name = std::string(name_of(d)) + ".";
  Qkv both;
  both.q_is_read = true;
  both.set_weights(d);
  for (const Rope rope : {Rope::kAdjacent, Rope::kHalfSplit, Rope::kFirstHalf}) {
    const std::string of = std::string("_") + kRopeNames[static_cast<int>(rope)];
    Qkv s = both;
    s.rope_q = rope;
    s.rope_k = Rope::kNone;
    add_qkv(list, name + "q" + of, s);
    std::swap(s.rope_q, s.rope_k);
    add_qkv(list, name + "k" + of, s);
    s.set_rope(rope);
    s.own_positions = true;
    add_qkv(list, name + "positions" + of, s);
    s.own_positions = false;
    s.base_k = 500;
    add_qkv(list, name + "base" + of, s);
  }
  Qkv s = both;
  s.rope_q = Rope::kHalfSplit;
  add_qkv(list, name + "q_half_split.k_adjacent", s);
  s.rope_k = Rope::kFirstHalf;
  add_qkv(list, name + "q_half_split.k_first_half", s);
  std::swap(s.rope_q, s.rope_k);
  s.own_positions = s.bias = true;
  s.base_k = 500;
  add_qkv(list, name + "all_differ.q_first_half.k_half_split", s);
}

void cases_rope_roles(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_Q4_0, MICA_Q8_0}) cases_rope_roles(list, d);
  for (const mica_dtype d : {MICA_F32, MICA_Q8_0}) cases_v_is_k(list, d);
  Qkv s;
  s.q_is_read = true;
  s.set_rope(Rope::kFactors);
  s.own_factors = true;
  add_qkv(list, "f32.own_factors", s);
  s.rope_q = Rope::kYarn;
  add_qkv(list, "f32.q_yarn.k_factors", s);
  std::swap(s.rope_q, s.rope_k);
  add_qkv(list, "f32.q_factors.k_yarn", s);
  s.rope_q = Rope::kPartial;
  add_qkv(list, "f32.q_partial.k_yarn", s);
  s.set_rope(Rope::kHalfSplit);
  s.own_factors = false;
  s.own_positions = true;
  s.set_weights(MICA_Q8_0);
  for (const mica_dtype d : {MICA_F16, MICA_Q8_0}) {
    s.cache_k = s.cache_v = d;
    add_qkv(list, std::string("q8_0.own_positions.kv_") + name_of(d), s);
  }
  s.own_positions = false;
  s.set_weights(MICA_F32);
  s.rope_k = Rope::kNone;
  s.larger_q = 2;
  add_qkv(list, "f32.q_half_split.reheaded", s);
  std::swap(s.rope_q, s.rope_k);
  std::swap(s.larger_q, s.larger_k);
  add_qkv(list, "f32.k_half_split.reheaded", s);
}

void cases_norm_qkv(CaseList& list) {
  Qkv s;
  s.q_is_read = true;
  for (int i = 0; i < 6; ++i)
    for (const bool bias : {false, true}) {
      s.set_rope(static_cast<Rope>(i));
      s.bias = bias;
      add_qkv(list, std::string("f32.rope_") + kRopeNames[i] + (bias ? ".bias" : ""), s);
    }
  s.bias = false;
  s.set_rope(Rope::kAdjacent);
  for (const mica_dtype d : {MICA_F32, MICA_Q8_0})
    for (const bool half_split : {false, true}) {
      Qkv r = s;
      r.set_weights(d);
      r.set_rope(half_split ? Rope::kHalfSplit : Rope::kAdjacent);
      const std::string name = std::string(name_of(d)) + (half_split ? ".half_split" : "");
      r.split_rows = true;
      add_qkv(list, name + ".v_split", r);
      r.larger_k = 2;
      add_qkv(list, name + ".k_reheaded", r);
      r.larger_q = 2;
      add_qkv(list, name + ".q_and_k_reheaded", r);
      r.larger_k = 1;
      add_qkv(list, name + ".q_reheaded", r);
    }
  s.norm_is_read = true;
  add_qkv(list, "f32.norm_is_read", s);
  s.norm_is_read = s.q_is_read = false;
  add_qkv(list, "f32.only_attention", s);
  s.q_is_read = true;
  for (const mica_dtype d : {MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q8_0}) {
    s.set_weights(d);
    s.cache_k = s.cache_v = MICA_F16;
    add_qkv(list, std::string(name_of(d)) + ".kv_f16", s);
  }
  s.n_embd = 256;
  s.q = s.k = MICA_Q4_K;
  s.v = MICA_Q6_K;
  for (const mica_dtype d : {MICA_F16, MICA_Q8_0, MICA_Q4_0, MICA_Q5_1}) {
    s.cache_k = s.cache_v = d;
    add_qkv(list, std::string("q4_k.q6_k.kv_") + name_of(d), s);
  }
  s.bias = true;
  s.cache_k = MICA_Q8_0;
  s.cache_v = MICA_F16;
  s.set_rope(Rope::kHalfSplit);
  add_qkv(list, "q4_k.q6_k.bias.half_split.kv_q8_0_f16", s);
  s.bias = false;
  s.set_rope(Rope::kAdjacent);
  s.n_kv_heads = 1;
  s.head_dim_k = s.head_dim_v = 64;
  add_qkv(list, "mqa.q4_k.q6_k.head_64", s);
  s.n_kv_heads = 4;
  s.head_dim_k = 48;
  s.head_dim_v = 80;
  s.cache_k = s.cache_v = MICA_F16;
  add_qkv(list, "mha.q4_k.q6_k.head_48_80", s);
  s.head_dim_k = s.head_dim_v = 24;  // of no whole group of 16 rows
  add_qkv(list, "mha.q4_k.q6_k.head_24", s);
}

// As many tokens as a GPU's own forms of a prompt take.
void cases_sized_rows(CaseList& list) {
  Qkv s;
  s.n_heads = s.n_kv_heads = 8;
  s.head_dim_k = s.head_dim_v = 64;
  s.n_embd = 256;
  s.cache_k = s.cache_v = MICA_F16;
  s.q_is_read = true;
  s.prompt = 130;
  for (const mica_dtype d : {MICA_F16, MICA_Q4_1}) {
    s.set_weights(d);
    list.add("norm_qkv", std::string("sizes.") + name_of(d),
             [=](CaseBuilder& b) { build_qkv(b, s, false); });
    list.cases.back().chain = true;
  }
}

}  // namespace

void cases_qkv(CaseList& list) {
  cases_norm_qkv(list);
  cases_rope_roles(list);
  cases_sized_rows(list);
}

}  // namespace mica::conformance
