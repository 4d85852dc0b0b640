// Whole graphs as cases: small Llama-style models over a paged cache, so that plans, fusions,
// memory reuse and cache paths are checked together. Compared element by element with the reference
// run with the same numerics.
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

struct Shape {
  uint32_t n_layers = 2, n_heads = 4, n_kv_heads = 2, head_dim = 32, window = 0;
  int64_t n_ff = 96, n_vocab = 64;
  mica_dtype weights = MICA_F32, dtype_k = MICA_F32, dtype_v = MICA_F32;
  uint32_t shared_from = UINT32_MAX;  // layers from here on read the layer before
};

std::string at(uint32_t layer, const char* what) {
  return "blk." + std::to_string(layer) + "." + what;
}

class Builder {
 public:
  Builder(CaseBuilder& b, const Shape& s, std::vector<Step> steps) : b_(b), s_(s), g_(b.graph()) {
    std::vector<mica_kv_layer> layers(s.n_layers, mica_kv_layer MICA_KV_LAYER_INIT);
    for (uint32_t i = 0; i < s.n_layers; ++i) {
      layers[i].n_kv_heads = s.n_kv_heads;
      layers[i].head_dim_k = layers[i].head_dim_v = s.head_dim;
      layers[i].dtype_k = s.dtype_k;
      layers[i].dtype_v = s.dtype_v;
      layers[i].window = s.window;
      if (i >= s.shared_from) layers[i].source = s.shared_from - 1;
    }
    mica_kv_params params = MICA_KV_PARAMS_INIT;
    params.n_layers = s.n_layers;
    params.layers = layers.data();
    params.n_cells = 512;
    params.max_seqs = 3;
    params.max_step_tokens = static_cast<uint32_t>(tokens_);
    cache_ = b.cache(params, std::move(steps));
    n_embd_ = int64_t{s.n_heads} * s.head_dim;
  }

  void build() {
    const mica_tensor ids =
        b_.input("ids", MICA_I32, {tokens_}, integers(0, s_.n_vocab - 1), b_.n_tokens(tokens_));
    const mica_tensor embd = b_.weight("embd", s_.weights, {n_embd_, s_.n_vocab}, normal(0.5));
    mica_tensor x = mica_get_rows(g_, embd, ids);
    for (uint32_t i = 0; i < s_.n_layers; ++i) x = layer(i, x);
    b_.output(mica_matmul(g_, embd, norm("output_norm", x)));
  }
  // The same model in another plan, for few tokens.
  void build_again(Compiled when, int64_t tokens) {
    g_ = b_.next_graph(when);
    tokens_ = tokens;
    build();
  }

 private:
  mica_tensor norm(const std::string& name, mica_tensor x) {
    return mica_rms_norm(g_, x, b_.weight(name.c_str(), MICA_F32, {n_embd_}, uniform(0.5, 1.5)),
                         1e-5f);
  }
  mica_tensor linear(const std::string& name, mica_tensor x, int64_t k, int64_t n) {
    return mica_matmul(g_, b_.weight(name.c_str(), s_.weights, {k, n}, normal(0.12)), x);
  }
  mica_tensor heads(mica_tensor x, uint32_t n) {
    const int64_t dim[] = {s_.head_dim, n, tokens_};
    return mica_reshape(g_, x, 3, dim);
  }
  mica_tensor layer(uint32_t i, mica_tensor x) {
    mica_graph_scope(g_, at(i, "").c_str());
    const mica_kv kv = mica_graph_kv(g_, cache_, i, b_.n_tokens(tokens_));
    const mica_tensor h = norm(at(i, "attn_norm"), x);
    mica_rope_params rope = MICA_ROPE_PARAMS_INIT;
    const int64_t kv_dim = int64_t{s_.n_kv_heads} * s_.head_dim;
    mica_tensor q = heads(linear(at(i, "q"), h, n_embd_, n_embd_), s_.n_heads);
    q = mica_rope(g_, q, kv.positions, &rope);
    if (i < s_.shared_from) {
      mica_tensor k = heads(linear(at(i, "k"), h, n_embd_, kv_dim), s_.n_kv_heads);
      k = mica_rope(g_, k, kv.positions, &rope);
      mica_kv_append(g_, &kv, k, heads(linear(at(i, "v"), h, n_embd_, kv_dim), s_.n_kv_heads));
    }
    const mica_attention_params attention = MICA_ATTENTION_PARAMS_INIT;
    mica_tensor a = mica_attention(g_, q, &kv, &attention);
    const int64_t flat[] = {n_embd_, tokens_};
    a = linear(at(i, "o"), mica_reshape(g_, a, 2, flat), n_embd_, n_embd_);
    x = mica_add(g_, x, a);
    const mica_tensor f = norm(at(i, "ffn_norm"), x);
    const mica_tensor gate = linear(at(i, "gate"), f, n_embd_, s_.n_ff);
    const mica_tensor up = linear(at(i, "up"), f, n_embd_, s_.n_ff);
    return mica_add(g_, x, linear(at(i, "down"), mica_swiglu(g_, gate, up), s_.n_ff, n_embd_));
  }

