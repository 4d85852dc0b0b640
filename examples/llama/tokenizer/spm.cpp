// SentencePiece-style BPE: the pair whose token has the highest score merges first.
#include "spm.h"

#include <algorithm>
#include <optional>

#include "merge.h"
#include "utf8.h"

namespace mica_llama {

Spm::Spm(const std::vector<float>& scores, const TokenIndex& index, int32_t unk)
    : scores_(&scores), index_(&index), unk_(unk) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = index.find(std::string("<0x") + kHex[byte >> 4] + kHex[byte & 15] + '>');
  }
}

bool Spm::has_all_bytes() const {
  return std::all_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t id) { return id >= 0; });
}

void Spm::encode(std::string_view text, bool prefix, std::vector<int32_t>& ids) const {
  std::string marked(prefix ? kSpace : std::string_view());
  marked.reserve(marked.size() + text.size());
  for (const char byte : text) {
    if (byte == ' ')
      marked += kSpace;
    else
      marked += byte;
  }
  const std::string_view all = marked;
  std::vector<Symbol> symbols;
  for (size_t begin = 0; begin < all.size();) {
    // A sequence that is not UTF-8 is no character: its bytes stand alone.
    const Utf8Step step = utf8_step(all.substr(begin));
    const size_t n_bytes = step.kind == Utf8Kind::kValid ? step.n_bytes : 1;
    append_symbol(symbols, begin, n_bytes, index_->find(all.substr(begin, n_bytes)));
    begin += n_bytes;
  }
  merge_symbols(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Merged> {
    const int32_t id = index_->find(all.substr(left.begin, left.n_bytes + right.n_bytes));
    if (id < 0) return std::nullopt;
    const double score = scores_->empty() ? 0.0 : (*scores_)[static_cast<size_t>(id)];
    return Merged{-score, id};
  });
  for (const Symbol& symbol : symbols) {
    if (symbol.n_bytes == 0) continue;
    if (symbol.id >= 0)
      ids.push_back(symbol.id);
    else
      append_bytes(all.substr(symbol.begin, symbol.n_bytes), ids);
  }
}

void Spm::append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const {
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (std::any_of(bytes.begin(), bytes.end(), [&](char byte) { return id_of(byte) < 0; })) {
    if (unk_ >= 0) ids.push_back(unk_);
    return;
  }
  for (const char byte : bytes) ids.push_back(id_of(byte));
}

std::string Spm::to_bytes(std::string_view token_text) {
  std::string bytes;
  size_t done = 0, at = 0;
  while ((at = token_text.find(kSpace, done)) != token_text.npos) {
    bytes.append(token_text.substr(done, at - done)).append(" ");
    done = at + kSpace.size();
  }
  return bytes.append(token_text.substr(done));
}

int Spm::byte_of(std::string_view token_text) {
  if (token_text.size() != 6 || !token_text.starts_with("<0x") || token_text[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  const int high = digit(token_text[3]), low = digit(token_text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace mica_llama
