// Architecture `llama`: Llama 1 to 3, Mistral, TinyLlama, SmolLM2. Rows of Q and K are stored so
// that RoPE pairs neighbours.
#include "mica/ops.h"
#include "models.h"

namespace mica_llama {
namespace {

std::string layer_name(uint32_t i_layer) { return "blk." + std::to_string(i_layer); }

std::vector<TensorShape> tensors(const Hparams& h) {
  const int64_t n_embd = h.n_embd, n_ff = h.n_ff, n_vocab = h.n_vocab;
  const auto q = static_cast<int64_t>(h.q_width()), k = static_cast<int64_t>(h.k_width());
  const auto v = static_cast<int64_t>(h.v_width()), out = static_cast<int64_t>(h.out_width());
  std::vector<TensorShape> list = {
      {"token_embd.weight", {n_embd, n_vocab}},
      {"output_norm.weight", {n_embd}},
      {"output.weight", {n_embd, n_vocab}, false},  // absent: the embedding is used
      {"rope_freqs.weight", {h.n_rot / 2}, false},  // Llama 3's factors of the angles
  };
  for (uint32_t i = 0; i < h.n_layers; ++i) {
    const std::string blk = layer_name(i) + ".";
    list.push_back({blk + "attn_norm.weight", {n_embd}});
    list.push_back({blk + "attn_q.weight", {n_embd, q}});
    list.push_back({blk + "attn_k.weight", {n_embd, k}});
    list.push_back({blk + "attn_v.weight", {n_embd, v}});
    list.push_back({blk + "attn_output.weight", {out, n_embd}});
    list.push_back({blk + "attn_q.bias", {q}, false});
    list.push_back({blk + "attn_k.bias", {k}, false});
    list.push_back({blk + "attn_v.bias", {v}, false});
    list.push_back({blk + "attn_output.bias", {n_embd}, false});
    list.push_back({blk + "ffn_norm.weight", {n_embd}});
    list.push_back({blk + "ffn_gate.weight", {n_embd, n_ff}});
    list.push_back({blk + "ffn_up.weight", {n_embd, n_ff}});
    list.push_back({blk + "ffn_down.weight", {n_ff, n_embd}});
  }
  return list;
}

void kv_layer(const Hparams& h, uint32_t, mica_kv_layer& layer) {
  layer.n_kv_heads = h.n_kv_heads;
  layer.head_dim_k = h.head_dim_k;
  layer.head_dim_v = h.head_dim_v;
  layer.window = h.window;
}

mica_tensor project(const StepGraph& s, const std::string& name, mica_tensor x) {
  mica_tensor y = mica_matmul(s.graph, s.weight(name + ".weight"), x);
  const mica_tensor bias = s.optional(name + ".bias");
  return bias.index != 0 ? mica_add(s.graph, y, bias) : y;
}

mica_tensor split_heads(const StepGraph& s, mica_tensor x, uint32_t head_dim, uint32_t n_heads) {
  const int64_t dim[] = {head_dim, n_heads, s.max_tokens};
  return mica_reshape(s.graph, x, 3, dim);
}

mica_rope_params rope_params(const Hparams& h, const StepGraph& s) {
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  p.n_rot = h.n_rot;
  p.pairing = MICA_ROPE_ADJACENT;
  p.base = h.rope_base;
  p.linear_scale = h.rope_linear_scale;
  p.ext_factor = h.yarn_ext_factor;
  p.attn_factor = h.yarn_attn_factor;
  p.beta_fast = h.yarn_beta_fast;
  p.beta_slow = h.yarn_beta_slow;
  p.n_ctx_orig = h.rope_n_ctx_orig;
  p.freq_factors = s.optional("rope_freqs.weight");
  return p;
}

// Attention of one layer; x: normalized [n_embd, n_tokens].
mica_tensor attend(const Hparams& h, const StepGraph& s, const mica_rope_params& rope,
                   uint32_t i_layer, mica_tensor x) {
  mica_graph* g = s.graph;
  const std::string blk = layer_name(i_layer);
  const mica_kv kv = mica_graph_kv(g, s.cache, i_layer, s.n_tokens);
  mica_tensor q = split_heads(s, project(s, blk + ".attn_q", x), h.head_dim_k, h.n_heads);
  mica_tensor k = split_heads(s, project(s, blk + ".attn_k", x), h.head_dim_k, h.n_kv_heads);
  mica_tensor v = split_heads(s, project(s, blk + ".attn_v", x), h.head_dim_v, h.n_kv_heads);
  q = mica_rope(g, q, kv.positions, &rope);
  k = mica_rope(g, k, kv.key_positions, &rope);
  mica_kv_append(g, &kv, k, v);
  mica_attention_params params = MICA_ATTENTION_PARAMS_INIT;
  params.rope = &rope;
  const mica_tensor y = mica_attention(g, q, &kv, &params);
  const int64_t dim[] = {static_cast<int64_t>(h.out_width()), s.max_tokens};
  return project(s, blk + ".attn_output", mica_reshape(g, y, 2, dim));
}

mica_tensor feed_forward(const StepGraph& s, const std::string& blk, mica_tensor x) {
  const mica_tensor gate = mica_matmul(s.graph, s.weight(blk + ".ffn_gate.weight"), x);
  const mica_tensor up = mica_matmul(s.graph, s.weight(blk + ".ffn_up.weight"), x);
  return mica_matmul(s.graph, s.weight(blk + ".ffn_down.weight"), mica_swiglu(s.graph, gate, up));
}

mica_tensor build(const Hparams& h, const StepGraph& s) {
  mica_graph* g = s.graph;
  mica_graph_scope(g, "embedding");
  const mica_rope_params rope = rope_params(h, s);
  mica_tensor x = mica_get_rows(g, s.weight("token_embd.weight"), s.tokens);
  for (uint32_t i = 0; i < h.n_layers; ++i) {
    const std::string blk = layer_name(i);
    mica_graph_scope(g, blk.c_str());
    mica_tensor normed = mica_rms_norm(g, x, s.weight(blk + ".attn_norm.weight"), h.norm_eps);
    mica_tensor attended = attend(h, s, rope, i, normed);
    if (i + 1 == h.n_layers) {  // from here on only the rows that are wanted
      x = mica_get_rows(g, x, s.out_ids);
      attended = mica_get_rows(g, attended, s.out_ids);
    }
    x = mica_add(g, x, attended);
    normed = mica_rms_norm(g, x, s.weight(blk + ".ffn_norm.weight"), h.norm_eps);
    x = mica_add(g, x, feed_forward(s, blk, normed));
  }
  mica_graph_scope(g, "output");
  x = mica_rms_norm(g, x, s.weight("output_norm.weight"), h.norm_eps);
  const mica_tensor output = s.optional("output.weight");
  return mica_matmul(g, output.index != 0 ? output : s.weight("token_embd.weight"), x);
}

mica_rope_params rope(const Hparams& h, const StepGraph& s, uint32_t) { return rope_params(h, s); }

Hparams read(const Metadata& file) { return read_hparams(file, "llama"); }

}  // namespace

const Architecture kLlama = {"llama", read, tensors, kv_layer, build, rope};

}  // namespace mica_llama
