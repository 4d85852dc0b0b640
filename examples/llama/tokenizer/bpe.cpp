// Byte-level BPE: the byte alphabet of GPT-2, merge rules by symbol ids, words by pre-tokenizer.
#include "bpe.h"

#include <optional>

#include "utf8.h"

namespace mica_llama {
namespace {

// GPT-2 writes each byte as one printable character: those of Latin-1 that print stand for
// themselves, the other bytes get U+0100, U+0101, … in order.
constexpr bool prints(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet = {};
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) alphabet[byte] = prints(byte) ? byte : next++;
  return alphabet;
}

constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();
constexpr char32_t kAlphabetEnd = 0x144;  // the last of the 68 others is U+0143
static_assert(kAlphabet[0xAD] == kAlphabetEnd - 1 && kAlphabet[' '] == 0x120);

// The byte of each character below kAlphabetEnd, -1: none.
constexpr std::array<int16_t, kAlphabetEnd> make_byte_of() {
  std::array<int16_t, kAlphabetEnd> byte_of = {};
  for (auto& byte : byte_of) byte = -1;
  for (unsigned byte = 0; byte < 256; ++byte) byte_of[kAlphabet[byte]] = static_cast<int16_t>(byte);
  return byte_of;
}

constexpr std::array<int16_t, kAlphabetEnd> kByteOf = make_byte_of();

std::string to_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += utf8_encode(kAlphabet[static_cast<unsigned char>(byte)]);
  return text;
}

}  // namespace

void Bpe::Rules::reserve(size_t n) {
  size_t size = 16;
  while (n * 4 > size * 3) size *= 2;
  slots_.assign(size, -1);
  rules_.reserve(n);
}

size_t Bpe::Rules::slot_of(int32_t left, int32_t right) const {
  const uint64_t pair =
      uint64_t{static_cast<uint32_t>(left)} << 32 | uint64_t{static_cast<uint32_t>(right)};
  const size_t mask = slots_.size() - 1;
  size_t at = static_cast<size_t>(hash_mix(pair ^ seed_, 0x9e3779b97f4a7c15u ^ seed_)) & mask;
  for (; slots_[at] >= 0; at = (at + 1) & mask) {
    const Rule& rule = rules_[static_cast<size_t>(slots_[at])];
    if (rule.left == left && rule.right == right) break;
  }
  return at;
}

void Bpe::Rules::add(const Rule& rule) {
  int32_t& slot = slots_[slot_of(rule.left, rule.right)];
  if (slot >= 0) return;
  slot = static_cast<int32_t>(rules_.size());
  rules_.push_back(rule);
}

std::unique_ptr<Bpe> Bpe::create(const TextList& merges, std::string_view pre,
                                 const TokenIndex& index, std::string& error) {
  std::unique_ptr<Bpe> bpe(new Bpe(index));
  bpe->pre_ = PreTokenizer::create(pre, error);
  if (!bpe->pre_) return nullptr;
  for (unsigned byte = 0; byte < 256; ++byte) {
    bpe->byte_symbols_[byte] = bpe->intern(utf8_encode(kAlphabet[byte]));
  }
  if (!bpe->add_merges(merges, error)) return nullptr;
  return bpe;
}

bool Bpe::add_merges(const TextList& merges, std::string& error) {
  rules_.reserve(merges.size());
  std::string both;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    // The alphabet has no space, so the one between the parts is the first.
    const size_t space = merge.find(' ', 1);
    if (space == merge.npos || space + 1 == merge.size()) {
      error = "merge " + std::to_string(i) + " '" + utf8_excerpt(merge) +
              "' is not two parts with a space";
      return false;
    }
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    both.assign(left).append(right);
    const int32_t left_id = intern(left), right_id = intern(right);
    rules_.add({left_id, right_id, intern(both)});  // a repeat is ignored
    if (others_.size() > kMaxOthers) {
      error = "the merges name more than " + std::to_string(kMaxOthers) +
              " texts that are no tokens, up to merge " + std::to_string(i);
      return false;
    }
  }
  return true;
}

int32_t Bpe::intern(std::string_view text) {
  const int32_t id = index_->find(text);
  if (id >= 0) return id;
  int32_t other = other_index_.find(text);
  if (other < 0) {
    other = static_cast<int32_t>(others_.size());
    others_.push_back(text);
    other_index_.add(other);
  }
  return kFirstOther + other;
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t n_valid = utf8_run(text, true);
    pre_->split(text.substr(0, n_valid), words);
    text.remove_prefix(n_valid);
    // What is not UTF-8 has no character classes: each such run is one word.
    const size_t n_invalid = utf8_run(text, false);
    if (n_invalid > 0) words.push_back(text.substr(0, n_invalid));
    text.remove_prefix(n_invalid);
  }
  std::vector<Symbol> symbols;
  for (const std::string_view word : words) encode_word(word, symbols, ids);
}

void Bpe::encode_word(std::string_view word, std::vector<Symbol>& symbols,
                      std::vector<int32_t>& ids) const {
  if (pre_->ignores_merges()) {
    const int32_t whole = index_->find(to_alphabet(word));
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  symbols.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    append_symbol(symbols, i, 1, byte_symbols_[static_cast<unsigned char>(word[i])]);
  }
  merge_symbols(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Merged> {
    const int32_t rank = rules_.rank(left.id, right.id);
    if (rank < 0) return std::nullopt;
    return Merged{static_cast<double>(rank), rules_[rank].id};
  });
  for (const Symbol& symbol : symbols) {
    if (symbol.n_bytes == 0) continue;
    if (symbol.id < kFirstOther) {
      ids.push_back(symbol.id);
      continue;
    }
    for (const char byte : word.substr(symbol.begin, symbol.n_bytes)) {
      const int32_t id = byte_symbols_[static_cast<unsigned char>(byte)];
      if (id < kFirstOther) ids.push_back(id);
    }
  }
}

std::string Bpe::to_bytes(std::string_view token_text) {
  std::string bytes;
  while (!token_text.empty()) {
    const Utf8Step step = utf8_step(token_text);
    const std::string_view character = token_text.substr(0, step.n_bytes);
    token_text.remove_prefix(step.n_bytes);
    const unsigned lead = static_cast<unsigned char>(character[0]);
    char32_t code_point = kAlphabetEnd;
    if (step.kind == Utf8Kind::kValid && step.n_bytes == 1) code_point = lead;
    if (step.kind == Utf8Kind::kValid && step.n_bytes == 2) {
      code_point = (lead & 0x1F) << 6 | (static_cast<unsigned char>(character[1]) & 0x3F);
    }
    if (code_point < kAlphabetEnd && kByteOf[code_point] >= 0) {
      bytes += static_cast<char>(kByteOf[code_point]);
    } else {
      bytes += character;
    }
  }
  return bytes;
}

}  // namespace mica_llama
