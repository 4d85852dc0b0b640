// Reading and checking hyper-parameters.
#include "hparams.h"

#include <cmath>

namespace mica_llama {
namespace {

constexpr uint32_t kMaxWidth = 1u << 20;  // elements of an activation row
constexpr uint32_t kMaxVocab = 1u << 24;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint32_t kMaxHeadDim = 4096;
constexpr uint32_t kMaxContext = 1u << 30;

void in_range(const char* what, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return;
  fail(MICA_BAD_FILE, std::string(what) + " is " + std::to_string(value) + ", it must be " +
                          std::to_string(low) + " to " + std::to_string(high));
}

void finite_in_range(const char* what, float value, float low, float high) {
  if (std::isfinite(value) && value >= low && value <= high) return;
  fail(MICA_BAD_FILE, std::string(what) + " is " + std::to_string(value) + ", it must be " +
                          std::to_string(low) + " to " + std::to_string(high));
}

uint32_t required(const Metadata& file, const std::string& key) {
  const std::optional<uint32_t> value = file.u32(key);
  if (!value) fail(MICA_BAD_FILE, "the key " + escaped(key) + " is missing");
  return *value;
}

void read_rope(const Metadata& file, const std::string& arch, Hparams& h) {
  const std::string rope = arch + ".rope.", scaling = rope + "scaling.";
  h.n_rot = file.u32(rope + "dimension_count").value_or(h.head_dim_k);
  h.rope_base = file.f32(rope + "freq_base").value_or(10000.0f);
  h.rope_n_ctx_orig = file.u32(scaling + "original_context_length").value_or(h.n_ctx_train);
  const std::string type = file.string(scaling + "type").value_or("linear");
  if (type == "none") return;
  if (type != "linear" && type != "yarn")
    fail(MICA_UNSUPPORTED, "rope scaling of type '" + escaped(type) + "' is unknown");
  float factor = file.f32(scaling + "factor").value_or(0.0f);
  if (factor == 0.0f) factor = file.f32(rope + "scale_linear").value_or(0.0f);
  if (factor == 0.0f) factor = 1.0f;  // 0 stands for "not scaled" in older files
  finite_in_range("the rope scaling factor", factor, 1e-3f, 1e6f);
  h.rope_linear_scale = 1.0f / factor;
  if (type != "yarn") return;
  h.yarn_ext_factor = file.f32(scaling + "yarn_ext_factor").value_or(1.0f);
  h.yarn_attn_factor = file.f32(scaling + "attn_factor").value_or(1.0f) *
                       file.f32(scaling + "yarn_attn_factor").value_or(1.0f);
  h.yarn_beta_fast = file.f32(scaling + "yarn_beta_fast").value_or(32.0f);
  h.yarn_beta_slow = file.f32(scaling + "yarn_beta_slow").value_or(1.0f);
}

}  // namespace

Hparams read_hparams(const Metadata& file, const std::string& arch) {
  if (file.u32(arch + ".expert_count").value_or(0) != 0)
    fail(MICA_UNSUPPORTED, "mixtures of experts are not supported yet");
  Hparams h;
  h.n_layers = required(file, arch + ".block_count");
  h.n_embd = required(file, arch + ".embedding_length");
  h.n_ff = required(file, arch + ".feed_forward_length");
  h.n_heads = required(file, arch + ".attention.head_count");
  h.n_kv_heads = file.u32(arch + ".attention.head_count_kv").value_or(h.n_heads);
  in_range("the number of attention heads", h.n_heads, 1, kMaxWidth);
  const uint32_t head_dim = h.n_embd / h.n_heads;
  h.head_dim_k = file.u32(arch + ".attention.key_length").value_or(head_dim);
  h.head_dim_v = file.u32(arch + ".attention.value_length").value_or(head_dim);
  h.n_ctx_train = required(file, arch + ".context_length");
  h.window = file.u32(arch + ".attention.sliding_window").value_or(0);
  const std::optional<float> eps = file.f32(arch + ".attention.layer_norm_rms_epsilon");
  if (!eps) fail(MICA_BAD_FILE, "the key " + arch + ".attention.layer_norm_rms_epsilon is missing");
  h.norm_eps = *eps;
  read_rope(file, arch, h);
  return h;
}

void Hparams::scale_by_yarn(float factor) {
  if (!(factor >= 1.0f && factor <= 1000.0f))
    fail(MICA_INVALID_ARGUMENT,
         "the YaRN factor is " + std::to_string(factor) + ", it must be 0 or 1 to 1000");
  const Hparams usual;
  rope_linear_scale = 1.0f / factor;
  yarn_ext_factor = 1.0f;
  yarn_attn_factor = usual.yarn_attn_factor;
  yarn_beta_fast = usual.yarn_beta_fast;
  yarn_beta_slow = usual.yarn_beta_slow;
}

void Hparams::validate() const {
  in_range("the number of layers", n_layers, 1, kMaxLayers);
  in_range("the embedding length", n_embd, 1, kMaxWidth);
  in_range("the feed-forward length", n_ff, 1, kMaxWidth);
  in_range("the number of attention heads", n_heads, 1, kMaxWidth);
  in_range("the number of kv heads", n_kv_heads, 1, n_heads);
  if (n_heads % n_kv_heads != 0)
    fail(MICA_BAD_FILE, std::to_string(n_heads) + " attention heads are not a multiple of " +
                            std::to_string(n_kv_heads) + " kv heads");
  in_range("the length of a key head", head_dim_k, 1, kMaxHeadDim);
  in_range("the length of a value head", head_dim_v, 1, kMaxHeadDim);
  in_range("the width of the queries", q_width(), 1, kMaxWidth);
  in_range("the width of the attention output", out_width(), 1, kMaxWidth);
  in_range("the size of the vocabulary", n_vocab, 1, kMaxVocab);
  in_range("the context length", n_ctx_train, 1, kMaxContext);
  in_range("the sliding window", window, 0, kMaxContext);
  finite_in_range("epsilon of the norms", norm_eps, 0.0f, 1.0f);
  in_range("the number of rotated dimensions", n_rot, 2, head_dim_k);
  if (n_rot % 2 != 0) fail(MICA_BAD_FILE, "the number of rotated dimensions is odd");
  finite_in_range("the rope base", rope_base, 1.0f, 1e12f);
  finite_in_range("the rope scale", rope_linear_scale, 1e-6f, 1e3f);
  finite_in_range("the YaRN extrapolation factor", yarn_ext_factor, 0.0f, 1.0f);
  finite_in_range("the YaRN attention factor", yarn_attn_factor, 1e-3f, 1e3f);
  finite_in_range("the YaRN fast beta", yarn_beta_fast, 1e-3f, 1e6f);
  finite_in_range("the YaRN slow beta", yarn_beta_slow, 1e-3f, 1e6f);
  in_range("the original context length", rope_n_ctx_orig, 1, kMaxContext);
}

}  // namespace mica_llama
