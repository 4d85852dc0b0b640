// SentencePiece-style BPE (Llama 1 and 2, Mistral): characters merged by score, byte fallback.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "token_index.h"

namespace mica_llama {

class Spm {
 public:
  // What a space is in token texts: U+2581.
  static constexpr std::string_view kSpace = "\xE2\x96\x81";

  // `scores` (one a token, or empty: all 0) and `index` must outlive it. `unk`: what a character
  // becomes that has neither a token nor byte tokens, -1: nothing.
  Spm(const std::vector<float>& scores, const TokenIndex& index, int32_t unk);

  // Whether all 256 byte tokens <0x00> … <0xFF> are there.
  bool has_all_bytes() const;

  // Appends the ids of a plain text, any bytes; `prefix`: with a space before it.
  void encode(std::string_view text, bool prefix, std::vector<int32_t>& ids) const;

  // The bytes that a normal token's text stands for.
  static std::string to_bytes(std::string_view token_text);

  // The byte of a text <0xHH> (two upper-case hexadecimal digits), -1 for any other text.
  static int byte_of(std::string_view token_text);

 private:
  void append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const;

  const std::vector<float>* scores_;
  const TokenIndex* index_;
  int32_t unk_;
  std::array<int32_t, 256> byte_ids_ = {};  // -1: none
};

}  // namespace mica_llama
