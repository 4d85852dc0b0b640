// Greedy merging of neighbours, best pair first: the loop that both kinds of BPE share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <utility>
#include <vector>

namespace mica_llama {

// A stretch of the text, linked to its neighbours. A merged-away symbol has n_bytes 0.
struct Symbol {
  static constexpr size_t kNone = SIZE_MAX;
  size_t begin = 0, n_bytes = 0;
  size_t prev = kNone, next = kNone;
  int32_t id = -1;  // what it stands for in the vocabulary, -1: nothing
};

struct Merged {
  double cost = 0;  // the lowest goes first; of equal ones, the leftmost
  int32_t id = -1;  // what the pair becomes
};

// Appends a symbol behind the last one.
inline void append_symbol(std::vector<Symbol>& symbols, size_t begin, size_t n_bytes, int32_t id) {
  const size_t at = symbols.size();
  if (at > 0) symbols[at - 1].next = at;
  symbols.push_back({begin, n_bytes, at > 0 ? at - 1 : Symbol::kNone, Symbol::kNone, id});
}

// Merges until `find_merge(left, right)`, an optional<Merged>, knows no pair that is left.
// O(n log n) calls and steps for n symbols.
template <typename FindMerge>
void merge_symbols(std::vector<Symbol>& symbols, const FindMerge& find_merge) {
  struct Pair {
    double cost;
    size_t left, right, n_bytes;  // n_bytes of both when it was found
    int32_t id;
    bool operator>(const Pair& other) const {
      return cost != other.cost ? cost > other.cost : left > other.left;
    }
  };
  std::vector<Pair> found;
  const auto look = [&](size_t left, size_t right, const auto& add) {
    if (left == Symbol::kNone || right == Symbol::kNone) return;
    const std::optional<Merged> merged = find_merge(symbols[left], symbols[right]);
    if (!merged) return;
    add(Pair{merged->cost, left, right, symbols[left].n_bytes + symbols[right].n_bytes,
             merged->id});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    look(i, i + 1, [&](const Pair& pair) { found.push_back(pair); });
  }
  std::priority_queue<Pair, std::vector<Pair>, std::greater<>> queue(std::greater<>(),
                                                                     std::move(found));
  const auto queue_up = [&](const Pair& pair) { queue.push(pair); };
  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Symbol& left = symbols[pair.left];
    Symbol& right = symbols[pair.right];
    // A side that was merged away has no bytes, one that has grown has more: an outdated pair.
    if (left.n_bytes == 0 || right.n_bytes == 0) continue;
    if (left.n_bytes + right.n_bytes != pair.n_bytes) continue;
    left.n_bytes = pair.n_bytes;
    left.id = pair.id;
    left.next = right.next;
    if (right.next != Symbol::kNone) symbols[right.next].prev = pair.left;
    right.n_bytes = 0;
    look(left.prev, pair.left, queue_up);
    look(pair.left, left.next, queue_up);
  }
}

}  // namespace mica_llama
