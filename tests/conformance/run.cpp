#include "tests/conformance/run.h"

#include <algorithm>
#include <sstream>

#include "tests/conformance/answers.h"
#include "tests/conformance/guard.h"

namespace mica::conformance {
namespace {

constexpr uint32_t kTimedRuns = 21;

const mica_backend* watched_backend(const Device& device) {
  return guarded(answers_watched(device.backend), Role::kTested);
}

RunOptions plain_options(const Job& job) {
  RunOptions options;
  options.device = job.device->name;
  options.variant = job.way.variant;
  options.unfused = job.way.unfused;
  options.seed = job.seed;
  return options;
}

bool is_plain(const Job& job) { return job.way.variant.empty() && !job.way.unfused; }

RunResult planned(const Job& job, RunOptions options) {
  options.plan_only = true;
  return run_case(*job.c, options);
}
std::string text_of(const RunResult& r) { return r.status == MICA_OK ? r.explain : r.text; }

}  // namespace

std::string explained(const Job& job) {
  RunOptions options = plain_options(job);
  options.backend = watched_backend(*job.device);
  return text_of(planned(job, options));
}

// One inner backend is watched at a time, so the device before is closed before another is opened.
RunOptions Runner::options_of(const Job& job) {
  if (watched_of_ != job.device) {
    watched_.reset();
    watched_of_ = job.device;
  }
  RunOptions options = plain_options(job);
  options.backend = watched_backend(*job.device);
  if (watched_ == nullptr)
    watched_ = std::make_unique<HeldDevice>(Device{job.device->name, options.backend});
  if (watched_->status() == MICA_OK) {
    options.context = watched_->context();
    options.opened = watched_->device();
  }
  return options;
}

void Runner::release() {
  watched_.reset();
  watched_of_ = nullptr;
  held_.clear();
}

void Runner::hold(const Device* device) {
  std::unique_ptr<HeldDevice>& held = held_[device];
  if (held == nullptr) held = std::make_unique<HeldDevice>(*device);
}

Verdict Runner::plan(const Job& job) {
  hold(job.device);
  take_variants();
  std::vector<std::string> plans = {text_of(planned(job, options_of(job)))};
  std::string text = "\n";
  const auto try_way = [&](const Way& way) {
    const Job other = {job.c, job.device, job.seed, way};
    const RunResult r = planned(other, options_of(other));
    // A session's variant is one that each of its graphs has.
    if (r.n_graphs > 1 && r.status == MICA_INVALID_ARGUMENT) return;
    const std::string plan = text_of(r);
    if (std::find(plans.begin(), plans.end(), plan) != plans.end()) return;
    plans.push_back(plan);
    text += way.suffix() + "\n";
  };
  try_way({"", true});
  for (const std::string& variant : take_variants()) try_way({variant, false});
  return {Verdict::kPass, text};
}

std::vector<Way> ways_of(const Verdict& verdict) {
  if (verdict.kind != Verdict::kPass) return {{}};
  std::vector<Way> ways;
  std::istringstream lines(verdict.text);
  for (std::string line; std::getline(lines, line);) {
    const bool unfused = line == "/unfused";
    ways.push_back({unfused || line.empty() ? "" : line.substr(1), unfused});
  }
  return ways;
}

Verdict Runner::run(const Job& job) {
  hold(job.device);
  RunOptions options = options_of(job);
  options.n_timed = perf_ && is_plain(job) ? kTimedRuns : 0;
  Verdict v = judge(*job.c, options);
  const std::string damage = guards_complaint(Role::kTested);
  if (!damage.empty() && v.kind == Verdict::kPass) v = {Verdict::kFail, damage};
  const std::string answer = answers_complaint();
  if (!answer.empty()) v = {Verdict::kFail, answer};
  if (v.kind == Verdict::kFail) watched_.reset();  // who knows what it left on the device
  return v;
}

}  // namespace mica::conformance
