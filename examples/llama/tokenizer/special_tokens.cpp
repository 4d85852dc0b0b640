// Special tokens inside text: sorted texts, and longest-first choice among what is found.
#include "special_tokens.h"

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>

namespace mica_llama {

void SpecialTokens::Sorted::add(std::string_view text, int32_t id) {
  tokens_.push_back({text, id, -1});
  begins_[static_cast<unsigned char>(text[0])] = true;
}

void SpecialTokens::Sorted::finish() {
  std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) {
    return std::tie(a.text, a.id) < std::tie(b.text, b.id);
  });
  const auto same = [](const Token& a, const Token& b) { return a.text == b.text; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  // A text stands behind those that it begins with, and only texts that begin with them lie
  // between: the parent is the token before, or one of its parents.
  for (size_t i = 1; i < tokens_.size(); ++i) {
    auto parent = static_cast<int32_t>(i - 1);
    while (parent >= 0 && !tokens_[i].text.starts_with(tokens_[static_cast<size_t>(parent)].text))
      parent = tokens_[static_cast<size_t>(parent)].parent;
    tokens_[i].parent = parent;
  }
}

SpecialTokens::Match SpecialTokens::Sorted::longest(std::string_view text) const {
  const auto behind = std::upper_bound(
      tokens_.begin(), tokens_.end(), text,
      [](std::string_view wanted, const Token& token) { return wanted < token.text; });
  if (behind == tokens_.begin()) return {};
  const Token* token = &*(behind - 1);
  const size_t n = std::min(text.size(), token->text.size());
  const auto same =
      static_cast<size_t>(std::mismatch(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(n),
                                        token->text.begin())
                              .first -
                          text.begin());
  while (token->text.size() > same) {
    if (token->parent < 0) return {};
    token = &tokens_[static_cast<size_t>(token->parent)];
  }
  return {0, token->text.size(), token->id};
}

void SpecialTokens::add(std::string_view text, int32_t id, bool always) {
  if (!text.empty()) (always ? always_ : others_).add(text, id);
}

void SpecialTokens::finish() {
  always_.finish();
  others_.finish();
}

SpecialTokens::Match SpecialTokens::longest(std::string_view text, size_t begin, size_t max_bytes,
                                            bool parse_special) const {
  const std::string_view rest = text.substr(begin, max_bytes);
  Match best = always_.longest(rest);
  if (parse_special) {
    const Match other = others_.longest(rest);
    const bool is_longer = other.n_bytes > best.n_bytes;
    if (is_longer || (other.n_bytes == best.n_bytes && other.id < best.id)) best = other;
  }
  best.begin = begin;
  return best;
}

std::vector<SpecialTokens::Match> SpecialTokens::choose(std::string_view text,
                                                        bool parse_special) const {
  // Candidates by length; each place offers its longest token, and a shorter one only after the
  // longer is found to overlap what was taken.
  std::map<size_t, std::vector<Match>, std::greater<>> by_length;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    if (!always_.begins(text[begin]) && !(parse_special && others_.begins(text[begin]))) continue;
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
