// Names that a person types: globs, and the nearest to one that does not exist.
#pragma once
#include <string>
#include <vector>

namespace mica::conformance {

bool is_glob(const std::string& pattern);
bool glob_matches(const std::string& pattern, const std::string& text);
// Whether `parts` is a run of whole parts of `name`, which dots separate: "f32.k64" of
// "q4_0.f32.k64.m1".
bool has_parts(const std::string& name, const std::string& parts);
// "; the nearest names are: a, b, c", by edit distance; names that share nothing are left out.
std::string nearest(const std::string& typed, const std::vector<std::string>& names);

}  // namespace mica::conformance
