// The conformance suite: every op's cases on a backend, against the double-precision reference.
//   conformance --backend cpu:avx2 [--op matmul] [--case q4_0.k576.m7] [--seed 3] ...
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/conformance/guard.h"
#include "tests/conformance/judge.h"

namespace mica::conformance {
#define MICA_CASE_FAMILY(family) void cases_##family(CaseList& list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
void cases_regions(CaseList& list);
void cases_whole_graphs(CaseList& list);
void cases_exact(CaseList& list);
void cases_alias(CaseList& list);

namespace {

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

struct Arguments {
  std::string backend = "cpu", plugin, op, case_name, expect, explain, output = "table";
  uint64_t seed = 1;
  bool list = false, write_expect = false, perf = false, reduced = false;
};

struct Row {
  std::string id;  // op/case[/variant]
  std::string op;
  Verdict verdict;
  bool crashed = false;
};

CaseList all_cases() {
  CaseList list;
#define MICA_CASE_FAMILY(family) cases_##family(list);
#include "case_families.def"
#undef MICA_CASE_FAMILY
  cases_regions(list);
  cases_whole_graphs(list);
  cases_exact(list);
  cases_alias(list);
  return list;
}

const mica_backend* find_backend(const Arguments& args, std::string& error) {
  if (!args.plugin.empty()) {
    const std::string path =
        args.plugin.find('/') == std::string::npos ? "./" + args.plugin : args.plugin;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      error = dlerror();
      return nullptr;
    }
    auto entry = reinterpret_cast<mica_backend_entry_fn>(dlsym(library, "mica_backend_entry"));
    if (entry == nullptr) error = args.plugin + " does not export mica_backend_entry";
    return entry != nullptr ? entry() : nullptr;
  }
  const std::string name = args.backend.substr(0, args.backend.find(':'));
  if (name == "ref") return mica_backend_ref();
  if (name == "cpu") return mica_backend_cpu();
  if (name == "cuda") return mica_backend_cuda();
  if (name == "vulkan") return mica_backend_vulkan();
  error = "no backend " + name + "; there are: ref, cpu, cuda, vulkan, or --plugin FILE.so";
  return nullptr;
}

struct Job {
  const Case* c;
  std::string variant;
  bool unfused;
  std::string id() const {
    return c->op + "/" + c->name + (variant.empty() ? "" : "/" + variant) +
           (unfused ? "/unfused" : "");
  }
};

bool selected(const Case& c, const Arguments& args, size_t index) {
  if (!args.op.empty() && c.op != args.op) return false;
  if (!args.case_name.empty() && args.case_name.find(c.name) == std::string::npos) return false;
  return !args.reduced || index % 7 == 0;  // for sanitizers: a seventh of every op's cases
}

std::vector<Job> make_jobs(const CaseList& list, const Arguments& args) {
  std::vector<Job> jobs;
  std::map<std::string, size_t> seen;
  for (const Case& c : list.cases) {
    if (!selected(c, args, seen[c.op]++)) continue;
    for (const char* variant : {"", "naive"}) jobs.push_back({&c, variant, false});
    jobs.push_back({&c, "", true});
  }
  if (!args.case_name.empty() && args.case_name.find('/') != std::string::npos)
    std::erase_if(jobs, [&](const Job& j) { return j.id() != args.case_name; });
  return jobs;
}

Verdict run_job(const Job& job, const Arguments& args, const mica_backend* backend) {
  RunOptions options;
  options.backend = backend;
  options.device = args.backend;
  options.variant = job.variant;
  options.unfused = job.unfused;
  options.seed = args.seed;
  options.n_timed = args.perf && job.variant.empty() && !job.unfused ? 21 : 0;
  if ((!job.variant.empty() || job.unfused) && planned_alike(*job.c, options))
    return {Verdict::kSame, ""};
  Verdict v = judge(*job.c, options);
  const std::string complaint = guards_complaint(Role::kTested);
  if (!complaint.empty() && v.kind == Verdict::kPass) v = {Verdict::kFail, complaint};
  return v;
}

std::string explain_job(const Job& job, const Arguments& args, const mica_backend* backend) {
  RunOptions options;
  options.backend = backend;
  options.device = args.backend;
  options.variant = job.variant;
  options.unfused = job.unfused;
  options.seed = args.seed;
  const RunResult result = run_case(*job.c, options);
  return result.status == MICA_OK ? result.explain : result.text + "\n";
}

// One line a verdict through the pipe: kind, worst, seconds, text.
void send(FILE* pipe, size_t job, const Verdict& v) {
  std::string text = v.text;
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::fprintf(pipe, "%zu %d %.17g %.17g %s\n", job, static_cast<int>(v.kind), v.worst, v.seconds,
               text.c_str());
  std::fflush(pipe);
}

bool receive(FILE* pipe, size_t& job, Verdict& v) {
  char text[2048];
  int kind = 0;
  if (std::fscanf(pipe, "%zu %d %lg %lg", &job, &kind, &v.worst, &v.seconds) != 4) return false;
  if (std::fgets(text, sizeof text, pipe) == nullptr) return false;
  v.kind = static_cast<Verdict::Kind>(kind);
  v.text = text[0] == ' ' ? text + 1 : text;
  while (!v.text.empty() && v.text.back() == '\n') v.text.pop_back();
  return true;
}

// Keeps a device open: on a GPU what a case opens then is there already, and takes no second.
class HeldDevice {
 public:
  HeldDevice(const Arguments& args, const mica_backend* backend) {
    if (mica_context_create(nullptr, &context_) == MICA_OK &&
        mica_context_add_backend(context_, backend) == MICA_OK)
      mica_device_open(context_, args.backend.c_str(), &device_);
  }
  ~HeldDevice() {
    mica_device_release(device_);
    mica_context_release(context_);
  }
  HeldDevice(const HeldDevice&) = delete;
  HeldDevice& operator=(const HeldDevice&) = delete;

