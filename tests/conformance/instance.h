// One case on one device: built through the public API, filled from the seed, run step by step.
#pragma once
#include <string>
#include <vector>

#include "tests/conformance/case.h"

namespace mica::conformance {

struct OutputData {
  std::string name;
  mica_dtype dtype;
  std::vector<double> values;        // of live rows, decoded
  std::vector<unsigned char> bytes;  // as read
  bool is_written_input = false;
  bool is_far = false;
  uint32_t numerics = 0;
};

struct RunOptions {
  const mica_backend* backend = nullptr;
  std::string device;   // "cpu:avx2"
  std::string variant;  // "" or "naive"
  bool unfused = false;
  uint64_t seed = 1;
  bool plan_only = false;  // stop after compiling: only `explain` is filled
  uint32_t n_timed = 0;    // > 0: repeat the last step for --perf
};

struct RunResult {
  mica_status status = MICA_OK;
  std::string text;  // of a failure
  bool unsupported = false;
  bool inputs_changed = false;
  std::vector<std::vector<OutputData>> steps;  // [step][output]
  std::vector<double> seconds;                 // of timed repetitions
  std::string explain;
};

RunResult run_case(const Case& c, const RunOptions& options);

}  // namespace mica::conformance
