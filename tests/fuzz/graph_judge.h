// Runs a random case on devices and on the reference, fused and member by member, and compares.
#pragma once
#include "tests/fuzz/graph_run.h"

namespace mica::fuzz {

struct Device {
  std::string name;  // "cpu:avx2"
  const mica_backend* backend = nullptr;
};

struct Verdict {
  std::string text;  // of a difference; "": none
  std::vector<std::string> log;
  bool fails() const { return !text.empty(); }
};

struct Counts {
  uint64_t graphs = 0, runs = 0, values = 0;
  uint64_t refused = 0;      // pieces that a builder refused
  uint64_t unsupported = 0;  // cases with a piece that a device cannot run
  uint64_t shaken = 0;       // cases in which a rounding moved by a whole step
  uint64_t infinite = 0;     // cases with a value that is not finite
  void add(const Counts& c) {
    graphs += c.graphs, runs += c.runs, values += c.values, refused += c.refused;
    unsupported += c.unsupported, shaken += c.shaken, infinite += c.infinite;
  }
};

Verdict judge(uint64_t seed, const std::set<int>& skip, const std::vector<Device>& devices,
              Counts& counts);
// The case as it is built, without `skip` and what builders refuse: its pieces and calls.
RunResult built(uint64_t seed, const std::set<int>& skip);

}  // namespace mica::fuzz
