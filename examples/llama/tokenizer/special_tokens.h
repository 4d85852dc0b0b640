// Finds the tokens that are recognised inside a text before anything else is done with it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace mica_llama {

// A token found in the text, or the plain text between two.
struct Fragment {
  int32_t id = -1;        // -1: plain text
  std::string_view text;  // of plain text, never empty
};

class SpecialTokens {
 public:
  SpecialTokens();

  // An empty text is ignored; of equal texts, the first added is the one found.
  // `always`: found even when special tokens are not parsed (user-defined tokens).
  void add(std::string_view text, int32_t id, bool always);

  // Cuts `text` up: the longest token first over the whole text, of equally long ones the lowest
  // id, then the leftmost. Time: bytes × the longest chain of tokens that begin alike.
  std::vector<Fragment> partition(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    std::vector<std::pair<char, uint32_t>> children;
    int32_t id = -1;         // the token that ends here
    int32_t always_id = -1;  // the same among those found always
  };
  struct Match {
    size_t begin = 0, n_bytes = 0;
    int32_t id = -1;
  };

  uint32_t child(uint32_t node, char byte) const;
  // The longest token at `begin` that takes at most `max_bytes`; n_bytes is 0 when there is none.
  Match longest(std::string_view text, size_t begin, size_t max_bytes, bool parse_special) const;
  std::vector<Match> choose(std::string_view text, bool parse_special) const;

  std::vector<Node> nodes_;               // a trie; nodes_[0] is its root
  std::array<uint32_t, 256> first_ = {};  // the root's children by byte, 0: none
};

}  // namespace mica_llama
