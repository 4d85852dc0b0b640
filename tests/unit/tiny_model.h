// A small Llama-like model with a cache, built through the public API: what tests of sessions run.
// Everything returns a status and allocates through std:: only outside of mica.
#pragma once
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "mica/mica.h"

namespace mica::test {

struct TinyShape {
  uint32_t n_layers = 2, n_heads = 2, n_kv_heads = 1, head_dim = 8;
  int64_t n_ff = 24, n_vocab = 32;
  mica_dtype kv = MICA_F32;
  uint32_t window = 0;  // of the last layer: a second cache group
  uint32_t n_cells = 1024, max_seqs = 2, max_step_tokens = 512;
  int64_t n_embd() const { return int64_t{n_heads} * head_dim; }
};

// Weights are shared by the layers: the shapes are what counts.
class TinyModel {
 public:
  explicit TinyModel(const TinyShape& shape) : shape_(shape) {
    const int64_t e = shape.n_embd(), kv = int64_t{shape.n_kv_heads} * shape.head_dim;
    add("embd", {e, shape.n_vocab}, 1);
    add("norm", {e}, 1);
    add("q", {e, e}, 0.3f);
    add("k", {e, kv}, 0.3f);
    add("v", {e, kv}, 0.3f);
    add("o", {e, e}, 0.3f);
    add("gate", {e, shape.n_ff}, 0.3f);
    add("up", {e, shape.n_ff}, 0.3f);
    add("down", {shape.n_ff, e}, 0.3f);
  }
  const TinyShape& shape() const { return shape_; }

  mica_status describe(mica_weights* w) const {
    for (const Weight& x : weights_) {
      const mica_status status = mica_weights_describe(
          w, x.name, MICA_F32, static_cast<uint32_t>(x.dim.size()), x.dim.data());
      if (status != MICA_OK) return status;
    }
    return MICA_OK;
  }
  mica_status load(mica_weights* w) const {
    const mica_weight_source source = {
        const_cast<TinyModel*>(this),
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          const auto& data = static_cast<TinyModel*>(user)->weights_[i].data;
          *out = reinterpret_cast<const char*>(data.data()) + offset;
          return MICA_OK;
        },
        nullptr};
    return mica_weights_load(w, &source);
  }
  mica_status make_cache(mica_device* device, mica_kv_cache** out) const {
    std::vector<mica_kv_layer> layers(shape_.n_layers, mica_kv_layer MICA_KV_LAYER_INIT);
    for (mica_kv_layer& l : layers) {
      l.n_kv_heads = shape_.n_kv_heads;
      l.head_dim_k = l.head_dim_v = shape_.head_dim;
      l.dtype_k = l.dtype_v = shape_.kv;
    }
    layers.back().window = shape_.window;
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = shape_.n_layers;
    p.layers = layers.data();
    p.n_cells = shape_.n_cells;
    p.max_seqs = shape_.max_seqs;
    p.max_step_tokens = shape_.max_step_tokens;
    return mica_kv_cache_create(device, &p, out);
  }
  // Input "ids" I32 [max_tokens]; output "logits" F32 [n_vocab, max_tokens]. Extent "n_tokens".
  void build(mica_graph* g, mica_weights* w, mica_kv_cache* cache, int64_t max_tokens) const {
    const mica_extent n = mica_graph_extent(g, "n_tokens", max_tokens);
    const mica_tensor ids = mica_input(g, "ids", MICA_I32, 1, &max_tokens, n);
    const auto weight = [&](const char* name) { return mica_weight(g, w, name); };
    const auto norm = [&](mica_tensor x) { return mica_rms_norm(g, x, weight("norm"), 1e-5f); };
    const auto heads = [&](mica_tensor x, uint32_t n_heads) {
      const int64_t dim[] = {shape_.head_dim, n_heads, max_tokens};
      return mica_reshape(g, x, 3, dim);
    };
    mica_tensor x = mica_get_rows(g, weight("embd"), ids);
    for (uint32_t i = 0; i < shape_.n_layers; ++i) {
      mica_graph_scope(g, ("blk." + std::to_string(i)).c_str());
      const mica_kv kv = mica_graph_kv(g, cache, i, n);
      const mica_tensor h = norm(x);
      const mica_tensor q = heads(mica_matmul(g, weight("q"), h), shape_.n_heads);
      const mica_tensor k = heads(mica_matmul(g, weight("k"), h), shape_.n_kv_heads);
      const mica_tensor v = heads(mica_matmul(g, weight("v"), h), shape_.n_kv_heads);
      mica_kv_append(g, &kv, mica_rope(g, k, kv.positions, nullptr), v);
      const mica_tensor a = mica_attention(g, mica_rope(g, q, kv.positions, nullptr), &kv, nullptr);
      const int64_t flat[] = {shape_.n_embd(), max_tokens};
      x = mica_add(g, x, mica_matmul(g, weight("o"), mica_reshape(g, a, 2, flat)));
      const mica_tensor f = norm(x);
      const mica_tensor gated =
          mica_swiglu(g, mica_matmul(g, weight("gate"), f), mica_matmul(g, weight("up"), f));
      x = mica_add(g, x, mica_matmul(g, weight("down"), gated));
    }
    mica_graph_scope(g, nullptr);
    mica_output(g, mica_matmul(g, weight("embd"), norm(x)), "logits");
  }

 private:
  struct Weight {
    const char* name;
    std::vector<int64_t> dim;
    std::vector<float> data;
  };
  void add(const char* name, std::vector<int64_t> dim, float sigma) {
    size_t n = 1;
    for (const int64_t d : dim) n *= static_cast<size_t>(d);
    std::mt19937_64 rng(weights_.size() + 17);
    std::normal_distribution<float> gauss(0, sigma);
    Weight w{name, std::move(dim), std::vector<float>(n)};
    for (float& x : w.data) x = gauss(rng);
    weights_.push_back(std::move(w));
  }
  TinyShape shape_;
  std::vector<Weight> weights_;
};

inline std::vector<int32_t> token_ids(const TinyShape& shape, size_t n, uint64_t seed = 3) {
  std::mt19937_64 rng(seed);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % static_cast<uint64_t>(shape.n_vocab));
  return ids;
}

}  // namespace mica::test
