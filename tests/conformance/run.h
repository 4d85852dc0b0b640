// Runs one job in a worker process.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "tests/conformance/devices.h"
#include "tests/conformance/workers.h"

namespace mica::conformance {

// How the job's case is planned on its device, or why it is not.
std::string explained(const Job& job);

class Runner {
 public:
  // `only_plan`: whether a job would run, for --list. `perf`: measure times.
  Runner(bool only_plan, bool perf) : only_plan_(only_plan), perf_(perf) {}
  // kSame: an earlier way to plan the case on the device gives the same plan.
  Verdict run(const Job& job);

 private:
  bool planned_before(const Job& job);
  const std::string& plan_of(const Job& job);

  bool only_plan_, perf_;
  std::map<const Device*, std::unique_ptr<HeldDevice>> held_;
  const Case* of_ = nullptr;                  // whose plans these are
  std::map<std::string, std::string> plans_;  // by device, variant and fusing
};

}  // namespace mica::conformance
