// What tells one model from another, for saved sequences.
#include "fingerprint.h"

#include <algorithm>
#include <cstring>

namespace mica_llama {
namespace {

uint64_t hash_text(const char* text, uint64_t h) { return hash(text, std::strlen(text) + 1, h); }

uint64_t hash_hparams(const Hparams& p, uint64_t h) {
  const uint32_t numbers[] = {p.n_layers,   p.n_embd,     p.n_ff,           p.n_heads,
                              p.n_kv_heads, p.head_dim_k, p.head_dim_v,     p.n_vocab,
                              p.window,     p.n_rot,      p.rope_n_ctx_orig};
  const float factors[] = {p.norm_eps,        p.rope_base,        p.rope_linear_scale,
                           p.yarn_ext_factor, p.yarn_attn_factor, p.yarn_beta_fast,
                           p.yarn_beta_slow};
  return hash(factors, sizeof factors, hash(numbers, sizeof numbers, h));
}

uint64_t hash_vocabulary(mica_gguf* file, uint64_t h) {
  const char* name = nullptr;
  for (uint64_t i = 0; (name = mica_gguf_key_at(file, i, nullptr, nullptr, nullptr)) != nullptr;
       ++i) {
    if (std::strcmp(name, "tokenizer.ggml.tokens") != 0) continue;
    size_t bytes = 0;
    const void* raw = mica_gguf_key_raw(file, i, &bytes);
    h = hash(raw, bytes, h);
  }
  return h;
}

uint64_t hash_weights(mica_gguf* file, mica_context* context, uint64_t h) {
  constexpr uint64_t kMostTensors = 64, kMostBytes = 2048;
  const uint64_t n = mica_gguf_n_tensors(file), n_taken = std::min(n, kMostTensors);
  char bytes[kMostBytes];
  for (uint64_t i = 0; i < n_taken; ++i) {
    const mica_gguf_tensor* t = mica_gguf_tensor_at(file, i * n / n_taken);
    const uint64_t n_bytes = std::min(t->bytes, kMostBytes);
    check(mica_gguf_read(file, t, (t->bytes - n_bytes) / 2, n_bytes, bytes), context);
    h = hash(bytes, n_bytes, h);
  }
  return h;
}

}  // namespace

uint64_t hash(const void* data, size_t bytes, uint64_t h) {
  const auto* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

uint64_t fingerprint_of(const ModelParts& parts, mica_gguf* file, mica_context* context) {
  uint64_t h = hash_text(parts.architecture->name, hash(nullptr, 0));
  h = hash_hparams(parts.hparams, h);
  for (const StoredTensor& t : parts.tensors) {
    const auto dtype = static_cast<uint32_t>(t.dtype);
    h = hash(&dtype, sizeof dtype, hash_text(t.name.c_str(), h));
    h = hash(t.dim.data(), t.dim.size() * sizeof t.dim[0], h);
  }
  return file == nullptr ? h : hash_weights(file, context, hash_vocabulary(file, h));
}

}  // namespace mica_llama
