// Byte-level BPE (GPT-2 and its descendants): words of bytes, merged by rank.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "merge.h"
#include "pretokenizer.h"
#include "token_index.h"

namespace mica_llama {

class Bpe {
 public:
  // `index` must outlive it. nullptr and one sentence for a merge that is not two parts or an
  // unknown pre-tokenizer.
  static std::unique_ptr<Bpe> create(const std::vector<std::string>& merges, std::string_view pre,
                                     const TokenIndex& index, std::string& error);

  // Appends the ids of a plain text, any bytes. A byte that has no token is left out.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

  // The bytes that a token's text stands for; what is no byte's character stays as it is.
  static std::string to_bytes(std::string_view token_text);

  bool adds_bos() const { return pre_->adds_bos(); }

 private:
  struct Rule {
    int32_t rank;  // the lowest merges first
    int32_t id;    // of the symbol that it makes
  };

  explicit Bpe(const TokenIndex& index) : index_(&index) {}
  bool add_merges(const std::vector<std::string>& merges, std::string& error);
  int32_t intern(std::string_view text);
  void encode_word(std::string_view word, std::vector<Symbol>& symbols,
                   std::vector<int32_t>& ids) const;

  const TokenIndex* index_;
  std::unique_ptr<PreTokenizer> pre_;
  // A symbol is a token's id, or kFirstOther and up for a text that merges name and the
  // vocabulary lacks.
  static constexpr int32_t kFirstOther = 1 << 30;
  std::unordered_map<std::string, int32_t> others_;
  std::unordered_map<uint64_t, Rule> rules_;  // by the ids of the left and the right symbol
  std::array<int32_t, 256> byte_symbols_ = {};
};

}  // namespace mica_llama
