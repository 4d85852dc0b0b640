// Random graphs of the blocks that transformers are made of: norms, projections, RoPE, appends,
// attention, gated units, residual sums, with rows of a state written in between.
#pragma once
#include "tests/unit/world.h"

namespace mica::test {

// Weights of the blocks on a device, F32, the same for every device.
class BlockWeights {
 public:
  static constexpr int64_t kEmbd = 32, kFf = 40, kHeadDim = 16;
  explicit BlockWeights(const Device& device) {
    add("norm", {kEmbd}), add("q", {kEmbd, kEmbd}), add("k", {kEmbd, kHeadDim});
    add("v", {kEmbd, kHeadDim}), add("o", {kEmbd, kEmbd}), add("gate", {kEmbd, kFf});
    add("up", {kEmbd, kFf}), add("down", {kFf, kEmbd}), add("q_bias", {kEmbd});
    add("k_bias", {kHeadDim}), add("v_bias", {kHeadDim});
    mica_weights* w = nullptr;
    EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
    weights_.reset(w);
    for (const Leaf& l : leaves_)
      EXPECT_EQ(mica_weights_describe(w, l.name, MICA_F32, static_cast<uint32_t>(l.dim.size()),
                                      l.dim.data()),
                MICA_OK);
    const mica_weight_source source = {
        this,
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          const auto& data = static_cast<BlockWeights*>(user)->leaves_[i].data;
          *out = reinterpret_cast<const char*>(data.data()) + offset;
          return MICA_OK;
        },
        nullptr};
    EXPECT_EQ(mica_weights_load(w, &source), MICA_OK);
  }
  mica_weights* get() const { return weights_.get(); }

 private:
  struct Leaf {
    const char* name;
    Dims dim;
    std::vector<float> data;
  };
  void add(const char* name, const Dims& dim) {
    size_t n = 1;
    for (const int64_t d : dim) n *= static_cast<size_t>(d);
    leaves_.push_back({name, dim, randoms(n, leaves_.size() + 5, 0.3f)});
  }
  std::vector<Leaf> leaves_;
  Weights weights_;
};

// A cache of `n_layers` layers for the blocks.
inline Cache block_cache(const Device& device, uint32_t n_layers) {
  std::vector<mica_kv_layer> layers(n_layers, mica_kv_layer MICA_KV_LAYER_INIT);
  for (mica_kv_layer& l : layers) {
    l.n_kv_heads = 1;
    l.head_dim_k = l.head_dim_v = BlockWeights::kHeadDim;
  }
  mica_kv_params p = MICA_KV_PARAMS_INIT;
  p.n_layers = n_layers;
  p.layers = layers.data();
  p.n_cells = 64;
  p.max_seqs = 1;
  p.max_step_tokens = 6;
  mica_kv_cache* cache = nullptr;
  EXPECT_EQ(mica_kv_cache_create(device.get(), &p, &cache), MICA_OK);
  return Cache(cache);
}

// The blocks as expressions. Streams are [kEmbd, 6]: of tokens (with the extent), or the state's
// rows (without).
class Blocks {
 public:
  static constexpr int64_t kTokens = 6;
  Blocks(mica_graph* graph, mica_weights* w, mica_kv_cache* cache)
      : g(graph), n_tokens(mica_graph_extent(graph, "n_tokens", kTokens)), w_(w), cache_(cache) {}
  mica_tensor weight(const char* name) { return mica_weight(g, w_, name); }
  mica_tensor norm(mica_tensor x) { return mica_rms_norm(g, x, weight("norm"), 1e-5f); }
  mica_tensor linear(const char* name, mica_tensor x) { return mica_matmul(g, weight(name), x); }
  mica_tensor heads(mica_tensor x, int64_t n_heads) {
    return reshape(g, x, {BlockWeights::kHeadDim, n_heads, kTokens});
  }
  mica_tensor biased(const char* name, mica_tensor x, bool bias) {
    const mica_tensor y = linear(name, x);
    return bias ? mica_add(g, y, weight((std::string(name) + "_bias").c_str())) : y;
  }
  mica_kv kv(uint32_t layer) { return mica_graph_kv(g, cache_, layer, n_tokens); }
  // Attention's result as a stream, before the projection.
  mica_tensor attend(uint32_t layer, mica_tensor q) {
    const mica_kv c = kv(layer);
    return reshape(g, mica_attention(g, q, &c, nullptr), {BlockWeights::kEmbd, kTokens});
  }
  mica_graph* g;
  mica_extent n_tokens;

 private:
  mica_weights* w_;
  mica_kv_cache* cache_;
};

class RandomBlocks {
 public:
  static constexpr uint32_t kLayers = 3;
  RandomBlocks(mica_graph* g, mica_weights* w, mica_kv_cache* cache, uint64_t seed)
      : b_(g, w, cache), rng_(seed) {}