  CaseBuilder& b_;
  Shape s_;
  mica_graph* g_;
  mica_kv_cache* cache_ = nullptr;
  int64_t n_embd_ = 0, tokens_ = 96;
};

// A prompt over a page's end, single tokens, two sequences at once, a shared prefix that diverges,
// and a hole.
std::vector<Step> conversation() {
  const auto copy = [](mica_kv_cache* c) { return mica_kv_seq_cp(c, 0, 1, 0, -1); };
  const auto cut = [](mica_kv_cache* c) { return mica_kv_seq_rm(c, 0, 20, 45); };
  return {{{{0, 70}}, {}}, {{{0, 1}}, {}},          {{{0, 1}, {1, 2}}, copy},
          {{{1, 30}}, {}}, {{{0, 1}, {1, 1}}, cut}, {{{2, 5}, {0, 60}}, {}}};
}

void add(CaseList& list, const char* name, const Shape& shape) {
  list.add("graph", name, [shape](CaseBuilder& b) { Builder(b, shape, conversation()).build(); });
}

// Two plans over one cache, in turn: one for prompts, one for up to three tokens.
void add_two_plans(CaseList& list, const char* name, const Shape& shape, Compiled when) {
  std::vector<Step> steps = conversation();
  for (const size_t i : {1, 2, 4}) steps[i].plan = 1;
  list.add("graph", name, [=](CaseBuilder& b) {
    Builder model(b, shape, steps);
    model.build();
    model.build_again(when, 3);
  });
}

}  // namespace

void cases_whole_graphs(CaseList& list) {
  Shape s;
  add(list, "llama.gqa.f32", s);
  s.n_kv_heads = 4;
  add(list, "llama.mha.f32", s);
  s.n_kv_heads = 1;
  add(list, "llama.mqa.f32", s);
  s.n_kv_heads = 2;
  s.shared_from = 1;
  add(list, "llama.shared_layer.f32", s);
  s.shared_from = UINT32_MAX;
  s.window = 24;
  add(list, "llama.window.f32", s);
  s.window = 0;
  s.dtype_k = s.dtype_v = MICA_F16;
  s.weights = MICA_F16;
  add(list, "llama.gqa.f16", s);
  s.weights = MICA_Q8_0;
  s.dtype_k = MICA_Q8_0;
  add(list, "llama.gqa.q8_0.kv_q8_f16", s);
  s.weights = MICA_Q4_0;
  s.dtype_v = MICA_Q4_0;
  add(list, "llama.gqa.q4_0.kv_q8_q4", s);
  add_two_plans(list, "two_plans.q4_0.kv_q8_q4", s, Compiled::kAtOnce);
  add_two_plans(list, "two_plans.later.q4_0.kv_q8_q4", s, Compiled::kLater);
  s = {};
  add_two_plans(list, "two_plans.f32", s, Compiled::kAtOnce);
  add_two_plans(list, "two_plans.later.f32", s, Compiled::kLater);
}

}  // namespace mica::conformance
