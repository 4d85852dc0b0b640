// What a sequence of a session holds, for edits and for context shift: its tokens and positions.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace mica_llama {

struct Line {
  std::vector<int32_t> tokens;     // by position, as long as they are known by it
  std::vector<int32_t> positions;  // of its tokens, rising, when they are not
  bool is_known = true;            // positions have no gap and were not changed by hand
  int64_t exact = 0;               // so many of the first tokens have the cells of a fresh run
  int64_t grouped = 0;             // Self-Extend: positions before it are of groups

  // Tokens held.
  int64_t size() const { return static_cast<int64_t>(is_known ? tokens.size() : positions.size()); }
  // Of the token `i`.
  int64_t position(int64_t i) const {
    return is_known ? i : int64_t{positions[static_cast<size_t>(i)]};
  }
  // How many tokens lie before a position.
  int64_t before(int64_t position) const;
  // The least number of first tokens, not less than `i`, of which none shares its position with
  // one behind them: those are kept or dropped together.
  int64_t whole(int64_t i) const;

  // The tokens are not known by position any more. Room was made by `prepare`.
  void forget_order();
  // Makes room for what the functions below allocate, so that they cannot fail after the cache has
  // been changed: for `n` tokens more.
  void prepare(int64_t n = 0);
  // As the cache's functions of such names, once these have succeeded. Ranges are of positions, and
  // p1 < 0 means to the end.
  void remove(int64_t p0, int64_t p1);
  void add(int64_t p0, int64_t p1, int64_t delta);
  void divide(int64_t p0, int64_t p1, int64_t divisor);
  void copy(const Line& from, int64_t p0, int64_t p1);
  // Tokens ran at positions from `first` on.
  void append(int64_t first, std::span<const int32_t> ran);

 private:
  struct Range {
    int64_t from, to;
  };
  // Which tokens have positions in [p0, p1).
  Range tokens_in(int64_t p0, int64_t p1) const;
};

}  // namespace mica_llama
