// Text to index, over a list of texts that outlives it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "hash.h"
#include "text_list.h"

namespace mica_llama {

// Open addressing; a slot is the index of a text: 8 to 16 bytes a text.
class TokenIndex {
 public:
  TokenIndex() = default;
  // `texts` must stay where it is. Empty texts are not found; of equal texts, the first is.
  explicit TokenIndex(const TextList& texts) : texts_(&texts), seed_(hash_seed()) {
    resize(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) insert(static_cast<int32_t>(i));
  }

  // -1 when there is no such text. Costs no more than the longest one, however long `text` is.
  int32_t find(std::string_view text) const {
    if (text.empty() || text.size() > max_bytes_) return -1;
    return slots_[slot_of(text)];
  }
  // Text `i` of the list, appended since.
  void add(int32_t i) {
    if ((n_ + 1) * 4 > slots_.size() * 3) {
      resize((n_ + 1) * 2);
      n_ = 0;
      for (int32_t k = 0; k < i; ++k) insert(k);
    }
    insert(i);
  }

 private:
  void resize(size_t n) {
    size_t size = 16;
    while (n * 4 > size * 3) size *= 2;
    slots_.assign(size, -1);
  }
  void insert(int32_t i) {
    const std::string_view text = (*texts_)[static_cast<size_t>(i)];
    if (text.empty()) return;
    max_bytes_ = std::max(max_bytes_, text.size());
    int32_t& slot = slots_[slot_of(text)];
    if (slot >= 0) return;
    slot = i;
    ++n_;
  }
  // Where the text is, or the free slot where it belongs.
  size_t slot_of(std::string_view text) const {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>(hash_text(text, seed_)) & mask;
    while (slots_[at] >= 0 && (*texts_)[static_cast<size_t>(slots_[at])] != text)
      at = (at + 1) & mask;
    return at;
  }

  const TextList* texts_ = nullptr;
  uint64_t seed_ = 0;
  std::vector<int32_t> slots_;  // a power of two of them, a quarter free at least; -1: free
  size_t n_ = 0;
  size_t max_bytes_ = 0;
};

}  // namespace mica_llama