 private:
  mica_context* context_ = nullptr;
  mica_device* device_ = nullptr;
};

// Runs jobs in a child process, so that a crash costs one case; a new child goes on behind it.
std::vector<Row> run_jobs(const std::vector<Job>& jobs, const Arguments& args,
                          const mica_backend* backend) {
  std::vector<Row> rows;
  size_t next = 0;
  const bool progress = isatty(STDERR_FILENO) != 0;
  while (next < jobs.size()) {
    int fd[2];
    if (pipe(fd) != 0) throw std::runtime_error("pipe failed");
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      close(fd[0]);
      FILE* out = fdopen(fd[1], "w");
      {
        const HeldDevice held(args, backend);
        for (size_t i = next; i < jobs.size(); ++i) send(out, i, run_job(jobs[i], args, backend));
      }
      std::fclose(out);
      _exit(0);
    }
    close(fd[1]);
    FILE* in = fdopen(fd[0], "r");
    size_t job = 0;
    Verdict v;
    while (receive(in, job, v)) {
      if (v.kind != Verdict::kSame) rows.push_back({jobs[job].id(), jobs[job].c->op, v});
      next = job + 1;
      if (progress && next % 16 == 0) std::fprintf(stderr, "\r%zu of %zu ", next, jobs.size());
    }
    std::fclose(in);
    int status = 0;
    waitpid(child, &status, 0);
    if (next < jobs.size()) {
      const std::string how = WIFSIGNALED(status)
                                  ? "crashed with signal " + std::to_string(WTERMSIG(status))
                                  : "left with status " + std::to_string(WEXITSTATUS(status));
      rows.push_back({jobs[next].id(), jobs[next].c->op, {Verdict::kFail, how}, true});
      ++next;
    }
  }
  if (progress) std::fprintf(stderr, "\r                    \r");
  return rows;
}

using Expected = std::map<std::string, std::string>;  // id -> reason

Expected read_expected(const std::string& path) {
  Expected expected;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) expected[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return expected;
}

// What is unsupported must be listed, and what is listed must be unsupported.
void apply_expected(std::vector<Row>& rows, const Expected& expected, bool whole) {
  std::set<std::string> met;
  for (Row& r : rows) {
    if (r.verdict.kind == Verdict::kUnsupported) {
      if (expected.count(r.id) != 0) {
        met.insert(r.id);
      } else {
        r.verdict = {Verdict::kFail, "unsupported and not listed: " + r.verdict.text};
      }
    }
  }
  if (!whole) return;
  for (const auto& [id, reason] : expected)
    if (met.count(id) == 0)
      rows.push_back({id,
                      id.substr(0, id.find('/')),
                      {Verdict::kFail, "listed as unsupported, but is not (stale line)"}});
}

void write_expected(const std::string& path, const std::vector<Row>& rows) {
  std::ofstream file(path);
  file
      << "# Cases this backend does not support, with its reason. A stale or missing line fails.\n";
  for (const Row& r : rows)
    if (r.verdict.kind == Verdict::kUnsupported) file << r.id << ": " << r.verdict.text << "\n";
}

struct Tally {
  size_t passed = 0, failed = 0, unsupported = 0;
  double worst = 0;
};

