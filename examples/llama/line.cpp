// The account of what a sequence holds: it says what the cache does, token by token.
#include "line.h"

#include <algorithm>
#include <numeric>

namespace mica_llama {

int64_t Line::before(int64_t position) const {
  if (is_known) return std::clamp<int64_t>(position, 0, size());
  return std::lower_bound(positions.begin(), positions.end(), position) - positions.begin();
}

int64_t Line::whole(int64_t i) const {
  while (!is_known && i > 0 && i < size() && position(i) == position(i - 1)) ++i;
  return i;
}

Line::Range Line::tokens_in(int64_t p0, int64_t p1) const {
  const int64_t from = before(std::max<int64_t>(p0, 0));
  return {from, p1 < 0 ? size() : std::max(from, before(p1))};
}

void Line::prepare(int64_t n) { positions.reserve(static_cast<size_t>(size() + n)); }

void Line::forget_order() {
  if (!is_known) return;
  positions.resize(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  is_known = false;
  tokens.clear();
  exact = 0;
}

void Line::remove(int64_t p0, int64_t p1) {
  const Range r = tokens_in(p0, p1);
  if (r.from == r.to) return;
  if (is_known && r.to == size()) {
    tokens.resize(static_cast<size_t>(r.from));
    exact = std::min(exact, r.from);
    return;
  }
  forget_order();
  positions.erase(positions.begin() + r.from, positions.begin() + r.to);
}

void Line::add(int64_t p0, int64_t p1, int64_t delta) {
  const Range r = tokens_in(p0, p1);
  if (r.from == r.to || delta == 0) return;
  forget_order();
  for (int64_t i = r.from; i < r.to; ++i)
    positions[static_cast<size_t>(i)] += static_cast<int32_t>(delta);
  std::sort(positions.begin(), positions.end());  // they may have passed others
}

void Line::divide(int64_t p0, int64_t p1, int64_t divisor) {
  const Range r = tokens_in(p0, p1);
  if (r.from == r.to || divisor == 1) return;
  forget_order();
  for (int64_t i = r.from; i < r.to; ++i) {
    int32_t& p = positions[static_cast<size_t>(i)];
    p = static_cast<int32_t>(p / divisor);
  }
  std::sort(positions.begin(), positions.end());
}

void Line::copy(const Line& from, int64_t p0, int64_t p1) {
  const Range r = from.tokens_in(p0, p1);
  if (r.from == r.to) return;
  if (is_known && from.is_known && r.from == size()) {
    const bool same = exact == r.from && from.exact >= r.to &&
                      std::equal(tokens.begin(), tokens.end(), from.tokens.begin());
    tokens.insert(tokens.end(), from.tokens.begin() + r.from, from.tokens.begin() + r.to);
    if (same) exact = r.to;
    return;
  }
  forget_order();
  for (int64_t i = r.from; i < r.to; ++i)
    positions.push_back(static_cast<int32_t>(from.position(i)));
  std::sort(positions.begin(), positions.end());
}

void Line::append(int64_t first, std::span<const int32_t> ran) {
  const int64_t end = first + static_cast<int64_t>(ran.size());
  if (is_known && first > size()) forget_order();
  if (!is_known) {
    std::vector<int32_t> added(ran.size());
    std::iota(added.begin(), added.end(), static_cast<int32_t>(first));
    positions.insert(positions.begin() + before(first), added.begin(), added.end());
    return;
  }
  // Tokens that a window made run again are there already.
  if (size() < end) tokens.resize(static_cast<size_t>(end));
  std::copy(ran.begin(), ran.end(), tokens.begin() + first);
  if (exact == first) exact = end;
}

}  // namespace mica_llama
