// Token text to id, over a vocabulary that outlives it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mica_llama {

class TokenIndex {
 public:
  TokenIndex() = default;
  // `tokens` must stay where it is. Empty texts are not found; of equal texts, the first is.
  explicit TokenIndex(const std::vector<std::string>& tokens) {
    ids_.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].empty()) continue;
      ids_.emplace(tokens[i], static_cast<int32_t>(i));
      max_bytes_ = std::max(max_bytes_, tokens[i].size());
    }
  }

  // -1 when no token has this text. Costs no more than the longest token, however long `text` is.
  int32_t find(std::string_view text) const {
    if (text.size() > max_bytes_) return -1;
    const auto found = ids_.find(text);
    return found == ids_.end() ? -1 : found->second;
  }

 private:
  std::unordered_map<std::string_view, int32_t> ids_;
  size_t max_bytes_ = 0;
};

}  // namespace mica_llama
