// Finds the tokens that are recognised inside a text before anything else is done with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace mica_llama {

// A token found in the text, or the plain text between two.
struct Fragment {
  int32_t id = -1;        // -1: plain text
  std::string_view text;  // of plain text, never empty
};

class SpecialTokens {
 public:
  // A longer one is refused where a vocabulary is read: it bounds what a place in a text can cost.
  static constexpr size_t kMaxBytes = 4096;

  // `text` must outlive it. An empty text is ignored; of equal texts, the lowest id is found.
  // `always`: found even when special tokens are not parsed (user-defined tokens).
  void add(std::string_view text, int32_t id, bool always);
  // Once, after the last was added and before a text is cut.
  void finish();

  // Cuts `text` up: the longest token first over the whole text, of equally long ones the lowest
  // id, then the leftmost. Time: bytes × (the longest common beginning × the logarithm of the
  // number of tokens + the longest chain of tokens that begin each other).
  std::vector<Fragment> partition(std::string_view text, bool parse_special) const;

 private:
  struct Match {
    size_t begin = 0, n_bytes = 0;
    int32_t id = -1;
  };
  // Tokens by text. The longest that a text begins with is found by one binary search: the last
  // that is not behind the text begins with it, so it is that one or one of its parents.
  class Sorted {
   public:
    void add(std::string_view text, int32_t id);
    void finish();
    bool begins(char byte) const { return begins_[static_cast<unsigned char>(byte)]; }
    // n_bytes is 0 when there is none.
    Match longest(std::string_view text) const;

   private:
    struct Token {
      std::string_view text;
      int32_t id;
      int32_t parent;  // the longest other token that it begins with, -1: none
    };
    std::vector<Token> tokens_;
    std::vector<bool> begins_ = std::vector<bool>(256);
  };

  // The longest token at `begin` that takes at most `max_bytes`; n_bytes is 0 when there is none.
  Match longest(std::string_view text, size_t begin, size_t max_bytes, bool parse_special) const;
  std::vector<Match> choose(std::string_view text, bool parse_special) const;

  Sorted always_, others_;
};

}  // namespace mica_llama
