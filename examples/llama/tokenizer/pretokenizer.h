// Cuts text into the words that byte-level BPE merges within, by the model's regular expressions.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mica_llama {

class PreTokenizer {
 public:
  // `name` is GGUF's `tokenizer.ggml.pre`; "" means "default". nullptr and one sentence for an
  // unknown name.
  static std::unique_ptr<PreTokenizer> create(std::string_view name, std::string& error);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Appends the words of `text`, which must be valid UTF-8, to `words`: views into `text`, in
  // order, none empty, that together are all of it. Thread-safe.
  void split(std::string_view text, std::vector<std::string_view>& words) const;

  // A word that is a token is that token, whatever the merges say (Llama 3).
  bool ignores_merges() const;
  // Whether the family begins a text with bos when the file does not say.
  bool adds_bos() const;

 private:
  PreTokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mica_llama