  void build() {
    for (const char* name : {"x0", "x1"})
      streams_.push_back({input(b_.g, name, {BlockWeights::kEmbd, Blocks::kTokens}, b_.n_tokens)});
    state_ = input(b_.g, "state", {BlockWeights::kEmbd, Blocks::kTokens});
    const int64_t n_ids = 3;
    ids_ = mica_input(b_.g, "ids", MICA_I32, 1, &n_ids, {});
    rows_ = input(b_.g, "rows", {BlockWeights::kEmbd, n_ids});
    const int n = pick(3, 14);
    for (int i = 0; i < n; ++i) step();
    output({b_.norm(streams_.back().t)});
    for (int i = 0; i < 3; ++i) output(any());
  }
  // Names of outputs, each kEmbd * kTokens numbers.
  const std::vector<std::string>& outputs() const { return outputs_; }

 private:
  struct Stream {
    mica_tensor t;
    bool of_state = false;
  };
  int pick(int a, int b) { return std::uniform_int_distribution<int>(a, b)(rng_); }
  bool coin() { return pick(0, 1) == 0; }
  bool rarely() { return pick(0, 5) == 0; }
  Stream any() {
    return streams_[static_cast<size_t>(pick(0, static_cast<int>(streams_.size()) - 1))];
  }
  Stream recent() { return coin() ? streams_.back() : any(); }
  void push(mica_tensor t, bool of_state = false) {
    streams_.push_back({t, of_state});
    if (rarely()) output(streams_.back());
    if (rarely()) write_state();
  }
  void output(const Stream& s) {
    for (const uint32_t known : named_)
      if (known == s.t.index) return;
    if (s.t.index <= ids_.index) return;  // an input
    named_.push_back(s.t.index);
    outputs_.push_back("y" + std::to_string(outputs_.size()));
    mica_output(b_.g, s.t, outputs_.back().c_str());
  }
  void write_state() { state_ = mica_set_rows(b_.g, state_, rows_, ids_); }

  void step() {
    const Stream x = recent();
    switch (pick(0, 7)) {
      case 0:
        return push(b_.norm(x.t), x.of_state);
      case 1:
        return push(b_.linear(coin() ? "q" : "o", rarely() ? x.t : b_.norm(x.t)), x.of_state);
      case 2:
      case 3:
        return attention(x);
      case 4:
        return gated(x);
      case 5: {
        const Stream y = like(x);
        return push(mica_add(b_.g, x.t, y.t), x.of_state);
      }
      case 6: {  // a residual around a projection
        const mica_tensor y = b_.linear("o", x.t);
        if (rarely()) write_state();
        const Stream r = like(x);
        return push(coin() ? mica_add(b_.g, r.t, y) : mica_add(b_.g, y, r.t), x.of_state);
      }
      default:
        return streams_.push_back({state_, true});
    }
  }
  Stream like(const Stream& x) {
    for (int i = 0; i < 20; ++i)
      if (const Stream s = any(); s.of_state == x.of_state) return s;
    return x;
  }
  void gated(const Stream& x) {
    const mica_tensor h = b_.norm(x.t);
    const mica_tensor gate = b_.linear("gate", h);
    const mica_tensor up = b_.linear("up", rarely() ? b_.norm(x.t) : h);
    mica_tensor y;
    if (coin()) {
      y = coin() ? mica_swiglu(b_.g, gate, up) : mica_geglu(b_.g, gate, up);
    } else {
      const mica_tensor act = coin() ? mica_silu(b_.g, gate) : mica_relu(b_.g, gate);
      if (rarely()) push(b_.linear("down", act), x.of_state);
      y = coin() ? mica_mul(b_.g, act, up) : mica_mul(b_.g, up, act);
    }
    if (rarely()) write_state();
    const mica_tensor down = b_.linear("down", y);
    push(coin() ? mica_add(b_.g, x.t, down) : down, x.of_state);
  }
  void attention(const Stream& x) {
    if (x.of_state || layer_ == kLayers) return push(b_.norm(x.t), x.of_state);
    const mica_kv kv = b_.kv(layer_);
    const mica_tensor h = b_.norm(x.t);
    const bool bias = coin(), rope = coin(), alone = rarely();
    mica_tensor q = b_.heads(b_.biased("q", h, bias), 2);
    if (rarely()) push(b_.linear("o", h));
    mica_tensor k = b_.heads(b_.biased("k", h, bias && !rarely()), 1);
    mica_tensor v = b_.heads(b_.biased("v", h, bias), 1);
    mica_rope_params params = MICA_ROPE_PARAMS_INIT;
    if (rope != alone) q = mica_rope(b_.g, q, kv.positions, &params);
    if (rarely()) params.base = 500;
    if (rope) k = mica_rope(b_.g, k, kv.positions, &params);
    if (rarely()) push(b_.attend(layer_, q));  // of the cells before this step's
    if (rarely()) push(reshape(b_.g, q, {BlockWeights::kEmbd, Blocks::kTokens}));
    mica_kv_append(b_.g, &kv, k, v);
    const mica_tensor y = b_.linear("o", b_.attend(layer_++, q));
    push(coin() ? mica_add(b_.g, x.t, y) : y);
  }

  Blocks b_;
  std::mt19937_64 rng_;
  std::vector<Stream> streams_;
  std::vector<std::string> outputs_;
  std::vector<uint32_t> named_;
  mica_tensor state_{}, ids_{}, rows_{};
  uint32_t layer_ = 0;
};

}  // namespace mica::test
