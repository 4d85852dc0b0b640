// One case on one device: built through the public API, filled from the seed, run step by step.
#pragma once
#include <string>
#include <vector>

#include "tests/conformance/case.h"
#include "tests/conformance/guard.h"

namespace mica::conformance {

struct OutputData {
  OutputData(std::string n, mica_dtype d) : name(std::move(n)), dtype(d) {}
  std::string name;
  mica_dtype dtype;
  std::vector<double> values;        // of live rows, decoded
  std::vector<unsigned char> bytes;  // as read; none of a cache's cells
  int64_t dim[4] = {1, 1, 1, 1};     // of `values`
  bool is_written_input = false;
  bool is_far = false;
  bool is_cells = false;      // what the step stored in a cache
  std::vector<double> steps;  // of cells: from each value to its neighbour in the dtype
  uint32_t numerics = 0;
};

struct RunOptions {
  const mica_backend* backend = nullptr;  // as guarded() gave it for `role`
  Role role = Role::kTested;
  std::string device;               // "cpu:avx2"
  mica_context* context = nullptr;  // with `opened`, the device that is used; else one is opened
  mica_device* opened = nullptr;
  std::string variant;  // "": the usual kernels; else the rows of this name
  bool unfused = false;
  uint64_t seed = 1;
  bool large_dead_rows = false;  // rows beyond the live ones hold large numbers instead of NaN
  bool plan_only = false;        // stop after compiling: only `explain` is filled
  // Beside its steps a run makes another one, of other inputs and other live rows, before or after
  // them: what ran before must not show. Not of the oracle, which takes the time.
  enum Other { kNone, kBefore, kAfter } other = kNone;
  uint32_t n_timed = 0;  // > 0: repeat the last step for --perf
};

struct RunResult {
  mica_status status = MICA_OK;
  std::string text;  // of a failure
  bool unsupported = false;
  size_t n_graphs = 1;
  std::string changed;    // what was changed that nobody may: an input, a weight
  NodeNumerics numerics;  // of the plan's nodes
  std::vector<std::vector<OutputData>> steps;  // [step][output]
  std::vector<OutputData> other;               // of the other step
  std::vector<double> seconds;                 // of timed repetitions
  std::string explain;
};

RunResult run_case(const Case& c, const RunOptions& options);

}  // namespace mica::conformance
