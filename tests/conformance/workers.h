// Runs jobs in child processes, so that a crash or a hang costs one job and the rest goes on.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tests/conformance/jobs.h"
#include "tests/conformance/judge.h"

namespace mica::conformance {

struct Row {
  std::string id;  // op/case[/variant][/unfused]
  std::string op;
  std::string device;
  uint64_t seed;
  Verdict verdict;
  bool may_refuse = false;  // an answer of "unsupported" needs no line in a list
};

struct WorkOptions {
  unsigned n_workers = 1;        // groups are handed out one at a time
  double timeout = 60;           // seconds; what takes longer is killed and has failed
  std::function<void()> at_end;  // in every worker, behind its last job; may be empty
};

// `work` is called in a child, job after job of a group. One row a job, in their order.
std::vector<Row> run_jobs(const std::vector<Job>& jobs, const WorkOptions& options,
                          const std::function<Verdict(const Job&)>& work);

}  // namespace mica::conformance
