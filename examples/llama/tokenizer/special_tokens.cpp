// Special tokens inside text: a trie, and longest-first choice among what it finds.
#include "special_tokens.h"

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

namespace mica_llama {

SpecialTokens::SpecialTokens() : nodes_(1) {}

uint32_t SpecialTokens::child(uint32_t node, char byte) const {
  if (node == 0) return first_[static_cast<unsigned char>(byte)];
  for (const auto& [edge, to] : nodes_[node].children) {
    if (edge == byte) return to;
  }
  return 0;
}

void SpecialTokens::add(std::string_view text, int32_t id, bool always) {
  if (text.empty()) return;
  uint32_t node = 0;
  for (const char byte : text) {
    uint32_t to = child(node, byte);
    if (to == 0) {
      to = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0)
        first_[static_cast<unsigned char>(byte)] = to;
      else
        nodes_[node].children.emplace_back(byte, to);
    }
    node = to;
  }
  if (nodes_[node].id < 0) nodes_[node].id = id;
  if (always && nodes_[node].always_id < 0) nodes_[node].always_id = id;
}

SpecialTokens::Match SpecialTokens::longest(std::string_view text, size_t begin, size_t max_bytes,
                                            bool parse_special) const {
  Match best;
  best.begin = begin;
  const size_t limit = std::min(max_bytes, text.size() - begin);
  uint32_t node = 0;
  for (size_t i = 0; i < limit; ++i) {
    node = child(node, text[begin + i]);
    if (node == 0) break;
    const int32_t id = parse_special ? nodes_[node].id : nodes_[node].always_id;
    if (id < 0) continue;
    best.n_bytes = i + 1;
    best.id = id;
  }
  return best;
}

std::vector<SpecialTokens::Match> SpecialTokens::choose(std::string_view text,
                                                        bool parse_special) const {
  // Candidates by length; each place offers its longest token, and a shorter one only after the
  // longer is found to overlap what was taken.
  std::map<size_t, std::vector<Match>, std::greater<>> by_length;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    if (first_[static_cast<unsigned char>(text[begin])] == 0) continue;
    const Match match = longest(text, begin, text.size(), parse_special);
    if (match.n_bytes > 0) by_length[match.n_bytes].push_back(match);
  }
  std::vector<Match> taken;
  if (by_length.empty()) return taken;
  std::vector<bool> covered(text.size());
  while (!by_length.empty()) {
    std::vector<Match> matches = std::move(by_length.begin()->second);
    by_length.erase(by_length.begin());
    std::sort(matches.begin(), matches.end(), [](const Match& a, const Match& b) {
      return std::tie(a.id, a.begin) < std::tie(b.id, b.begin);
    });
    for (const Match& match : matches) {
      if (covered[match.begin]) continue;
      // What was taken is at least as long as this, so it cannot lie strictly inside.
      if (covered[match.begin + match.n_bytes - 1]) {
        const Match shorter = longest(text, match.begin, match.n_bytes - 1, parse_special);
        if (shorter.n_bytes > 0) by_length[shorter.n_bytes].push_back(shorter);
        continue;
      }
      std::fill_n(covered.begin() + static_cast<std::ptrdiff_t>(match.begin), match.n_bytes, true);
      taken.push_back(match);
    }
  }
  std::sort(taken.begin(), taken.end(),
            [](const Match& a, const Match& b) { return a.begin < b.begin; });
  return taken;
}

std::vector<Fragment> SpecialTokens::partition(std::string_view text, bool parse_special) const {
  std::vector<Fragment> fragments;
  size_t done = 0;
  for (const Match& match : choose(text, parse_special)) {
    if (match.begin > done) fragments.push_back({-1, text.substr(done, match.begin - done)});
    fragments.push_back({match.id, {}});
    done = match.begin + match.n_bytes;
  }
  if (done < text.size()) fragments.push_back({-1, text.substr(done)});
  return fragments;
}

}  // namespace mica_llama
