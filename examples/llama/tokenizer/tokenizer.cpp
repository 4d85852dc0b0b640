// The tokenizer: checks a vocabulary, routes text to its kind of BPE, renders tokens.
#include "tokenizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bpe.h"
#include "special_tokens.h"
#include "spm.h"
#include "token_index.h"
#include "utf8.h"

namespace mica_llama {
namespace {

// Texts that end a generation in the families that use them. Some converters leave such a token
// without its control type: as in llama.cpp, it is a control token in any vocabulary that has it.
constexpr std::string_view kEndTexts[] = {
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|return|>",
    "<|call|>",
    "<end_of_utterance>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek
};

bool is_special(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUnknown;
}

std::string size_error(const char* name, size_t n, size_t n_tokens) {
  return std::string(name) + " has " + std::to_string(n) + " entries, tokens has " +
         std::to_string(n_tokens);
}

}  // namespace

struct Tokenizer::Impl {
  Vocab vocab;
  TokenIndex index;  // views the texts of vocab.tokens
  std::vector<TokenType> types;
  std::vector<bool> ends;
  SpecialTokens specials;
  std::unique_ptr<Bpe> bpe;  // one of the two
  std::unique_ptr<Spm> spm;
  bool add_bos = false, add_eos = false, add_space_prefix = false;

  bool check_sizes(std::string& error) const;
  bool check_ids(std::string& error) const;
  bool set_types(std::string& error);
  void set_spm_ids();
  void find_ends();
  bool set_spm(std::string& error);
  bool set_bpe(std::string& error);
  bool set_specials(std::string& error);
  bool build(std::string& error);

