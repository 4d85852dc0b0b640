// Many short texts in one piece of memory: a vocabulary's tokens, its merges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace mica_llama {

// Costs 4 bytes a text beside its bytes, where a std::string costs 32 and more: a file of many
// short texts takes no more memory than its own size.
class TextList {
 public:
  TextList() = default;
  TextList(std::initializer_list<std::string_view> texts) {
    for (const std::string_view text : texts) push_back(text);
  }
  TextList(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) push_back(text);
  }

  void reserve(size_t n_texts, size_t n_bytes) {
    ends_.reserve(n_texts);
    bytes_.reserve(n_bytes);
  }
  // The views given out before become invalid. At most 4 GiB in all.
  void push_back(std::string_view text) {
    if (text.size() > UINT32_MAX - bytes_.size())
      throw std::length_error("more than 4 GiB of text");
    bytes_.append(text);
    ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  void replace(size_t i, std::string_view text) {
    TextList changed;
    for (size_t k = 0; k < size(); ++k) changed.push_back(k == i ? text : (*this)[k]);
    *this = std::move(changed);
  }

  size_t size() const { return ends_.size(); }
  bool empty() const { return ends_.empty(); }
  size_t n_bytes() const { return bytes_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string bytes_;
  std::vector<uint32_t> ends_;
};

}  // namespace mica_llama
