#include "tests/conformance/run.h"

#include "tests/conformance/answers.h"
#include "tests/conformance/guard.h"

namespace mica::conformance {
namespace {

constexpr uint32_t kTimedRuns = 21;

RunOptions options_of(const Job& job) {
  RunOptions options;
  options.backend = guarded(answers_watched(job.device->backend), Role::kTested);
  options.device = job.device->name;
  options.variant = job.variant;
  options.unfused = job.unfused;
  options.seed = job.seed;
  return options;
}

bool is_plain(const Job& job) { return job.variant.empty() && !job.unfused; }

}  // namespace

std::string explained(const Job& job) {
  RunOptions options = options_of(job);
  options.plan_only = true;
  const RunResult result = run_case(*job.c, options);
  return result.status == MICA_OK ? result.explain : result.text;
}

const std::string& Runner::plan_of(const Job& job) {
  if (of_ != job.c) plans_.clear();
  of_ = job.c;
  const std::string key = job.device->name + "/" + job.variant + (job.unfused ? "/unfused" : "");
  const auto found = plans_.find(key);
  return found != plans_.end() ? found->second : plans_.emplace(key, explained(job)).first->second;
}

bool Runner::planned_before(const Job& job) {
  if (is_plain(job)) return false;
  const std::string mine = plan_of(job);
  Job plain = job;
  plain.variant.clear();
  plain.unfused = false;
  return mine == plan_of(plain);
}

Verdict Runner::run(const Job& job) {
  std::unique_ptr<HeldDevice>& held = held_[job.device];
  if (held == nullptr) held = std::make_unique<HeldDevice>(*job.device);
  if (planned_before(job)) return {Verdict::kSame, ""};
  if (only_plan_) return {Verdict::kPass, ""};
  RunOptions options = options_of(job);
  options.n_timed = perf_ && is_plain(job) ? kTimedRuns : 0;
  Verdict v = judge(*job.c, options);
  const std::string damage = guards_complaint(Role::kTested);
  if (!damage.empty() && v.kind == Verdict::kPass) v = {Verdict::kFail, damage};
  const std::string answer = answers_complaint();
  if (!answer.empty()) v = {Verdict::kFail, answer};
  return v;
}

}  // namespace mica::conformance