  bool valid(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < vocab.tokens.size(); }
  TokenType type(int32_t id) const { return types[static_cast<size_t>(id)]; }
  std::string_view text(int32_t id) const { return vocab.tokens[static_cast<size_t>(id)]; }
  void append_piece(int32_t id, bool render_special, std::string& bytes) const;
};

bool Tokenizer::Impl::check_sizes(std::string& error) const {
  const size_t n_tokens = vocab.tokens.size();
  if (vocab.model != "llama" && vocab.model != "gpt2") {
    error = "unknown tokenizer model '" + utf8_excerpt(vocab.model) + "', known are llama and gpt2";
  } else if (n_tokens == 0) {
    error = "the vocabulary has no tokens";
  } else if (n_tokens > (1u << 30) || vocab.merges.size() > (1u << 28)) {
    error = "the vocabulary is too large: " + std::to_string(n_tokens) + " tokens, " +
            std::to_string(vocab.merges.size()) + " merges";
  } else if (!vocab.scores.empty() && vocab.scores.size() != n_tokens) {
    error = size_error("scores", vocab.scores.size(), n_tokens);
  } else if (!vocab.types.empty() && vocab.types.size() != n_tokens) {
    error = size_error("token_type", vocab.types.size(), n_tokens);
  }
  return error.empty();
}

bool Tokenizer::Impl::check_ids(std::string& error) const {
  const std::pair<const char*, int32_t> ids[] = {{"bos", vocab.bos},
                                                 {"eos", vocab.eos},
                                                 {"eot", vocab.eot},
                                                 {"eom", vocab.eom},
                                                 {"unk", vocab.unk}};
  for (const auto& [name, id] : ids) {
    if (id == -1 || valid(id)) continue;
    error = std::string(name) + " is token " + std::to_string(id) + ", the vocabulary has " +
            std::to_string(vocab.tokens.size());
    return false;
  }
  return true;
}

bool Tokenizer::Impl::set_types(std::string& error) {
  const bool is_spm = vocab.model == "llama";
  types.assign(vocab.tokens.size(), TokenType::kNormal);
  for (size_t i = 0; i < types.size(); ++i) {
    const bool is_byte = Spm::byte_of(vocab.tokens[i]) >= 0;
    if (vocab.types.empty()) {
      if (is_spm && is_byte) types[i] = TokenType::kByte;
      continue;
    }
    const int32_t type = vocab.types[i];
    types[i] = type >= 0 && type <= 6 ? static_cast<TokenType>(type) : TokenType::kUndefined;
    if (types[i] == TokenType::kByte && !is_byte) {
      error = "token " + std::to_string(i) + " is a byte, but its text '" +
              utf8_excerpt(vocab.tokens[i]) + "' is not <0xHH>";
      return false;
    }
  }
  std::vector<int32_t>().swap(vocab.types);
  return true;
}

void Tokenizer::Impl::set_spm_ids() {
  const auto place = [&](int32_t& id, int32_t at, TokenType expected) {
    if (id == -1 && valid(at) && type(at) == expected) id = at;
  };
  place(vocab.unk, 0, TokenType::kUnknown);
  place(vocab.bos, 1, TokenType::kControl);
  place(vocab.eos, 2, TokenType::kControl);
}

void Tokenizer::Impl::find_ends() {
  ends.assign(vocab.tokens.size(), false);
  for (const std::string_view text : kEndTexts) {
    const int32_t id = index.find(text);
    if (id < 0) continue;
    types[static_cast<size_t>(id)] = TokenType::kControl;
    ends[static_cast<size_t>(id)] = true;
  }
  // Harmony ends with <|return|> or <|call|>; its <|end|> only closes one of several messages.
  const int32_t end = index.find("<|end|>");
  if (end >= 0 && index.find("<|return|>") >= 0 && index.find("<|call|>") >= 0) {
    types[static_cast<size_t>(end)] = TokenType::kUserDefined;
    ends[static_cast<size_t>(end)] = false;
  }
  for (const int32_t id : {vocab.eos, vocab.eot, vocab.eom}) {
    if (id >= 0) ends[static_cast<size_t>(id)] = true;
  }
}

bool Tokenizer::Impl::set_spm(std::string& error) {
  for (size_t i = 0; i < vocab.scores.size(); ++i) {
    if (!std::isnan(vocab.scores[i])) continue;
    error = "the score of token " + std::to_string(i) + " is not a number";
    return false;
  }
  spm = std::make_unique<Spm>(vocab.scores, index, vocab.unk);
  if (!spm->has_all_bytes() && vocab.unk < 0) {
    error = "the vocabulary has neither all byte tokens <0x00> to <0xFF> nor an unknown token";
    return false;
  }
  add_bos = vocab.add_bos.value_or(true);
  add_space_prefix = vocab.add_space_prefix.value_or(true);
  return true;
}

bool Tokenizer::Impl::set_bpe(std::string& error) {
  bpe = Bpe::create(vocab.merges, vocab.pre, index, error);
  if (!bpe) return false;
  vocab.merges = TextList();
  add_bos = vocab.add_bos.value_or(bpe->adds_bos());
  return true;
}

bool Tokenizer::Impl::build(std::string& error) {
  if (!check_sizes(error) || !check_ids(error) || !set_types(error)) return false;
  index = TokenIndex(vocab.tokens);
  const bool is_spm = vocab.model == "llama";
  if (is_spm) set_spm_ids();
  if (!(is_spm ? set_spm(error) : set_bpe(error))) return false;
  add_bos = add_bos && vocab.bos >= 0;
  add_eos = vocab.add_eos.value_or(false) && vocab.eos >= 0;
  find_ends();
  return set_specials(error);
}

bool Tokenizer::Impl::set_specials(std::string& error) {
  for (size_t i = 0; i < types.size(); ++i) {
    const bool always = types[i] == TokenType::kUserDefined;
    if (!always && !is_special(types[i])) continue;
    const std::string_view text = vocab.tokens[i];
    if (text.size() > SpecialTokens::kMaxBytes) {
      error = "token " + std::to_string(i) + " '" + utf8_excerpt(text) +
              "' is a special one and its text has " + std::to_string(text.size()) +
              " bytes, more than " + std::to_string(SpecialTokens::kMaxBytes);
      return false;
    }
    specials.add(text, static_cast<int32_t>(i), always);
  }
  specials.finish();
  return true;
}

void Tokenizer::Impl::append_piece(int32_t id, bool render_special, std::string& bytes) const {
  if (!valid(id)) return;
  switch (type(id)) {
    case TokenType::kUnknown:
    case TokenType::kControl:
      if (render_special) bytes += text(id);
      break;
    case TokenType::kUserDefined:
      bytes += text(id);
      break;
    case TokenType::kUnused:
      break;
    case TokenType::kByte:
      bytes += static_cast<char>(Spm::byte_of(text(id)));
      break;
    case TokenType::kUndefined:
    case TokenType::kNormal:
      bytes += spm ? Spm::to_bytes(text(id)) : Bpe::to_bytes(text(id));
      break;
  }
}

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::create(Vocab vocab, std::string& error) {
  error.clear();
  std::unique_ptr<Tokenizer> made(new Tokenizer());
  made->impl_->vocab = std::move(vocab);
  if (!made->impl_->build(error)) return nullptr;
  return made;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special,
                                       bool parse_special) const {
  const Impl& impl = *impl_;
  std::vector<int32_t> ids;
  if (add_special && impl.add_bos) ids.push_back(impl.vocab.bos);
  // "llama" puts a space before the text, and again before what follows a special token.
  bool prefix = impl.add_space_prefix;
  for (const Fragment& fragment : impl.specials.partition(text, parse_special)) {
    if (fragment.id >= 0) {
      ids.push_back(fragment.id);
      prefix = impl.add_space_prefix;
      continue;
    }
    if (impl.spm)
      impl.spm->encode(fragment.text, prefix, ids);
    else
      impl.bpe->encode(fragment.text, ids);
    prefix = false;
  }
  if (add_special && impl.add_eos) ids.push_back(impl.vocab.eos);
  return ids;
}

std::string Tokenizer::piece(int32_t id, bool render_special) const {
  std::string bytes;
  impl_->append_piece(id, render_special, bytes);
  return bytes;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool render_special) const {
  const Impl& impl = *impl_;
  std::string bytes;
  bool at_start = impl.add_space_prefix;
  for (const int32_t id : ids) {
    const size_t n_before = bytes.size();
    impl.append_piece(id, render_special, bytes);
    if (!at_start || !impl.valid(id) || is_special(impl.type(id))) continue;
    if (bytes.size() > n_before && bytes[n_before] == ' ') bytes.erase(n_before, 1);
    at_start = false;
  }
  return bytes;
}

bool Tokenizer::is_end(int32_t id) const {
  return impl_->valid(id) && impl_->ends[static_cast<size_t>(id)];
}

int32_t Tokenizer::find(std::string_view token_text) const { return impl_->index.find(token_text); }
int32_t Tokenizer::n_vocab() const { return static_cast<int32_t>(impl_->vocab.tokens.size()); }
int32_t Tokenizer::bos() const { return impl_->vocab.bos; }
int32_t Tokenizer::eos() const { return impl_->vocab.eos; }
bool Tokenizer::adds_bos() const { return impl_->add_bos; }

}  // namespace mica_llama
