// What is done with one job in a worker process.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "tests/conformance/devices.h"
#include "tests/conformance/instance.h"
#include "tests/conformance/workers.h"

namespace mica::conformance {

// How the job's case is planned on its device, or why it is not.
std::string explained(const Job& job);

class Runner {
 public:
  explicit Runner(bool perf) : perf_(perf) {}  // perf: measure times
  // The ways in which the job's case can be planned on its device, each giving another plan. In a
  // verdict's text, for it comes from a worker: ways_of reads it.
  Verdict plan(const Job& job);
  Verdict run(const Job& job);
  void release();

 private:
  RunOptions options_of(const Job& job);
  void hold(const Device* device);

  bool perf_;
  std::map<const Device*, std::unique_ptr<HeldDevice>> held_;
  // The device of the last job, watched: cases that follow one another use what it has compiled.
  const Device* watched_of_ = nullptr;
  std::unique_ptr<HeldDevice> watched_;
};

// What Runner::plan found; of a worker that was lost there is one way, the plain one.
std::vector<Way> ways_of(const Verdict& verdict);

}  // namespace mica::conformance