int report(const std::vector<Row>& rows, const Arguments& args) {
  std::map<std::string, Tally> tallies;
  size_t failed = 0;
  for (const Row& r : rows) {
    Tally& t = tallies[r.op];
    t.worst = std::max(t.worst, r.verdict.worst);
    if (r.verdict.kind == Verdict::kPass) ++t.passed;
    if (r.verdict.kind == Verdict::kUnsupported) ++t.unsupported;
    if (r.verdict.kind == Verdict::kFail) ++t.failed, ++failed;
  }
  if (args.output == "json") {
    nlohmann::json out = {{"backend", args.backend}, {"seed", args.seed}};
    const char* const kinds[] = {"pass", "fail", "unsupported"};
    for (const Row& r : rows)
      out["cases"].push_back({{"id", r.id},
                              {"result", kinds[r.verdict.kind]},
                              {"text", r.verdict.text},
                              {"worst", std::isfinite(r.verdict.worst) ? r.verdict.worst : 1e99},
                              {"median_us", r.verdict.seconds * 1e6}});
    std::cout << out.dump(1) << "\n";
    return failed != 0 ? 1 : 0;
  }
  for (const Row& r : rows) {
    if (r.verdict.kind == Verdict::kFail) {
      std::printf("FAIL %s: %s\n", r.id.c_str(), r.verdict.text.c_str());
      std::printf("  replay: conformance --backend %s%s%s --seed %llu --case %s\n",
                  args.backend.c_str(), args.plugin.empty() ? "" : " --plugin ",
                  args.plugin.c_str(), static_cast<unsigned long long>(args.seed), r.id.c_str());
    } else if (args.perf && r.verdict.seconds > 0) {
      std::printf("%-60s %10.2f us\n", r.id.c_str(), r.verdict.seconds * 1e6);
    }
  }
  std::printf("%-12s %8s %8s %12s %14s\n", "op", "passed", "failed", "unsupported", "error/bound");
  size_t passed = 0;
  for (const auto& [op, t] : tallies) {
    passed += t.passed;
    std::printf("%-12s %8zu %8zu %12zu %14.3f\n", op.c_str(), t.passed, t.failed, t.unsupported,
                t.worst);
  }
  std::printf("%s, seed %llu\n%zu passed, %zu failed\n", args.backend.c_str(),
              static_cast<unsigned long long>(args.seed), passed, failed);
  return failed != 0 ? 1 : 0;
}

// Whether the device exists here: an ISA this machine lacks is "not run", never green.
int check_device(const Arguments& args, const mica_backend* backend) {
  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_status status = mica_context_create(nullptr, &context);
  if (status == MICA_OK) status = mica_context_add_backend(context, backend);
  if (status == MICA_OK) status = mica_device_open(context, args.backend.c_str(), &device);
  int code = 0;
  if (status == MICA_NO_DEVICE) {
    std::printf("not run: %s\n", mica_context_error(context));
    code = kSkipped;
  } else if (status != MICA_OK) {
    std::fprintf(stderr, "%s\n", mica_context_error(context));
    code = 1;
  }
  mica_device_release(device);
  mica_context_release(context);
  return code;
}

// In a process of its own: CUDA, once used, does not work in children of the process.
int check_device_apart(const Arguments& args, const mica_backend* backend) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const int code = check_device(args, backend);
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  std::fprintf(stderr, "opening %s crashed\n", args.backend.c_str());
  return 1;
}

int run(const Arguments& args) {
  const CaseList list = all_cases();
  const std::vector<Job> jobs = make_jobs(list, args);
  if (args.list) {
    for (const Job& j : jobs) std::printf("%s\n", j.id().c_str());
    return 0;
  }
  std::string error;
  const mica_backend* inner = find_backend(args, error);
  if (inner == nullptr) {
    std::fprintf(stderr, "%s\n", error.c_str());
    return 1;
  }
  const mica_backend* backend = guarded(inner, Role::kTested);
  if (const int code = check_device_apart(args, backend); code != 0) return code;
  if (jobs.empty()) {
    std::fprintf(stderr, "no such case\n");
    return 1;
  }
  if (!args.explain.empty()) {
    for (const Job& job : jobs)
      if (job.id() == args.explain) std::printf("%s", explain_job(job, args, backend).c_str());
    return 0;
  }
  std::vector<Row> rows = run_jobs(jobs, args, backend);
  const std::string base = args.backend.substr(0, args.backend.find(':'));
  const std::string path =
      args.expect.empty() ? std::string(MICA_EXPECT_DIR) + "/" + base + ".txt" : args.expect;
  if (args.write_expect) {
    write_expected(path, rows);
  } else {
    apply_expected(rows, read_expected(path),
                   args.op.empty() && args.case_name.empty() && !args.reduced);
  }
  return report(rows, args);
}

}  // namespace
}  // namespace mica::conformance

int main(int argc, char** argv) {
  mica::conformance::Arguments args;
  CLI::App app("Runs every op's conformance cases on a backend against the reference.");
  app.add_option("--backend", args.backend, "device, e.g. ref, cpu, cpu:avx2")
      ->capture_default_str();
  app.add_option("--plugin", args.plugin, "load the backend from this shared object");
  app.add_option("--op", args.op, "only this op");
  app.add_option("--case", args.case_name, "only this case (as --list prints it)");
  app.add_option("--explain", args.explain, "print how this case is planned");
  app.add_option("--seed", args.seed, "seed of the inputs")->capture_default_str();
  app.add_option("--expect", args.expect, "list of cases that may be unsupported");
  app.add_option("-o,--output", args.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  app.add_flag("--list", args.list, "print the cases");
  app.add_flag("--write-expect", args.write_expect, "write that list");
  app.add_flag("--perf", args.perf, "median time of each case");
  app.add_flag("--reduced", args.reduced, "a seventh of the cases, for slow builds");
  CLI11_PARSE(app, argc, argv);
  try {
    return mica::conformance::run(args);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
