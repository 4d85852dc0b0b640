// What the suite prints when all has run.
#pragma once
#include <string>
#include <vector>

#include "tests/conformance/workers.h"

namespace mica::conformance {

struct ReportOptions {
  std::vector<std::string> devices;  // that ran
  std::vector<std::string> missing;  // that this machine lacks
  std::vector<uint64_t> seeds;
  std::string plugin;  // for the line that replays a failure
  bool perf = false, json = false;
};

// Prints failures and tallies. Returns how many failed.
size_t report(const std::vector<Row>& rows, const ReportOptions& options);

}  // namespace mica::conformance
