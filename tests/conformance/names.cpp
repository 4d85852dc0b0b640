#include "tests/conformance/names.h"

#include <fnmatch.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace mica::conformance {
namespace {

constexpr size_t kMostNames = 4;

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

bool is_glob(const std::string& pattern) {
  return pattern.find_first_of("*?[") != std::string::npos;
}

bool glob_matches(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool has_parts(const std::string& name, const std::string& parts) {
  return ("." + name + ".").find("." + parts + ".") != std::string::npos;
}

std::string nearest(const std::string& typed, const std::vector<std::string>& names) {
  std::set<std::pair<size_t, std::string>> by_distance;
  for (const std::string& name : names) {
    const size_t distance = edit_distance(typed, name);
    if (distance < std::max(typed.size(), name.size())) by_distance.insert({distance, name});
  }
  std::string text;
  size_t n = 0;
  for (const auto& [distance, name] : by_distance) {
    if (n++ == kMostNames) break;
    text += (text.empty() ? "; the nearest names are: " : ", ") + name;
  }
  return text;
}

}  // namespace mica::conformance
