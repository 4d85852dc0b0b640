// Text to token ids and back: SentencePiece-style BPE ("llama") and byte-level BPE ("gpt2").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text_list.h"

namespace mica_llama {

// The values of GGUF's `tokenizer.ggml.token_type`; any other value counts as kUndefined.
enum class TokenType : int32_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// What a model file says of its tokenizer, as it stands there (GGUF keys `tokenizer.ggml.*`).
struct Vocab {
  std::string model;           // "llama" or "gpt2"
  std::string pre;             // pre-tokenizer of "gpt2" ("" is "default"); "llama" has none
  TextList tokens;             // an id is an index
  std::vector<float> scores;   // one a token, or empty; needed by "llama"
  std::vector<int32_t> types;  // TokenType, one a token, or empty: all normal
  TextList merges;             // "left right", first is best; needed by "gpt2"
  // -1: not given; "llama" then looks at the places where SentencePiece puts unk, bos and eos: 0, 1
  // and 2, and takes those that are of unknown or control type.
  int32_t bos = -1, eos = -1, eot = -1, eom = -1, unk = -1, pad = -1;
  std::optional<bool> add_bos, add_eos, add_space_prefix;  // unset: the model kind's default
};

// Immutable once created: every member may be called by several threads at once. Members may throw
// std::bad_alloc, nothing else.
class Tokenizer {
 public:
  // nullptr, and one sentence in `error`, for a vocabulary that cannot work: an unknown model or
  // pre-tokenizer, no tokens, arrays of different sizes, a special id out of range (pad, which
  // nothing here uses, may be), a score that is not a number, a merge without two parts, a byte
  // token whose text is not <0xHH>, a special token of more than SpecialTokens::kMaxBytes, merges
  // of too many texts that are no tokens, "llama" with neither all byte tokens nor an unknown
  // token. Of tokens with equal text the lowest id is the one that text becomes.
  static std::unique_ptr<Tokenizer> create(Vocab vocab, std::string& error);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `add_special`: with the bos and eos tokens that the model wants. `parse_special`: the text of a
  // control or unknown token is that token, otherwise it is plain text (user-defined tokens are
  // always found). Where tokens inside the text overlap, the longest wins. Any bytes are allowed;
  // those that are not UTF-8 become byte tokens. A byte that a "gpt2" vocabulary lacks is left out.
  std::vector<int32_t> encode(std::string_view text, bool add_special, bool parse_special) const;

  // The bytes of one token: maybe a part of a character (see Utf8Stream). "" for an invalid id,
  // an unused token and, unless `render_special`, control and unknown tokens.
  std::string piece(int32_t id, bool render_special) const;

  // The pieces in order; without the one space that encode() put at the start of the text.
  std::string decode(std::span<const int32_t> ids, bool render_special) const;

  // Whether generation ends with this token: eos, eot, eom, or a known text such as <|im_end|>.
  bool is_end(int32_t id) const;

  // The id of exactly this token text as it stands in the vocabulary, or -1.
  int32_t find(std::string_view token_text) const;

  int32_t n_vocab() const;
  int32_t bos() const;  // -1: none
  int32_t eos() const;  // -1: none
  bool adds_bos() const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mica_llama
