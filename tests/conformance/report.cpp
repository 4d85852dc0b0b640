#include "tests/conformance/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

namespace mica::conformance {
namespace {

struct Tally {
  size_t passed = 0, failed = 0, unsupported = 0;
  double worst = 0;
  void add(const Verdict& v) {
    worst = std::max(worst, v.worst);
    if (v.kind == Verdict::kPass) ++passed;
    if (v.kind == Verdict::kUnsupported) ++unsupported;
    if (v.kind == Verdict::kFail) ++failed;
  }
};

std::string seeds_text(const std::vector<uint64_t>& seeds) {
  std::string text = seeds.size() == 1 ? "seed" : "seeds";
  for (const uint64_t s : seeds) text += " " + std::to_string(s);
  return text;
}

void print_json(const std::vector<Row>& rows, const ReportOptions& options, const Tally& all) {
  const char* const kinds[] = {"pass", "fail", "unsupported"};
  nlohmann::json out = {{"devices", options.devices},
                        {"not_run", options.missing},
                        {"seeds", options.seeds},
                        {"passed", all.passed},
                        {"failed", all.failed},
                        {"unsupported", all.unsupported},
                        {"cases", nlohmann::json::array()}};
  if (!options.plugin.empty()) out["plugin"] = options.plugin;
  for (const Row& r : rows)
    out["cases"].push_back({{"id", r.id},
                            {"device", r.device},
                            {"seed", r.seed},
                            {"result", kinds[r.verdict.kind]},
                            {"text", r.verdict.text},
                            {"worst", std::isfinite(r.verdict.worst) ? r.verdict.worst : 1e99},
                            {"median_us", r.verdict.seconds * 1e6}});
  std::cout << out.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
}

void print_rows(const std::vector<Row>& rows, const ReportOptions& options) {
  for (const Row& r : rows) {
    const Verdict& v = r.verdict;
    const std::string of = options.devices.size() > 1 ? " on " + r.device : "";
    if (v.kind == Verdict::kFail) {
      std::printf("FAIL %s%s: %s\n", r.id.c_str(), of.c_str(), v.text.c_str());
      std::printf("  replay: conformance --backend %s%s%s --seed %llu --case '%s'\n",
                  r.device.c_str(), options.plugin.empty() ? "" : " --plugin ",
                  options.plugin.c_str(), static_cast<unsigned long long>(r.seed), r.id.c_str());
    } else if (options.perf && v.seconds > 0) {
      std::printf("%-60s %10.2f us%s\n", r.id.c_str(), v.seconds * 1e6, of.c_str());
    }
  }
}

void print_tallies(const std::vector<Row>& rows, const std::string& device,
                   const ReportOptions& options) {
  std::map<std::string, Tally> ops;
  Tally all;
  for (const Row& r : rows)
    if (r.device == device) ops[r.op].add(r.verdict), all.add(r.verdict);
  std::printf("%-16s %8s %8s %12s %14s\n", "op", "passed", "failed", "unsupported", "error/bound");
  for (const auto& [op, t] : ops) {
    std::printf("%-16s %8zu %8zu %12zu ", op.c_str(), t.passed, t.failed, t.unsupported);
    // Where nothing was compared there is no error.
    if (t.passed > 0 || t.worst > 0) {
      std::printf("%14.3f\n", t.worst);
    } else {
      std::printf("%14s\n", "-");
    }
  }
  std::printf("%s, %s\n%zu passed, %zu failed, %zu unsupported as listed\n", device.c_str(),
              seeds_text(options.seeds).c_str(), all.passed, all.failed, all.unsupported);
}

}  // namespace

size_t report(const std::vector<Row>& rows, const ReportOptions& options) {
  Tally all;
  for (const Row& r : rows) all.add(r.verdict);
  if (options.json) {
    print_json(rows, options, all);
    return all.failed;
  }
  print_rows(rows, options);
  for (const std::string& device : options.devices) print_tallies(rows, device, options);
  for (const std::string& device : options.missing)
    std::printf("%s not run: this machine lacks it\n", device.c_str());
  return all.failed;
}

}  // namespace mica::conformance
