// The list of what a backend is known not to support: lines "op/case: reason", globs allowed.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "tests/conformance/workers.h"

namespace mica::conformance {

struct Expected {
  std::string pattern, reason;
};

// The list that is built in for a backend of this library; empty where there is none.
std::vector<Expected> builtin_expected(const std::string& backend);
// Throws std::runtime_error: the file cannot be read, or a line is no "pattern: reason".
std::vector<Expected> read_expected(const std::string& path);
// What is unsupported must be listed, and what is listed must be unsupported. `whole`: every case
// ran, so that a line nobody met is stale.
void apply_expected(std::vector<Row>& rows, const std::vector<Expected>& expected, bool whole);
// Writes the list of what `rows` say is unsupported. `whole_ops`: all cases of the ops in it ran,
// so that an op with one reason for all of them takes one line, "op/*". Throws std::runtime_error.
void write_expected(const std::string& path, const std::vector<Row>& rows, bool whole_ops);

}  // namespace mica::conformance
