// The conformance suite: every op's cases on a backend, against the double-precision reference.
//   conformance --backend cpu:avx2 [--op matmul] [--case q4_0.k576.m7] [--seed 3] ...
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/conformance/devices.h"
#include "tests/conformance/expect.h"
#include "tests/conformance/report.h"
#include "tests/conformance/run.h"

namespace mica::conformance {
namespace {

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

struct Arguments {
  std::vector<std::string> backends;
  std::string plugin, expect, write_expect, explain, output = "table";
  Selection selection;
  uint64_t seed = 1, n_seeds = 1;
  WorkOptions work;
  bool list = false, perf = false;
};

// What CLI11 takes for numbers and this program does not.
std::string check_seed(const std::string& text) {
  const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
  return digits ? "" : "a seed is a whole number from 0 on, not " + text;
}
std::string check_seconds(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  const bool good = *end == '\0' && std::isfinite(seconds) && seconds > 0;
  return good ? "" : "seconds are a number above 0, not " + text;
}
std::string check_file(const std::string& path) {
  return std::filesystem::is_directory(path) ? path + " is a directory, not a list" : "";
}

void add_options(CLI::App& app, Arguments& args) {
  app.add_option("--backend", args.backends,
                 "devices, a comma between two, e.g. ref, cpu, cpu:avx2 (default: cpu, or the "
                 "plug-in's)")
      ->allow_extra_args(false);
  app.add_option("--plugin", args.plugin, "load a backend from this shared object");
  app.add_option("--op", args.selection.ops, "only these ops; globs")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--case", args.selection.cases,
                 "only these cases: ids as --list prints them, names, parts of names, globs")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--variant", args.selection.variants,
                 "only runs with these kernels, by the names that --list puts behind a case; "
                 "usual: as the device plans them")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--explain", args.explain, "print how this case is planned");
  app.add_option("--seed", args.seed, "seed of the inputs")
      ->check(check_seed)
      ->capture_default_str();
  app.add_option("--seeds", args.n_seeds, "so many seeds, from --seed on")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--timeout", args.work.timeout, "seconds after which a case has failed")
      ->check(check_seconds)
      ->capture_default_str();
  app.add_option("--jobs", args.work.n_workers, "processes that share the cases")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--expect", args.expect, "list of what the backend does not support")
      ->check(check_file);
  app.add_option("--write-expect", args.write_expect, "write that list into this file")
      ->check(check_file);
  app.add_option("-o,--output", args.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  app.add_flag("--list", args.list, "print the cases that would run");
  app.add_flag("--perf", args.perf, "median time of each case");
  app.add_flag("--reduced", args.selection.reduced, "a seventh of the cases, for slow builds");
}

// Takes the devices that this machine lacks out of the list.
bool check_devices(std::vector<Device>& devices, std::vector<std::string>& missing) {
  for (size_t i = 0; i < devices.size();) {
    std::string why;
    const Presence presence = check_device(devices[i], why);
    if (presence == Presence::kThere) {
      ++i;
      continue;
    }
    if (presence == Presence::kBroken) {
      std::fprintf(stderr, "%s\n", why.c_str());
      return false;
    }
    std::fprintf(stderr, "not run: %s\n", why.c_str());
    missing.push_back(devices[i].name);
    devices.erase(devices.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return true;
}

int explain(const std::vector<Job>& jobs) {
  for (const Job& job : jobs) {
    const std::string text = explained(job);
    std::printf("%s%s", text.c_str(), text.empty() || text.back() != '\n' ? "\n" : "");
  }
  return 0;
}

int print_list(const std::vector<Job>& jobs, const Arguments& args, bool several_devices) {
  if (args.output == "json") {
    nlohmann::json out = nlohmann::json::array();
    for (const Job& job : jobs) out.push_back({{"id", job.id()}, {"device", job.device->name}});
    std::printf("%s\n", out.dump(1).c_str());
    return 0;
  }
  for (const Job& job : jobs)
    std::printf("%s%s%s\n", job.id().c_str(), several_devices ? " on " : "",
                several_devices ? job.device->name.c_str() : "");
  return 0;
}

void check_expected(std::vector<Row>& rows, const Arguments& args,
                    const std::vector<Device>& devices) {
  const Selection& s = args.selection;
  if (!args.write_expect.empty()) {
    write_expected(args.write_expect, rows, s.cases.empty() && !s.reduced);
    return;
  }
  std::vector<Row> all;
  for (const Device& d : devices) {
    std::vector<Row> of;
    for (const Row& r : rows)
      if (r.device == d.name) of.push_back(r);
    // A plug-in's name may be that of a backend of this library, whose list is not for it.
    const std::vector<Expected> expected =
        !args.expect.empty()  ? read_expected(args.expect)
        : args.plugin.empty() ? builtin_expected(d.name.substr(0, d.name.find(':')))
                              : std::vector<Expected>();
    apply_expected(of, expected, s.whole());
    all.insert(all.end(), of.begin(), of.end());
  }
  rows = std::move(all);
}

int run(Arguments& args) {
  std::vector<Device> devices = find_devices(args.backends, args.plugin);
  if (!args.write_expect.empty() && devices.size() > 1)
    throw std::runtime_error("--write-expect takes one --backend: a list is one backend's");
  if (!args.write_expect.empty() && !args.expect.empty())
    throw std::runtime_error("--expect reads a list and --write-expect makes one: choose");
  if (!args.expect.empty()) read_expected(args.expect);  // its mistakes are told before the wait
  ReportOptions to_report;
  to_report.plugin = args.plugin;
  to_report.perf = args.perf;
  to_report.json = args.output == "json";
  if (!args.explain.empty()) args.selection.cases = {args.explain};
  const CaseList list = all_cases();
  const std::vector<const Case*> cases = choose_cases(list, args.selection);
  if (!check_devices(devices, to_report.missing)) return 1;
  if (devices.empty()) return kSkipped;
  std::vector<uint64_t> seeds(args.list || !args.explain.empty() ? 1 : args.n_seeds);
  for (size_t i = 0; i < seeds.size(); ++i) seeds[i] = args.seed + i;
  Runner runner(args.perf);  // a copy in each worker: devices are opened there
  args.work.at_end = [&] { runner.release(); };
  const auto plan = [&](const std::vector<Job>& plain) {
    std::vector<std::vector<Way>> ways;
    for (const Row& r : run_jobs(plain, args.work, [&](auto& job) { return runner.plan(job); }))
      ways.push_back(ways_of(r.verdict));
    return ways;
  };
  const std::vector<Job> jobs = make_jobs(cases, args.selection, devices, seeds, plan);
  if (args.list) return print_list(jobs, args, devices.size() > 1);
  if (!args.explain.empty()) return explain(jobs);
  std::vector<Row> rows =
      run_jobs(jobs, args.work, [&](const Job& job) { return runner.run(job); });
  check_expected(rows, args, devices);
  for (const Device& d : devices) to_report.devices.push_back(d.name);
  to_report.seeds = seeds;
  if (report(rows, to_report) != 0) return 1;
  return to_report.missing.empty() ? 0 : kSkipped;
}

}  // namespace
}  // namespace mica::conformance

int main(int argc, char** argv) {
  mica::conformance::Arguments args;
  CLI::App app(
      "Runs every op's conformance cases on backends and compares them with the reference. Exit "
      "code 0: green, 1: a failure or a mistake in the arguments, 77: green, but not on a device "
      "that this machine lacks.");
  add_options(app, args);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 1;
  }
  try {
    return mica::conformance::run(args);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
