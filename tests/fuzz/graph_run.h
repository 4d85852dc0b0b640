// Makes and runs a random case on one device, watched by tests/conformance/guard.h.
#pragma once
#include "tests/conformance/guard.h"
#include "tests/fuzz/graph_cells.h"
#include "tests/fuzz/graph_maker.h"

namespace mica::fuzz {

// What a run leaves: an output, an input that was written, or the cells that it stored.
struct Seen {
  std::string name;
  mica_dtype dtype;
  bool exact = false;  // the reference's bits are asked for
  bool is_cells = false;
  std::vector<unsigned char> bytes;
  std::vector<double> values, steps;  // of cells: the distance to the next value in the dtype
  int64_t dim[4] = {1, 1, 1, 1};
};

struct RunSettings {
  uint64_t seed = 0;
  std::set<int> skip;
  const mica_backend* backend = nullptr;  // the plain one
  conformance::Role role = conformance::Role::kTested;
  std::string device;
  bool unfused = false;
  bool build_only = false;
  conformance::NodeNumerics imposed;
  const Cells* cells = nullptr;  // of ref: that it stores instead of its own
};

struct RunResult {
  enum Stage { kBuild, kCompile, kRun, kDone } stage = kBuild;  // how far it came
  mica_status status = MICA_OK;
  std::string text;
  int piece = -1;                   // that a builder or the device refused
  std::vector<std::string> events;  // edits of the cache and reserves, with their statuses
  std::vector<std::vector<Seen>> runs;
  std::vector<std::string> labels;  // of the runs
  std::string complaint;            // something was written that nobody may write
  conformance::NodeNumerics numerics;
  std::vector<std::string> log;  // the graphs, as builder calls
  std::set<int> pieces;
};

RunResult run(const RunSettings& settings);

}  // namespace mica::fuzz
