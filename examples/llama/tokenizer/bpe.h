// Byte-level BPE (GPT-2 and its descendants): words of bytes, merged by rank.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "merge.h"
#include "pretokenizer.h"
#include "text_list.h"
#include "token_index.h"

namespace mica_llama {

class Bpe {
 public:
  // `index` must outlive it. nullptr and one sentence for a merge that is not two parts or an
  // unknown pre-tokenizer.
  // Merges may name up to kMaxOthers texts that are no tokens.
  static std::unique_ptr<Bpe> create(const TextList& merges, std::string_view pre,
                                     const TokenIndex& index, std::string& error);

  // Appends the ids of a plain text, any bytes. A byte that has no token is left out.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

  // The bytes that a token's text stands for; what is no byte's character stays as it is.
  static std::string to_bytes(std::string_view token_text);

  bool adds_bos() const { return pre_->adds_bos(); }

 private:
  // The rules in order, the best first, and where to find the one of a pair.
  class Rules {
   public:
    struct Rule {
      int32_t left, right;
      int32_t id;  // of the symbol that the two become
    };
    Rules() : seed_(hash_seed()) {}
    void reserve(size_t n);
    // A pair that has a rule keeps it.
    void add(const Rule& rule);
    // -1 when there is none.
    int32_t rank(int32_t left, int32_t right) const { return slots_[slot_of(left, right)]; }
    const Rule& operator[](int32_t rank) const { return rules_[static_cast<size_t>(rank)]; }

   private:
    size_t slot_of(int32_t left, int32_t right) const;

    uint64_t seed_;
    std::vector<Rule> rules_;
    std::vector<int32_t> slots_;  // a power of two of ranks, a quarter free at least; -1: free
  };

  explicit Bpe(const TokenIndex& index) : index_(&index), other_index_(others_) {}
  bool add_merges(const TextList& merges, std::string& error);
  int32_t intern(std::string_view text);
  void encode_word(std::string_view word, std::vector<Symbol>& symbols,
                   std::vector<int32_t>& ids) const;

  const TokenIndex* index_;
  std::unique_ptr<PreTokenizer> pre_;
  // A symbol is a token's id, or kFirstOther and up for a text that merges name and the
  // vocabulary lacks.
  static constexpr int32_t kFirstOther = 1 << 30;
  static constexpr size_t kMaxOthers = size_t{1} << 20;
  TextList others_;
  TokenIndex other_index_;
  Rules rules_;
  std::array<int32_t, 256> byte_symbols_ = {};
};

}  // namespace mica_llama
