// What a model file says of the network's shape, and the one check of it.
#pragma once
#include <cstdint>
#include <string>

#include "handles.h"

namespace mica_llama {

struct Hparams {
  uint32_t n_layers = 0;
  uint32_t n_embd = 0;
  uint32_t n_ff = 0;
  uint32_t n_heads = 0;
  uint32_t n_kv_heads = 0;
  uint32_t head_dim_k = 0;
  uint32_t head_dim_v = 0;
  uint32_t n_vocab = 0;
  uint32_t n_ctx_train = 0;
  uint32_t window = 0;  // sliding window of attention; 0: none
  float norm_eps = 0;
  // Rotary embedding: see mica_rope.
  uint32_t n_rot = 0;
  float rope_base = 10000.0f;
  float rope_linear_scale = 1.0f;
  float yarn_ext_factor = 0.0f;
  float yarn_attn_factor = 1.0f;
  float yarn_beta_fast = 32.0f;
  float yarn_beta_slow = 1.0f;
  uint32_t rope_n_ctx_orig = 0;

  uint64_t k_width() const { return uint64_t{n_kv_heads} * head_dim_k; }
  uint64_t v_width() const { return uint64_t{n_kv_heads} * head_dim_v; }
  uint64_t q_width() const { return uint64_t{n_heads} * head_dim_k; }
  uint64_t out_width() const { return uint64_t{n_heads} * head_dim_v; }

  // YaRN's usual parameters and this factor in place of what the file says. Fails with
  // INVALID_ARGUMENT unless it is 1 to 1000.
  void scale_by_yarn(float factor);
  // Fails with BAD_FILE unless every number is in its range and they fit together. Nothing may be
  // computed from the others before.
  void validate() const;
};

// Reads the keys that decoder-only architectures share, "<arch>.block_count" and so on; defaults
// where GGUF has them. Not validated, n_vocab not set.
Hparams read_hparams(const Metadata& file, const std::string& arch);

}  // namespace mica_llama
