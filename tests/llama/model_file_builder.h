// Small model files, sound and hostile ones.
#pragma once
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/unit/gguf/gguf_builder.h"

namespace mica_llama_test {

// A model of architecture llama with few layers and a SentencePiece-style vocabulary.
struct ModelFile {
  uint64_t n_embd = 32, n_ff = 32, n_vocab = 8;
  uint32_t window = 0, n_layers = 1, seed = 1;
  uint32_t embedding_type = MICA_F32;
  float output_norm = 1.0f;  // each weight of the last norm
  uint32_t rotated = 16;     // llama.rope.dimension_count
  std::string tokenizer = "llama";
  std::vector<std::string> more_keys;  // as gguf_builder.h makes them
  // Of the vocabulary; by itself made-up words of type normal behind <unk>, <s> and </s>.
  std::vector<std::string> tokens;
  std::string types;  // an array key's whole record; "" makes the usual one

  std::string bytes() const {
    gguf_test::File f;
    f.keys = hyper_parameters();
    for (const std::string& key : vocabulary()) f.keys.push_back(key);
    for (const std::string& key : more_keys) f.keys.push_back(key);
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-0.3f, 0.3f);
    const auto add = [&](const std::string& name, const std::vector<uint64_t>& dim, float fixed) {
      uint64_t n = 1;
      for (const uint64_t d : dim) n *= d;
      const bool is_embedding = name == "token_embd.weight";
      f.tensors.push_back(gguf_test::tensor(
          name, dim, is_embedding ? static_cast<uint32_t>(embedding_type) : uint32_t{MICA_F32},
          f.data.size()));
      for (uint64_t i = 0; i < n; ++i) {
        const float value = fixed != 0 ? fixed : uniform(random);
        f.data.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
      f.data.resize((f.data.size() + 31) / 32 * 32);
    };
    add("token_embd.weight", {n_embd, n_vocab}, 0);
    add("output_norm.weight", {n_embd}, output_norm);
    for (uint32_t i = 0; i < n_layers; ++i) {
      const std::string blk = "blk." + std::to_string(i) + ".";
      for (const char* norm : {"attn_norm", "ffn_norm"}) add(blk + norm + ".weight", {n_embd}, 1);
      for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
        add(blk + name + ".weight", {n_embd, n_embd}, 0);
      for (const char* name : {"ffn_gate", "ffn_up"})
        add(blk + name + ".weight", {n_embd, n_ff}, 0);
      add(blk + "ffn_down.weight", {n_ff, n_embd}, 0);
    }
    return f.bytes();
  }

 private:
  std::vector<std::string> hyper_parameters() const {
    using gguf_test::key;
    std::vector<std::string> keys = {gguf_test::string_key("general.architecture", "llama")};
    const auto add = [&](const char* name, uint64_t value) {
      keys.push_back(
          key<uint32_t>(std::string("llama.") + name, MICA_GGUF_U32, static_cast<uint32_t>(value)));
    };
    add("block_count", n_layers);
    add("context_length", 4096);
    add("embedding_length", n_embd);
    add("feed_forward_length", n_ff);
    add("attention.head_count", n_embd / 16);
    add("rope.dimension_count", rotated);
    if (window != 0) add("attention.sliding_window", window);
    keys.push_back(key<float>("llama.attention.layer_norm_rms_epsilon", MICA_GGUF_F32, 1e-5f));
    return keys;
  }

  std::vector<std::string> vocabulary() const {
    std::vector<std::string> texts = tokens;
    if (texts.empty()) texts = {"<unk>", "<s>", "</s>"};
    while (texts.size() < n_vocab) texts.push_back("w" + std::to_string(texts.size()));
    std::vector<int32_t> kinds(texts.size(), 1);
    kinds[0] = 2;
    for (size_t i = 1; i < kinds.size() && i < 3; ++i) kinds[i] = 3;
    return {gguf_test::string_key("tokenizer.ggml.model", tokenizer),
            gguf_test::array_key("tokenizer.ggml.tokens", MICA_GGUF_STRING, texts.size(),
                                 gguf_test::strings(texts)),
            !types.empty() ? types
                           : gguf_test::array_key("tokenizer.ggml.token_type", MICA_GGUF_I32,
                                                  kinds.size(), gguf_test::numbers(kinds))};
  }
};

}  // namespace mica_llama_test
