// Random graphs, built through the public API and run on devices and on the reference, fused and
// member by member, under the conformance suite's guard. A graph's number is its seed.
//   graph_fuzz [--first N] [--count N] [--backend DEVICE]... [--plugin FILE] [--jobs N]
//              [--seconds S] [--skip PIECE,...] [--show] [--go-on] [--brief]
// Graphs run in child processes, `--jobs` of them at once: one that crashes, or takes longer than a
// minute, is reported like a difference. What is reported is made smaller first, by leaving out
// pieces while it still fails; not with --brief. --go-on: after a difference too.
// Exit code 1 after a difference; 77 where none of the devices is there.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "tests/conformance/backends.h"
#include "tests/fuzz/graph_judge.h"

namespace mica::fuzz {
namespace {

constexpr unsigned kMostSeconds = 60;  // of a graph

struct Options {
  uint64_t first = 1, count = 1000;
  uint64_t n_jobs = 1;
  double seconds = 1e9;
  std::vector<std::string> names;  // of devices
  std::string plugin;
  std::vector<Device> devices;
  std::set<int> skip;
  bool show = false, go_on = false, brief = false;
};

// In memory that all processes share: what is to be done, and what each child does.
struct Board {
  std::atomic<uint64_t> current;
  Counts counts;
  char text[4096];
};
constexpr uint64_t kMostJobs = 256;
struct Shared {
  std::atomic<uint64_t> next;
  std::atomic<bool> stop;
  Board boards[kMostJobs];
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void print_case(const std::vector<std::string>& log) {
  for (const std::string& line : log) std::printf("%s\n", line.c_str());
}

template <class Fn>
pid_t start_child(Fn fn) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  const int code = fn();
  std::fflush(nullptr);
  _exit(code);
}
// A child's exit code, or 128 and the signal that ended it.
int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
template <class Fn>
int in_child(Fn fn) {
  const pid_t child = start_child(fn);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 127;
  return code_of(status);
}

// What kind of failure: a case is made smaller as long as it is the same.
int kind_of(const std::string& text) {
  if (text.empty()) return 0;
  if (text.find("UNSUPPORTED") != std::string::npos) return 4;
  if (text.find("was written") != std::string::npos) return 5;
  return text.find("nan") != std::string::npos ? 6 : 1;
}

int failure(const Options& o, uint64_t seed, const std::set<int>& skip, bool print) {
  return in_child([&] {
    alarm(kMostSeconds);
    Counts counts;
    if (!print && std::freopen("/dev/null", "w", stderr) == nullptr) return 2;
    const Verdict v = judge(seed, skip, o.devices, counts);
    if (print) std::printf("%s\n", v.text.c_str());
    return kind_of(v.text);
  });
}

// Leaves out pieces, in order from the last, while the case fails.
std::set<int> smaller(const Options& o, uint64_t seed, std::set<int> skip, int kind) {
  std::vector<int> pieces;
  for (const int piece : built(seed, skip).pieces) pieces.insert(pieces.begin(), piece);
  for (const int piece : pieces) {
    std::set<int> fewer = skip;
    if (fewer.insert(piece).second && failure(o, seed, fewer, false) == kind) skip = fewer;
  }
  return skip;
}

std::string replay_of(const Options& o, uint64_t seed) {
  std::string line = "graph_fuzz --first " + std::to_string(seed) + " --count 1";
  for (const Device& d : o.devices) line += " --backend " + d.name;
  return line + (o.plugin.empty() ? "" : " --plugin " + o.plugin);
}

void report(const Options& o, uint64_t seed, int code, const char* text) {
  if (code > 128)
    std::printf("graph %llu: ended by signal %d (%s)\n", static_cast<unsigned long long>(seed),
                code - 128, code - 128 == SIGALRM ? "it took too long" : strsignal(code - 128));
  else
    std::printf("graph %llu: %s\n", static_cast<unsigned long long>(seed), text);
  if (o.brief) return;
  const std::set<int> skip = smaller(o, seed, o.skip, code > 128 ? code : kind_of(text));
  std::string list;
  for (const int piece : skip) list += (list.empty() ? "" : ",") + std::to_string(piece);
  std::printf("--- %s --skip '%s':\n", replay_of(o, seed).c_str(), list.c_str());
  print_case(built(seed, skip).log);
  failure(o, seed, skip, true);
}

// Takes graphs, until one differs, there are no more, or the time is over.
int run_graphs(const Options& o, Shared& shared, Board& board, Clock::time_point start) {
  auto told = Clock::now();
  while (!shared.stop && seconds_since(start) <= o.seconds) {
    const uint64_t seed = shared.next++;
    if (seed >= o.first + o.count) return 0;
    board.current = seed;
    alarm(kMostSeconds);
    const Verdict v = judge(seed, o.skip, o.devices, board.counts);
    if (o.show) print_case(v.log);
    if (v.fails()) {
      std::snprintf(board.text, sizeof board.text, "%s", v.text.c_str());
      return 1;
    }
    if (&board != shared.boards || seconds_since(told) < 10) continue;
    std::fprintf(stderr, "%llu graphs\n", static_cast<unsigned long long>(seed - o.first));
    told = Clock::now();
  }
  return 0;
}

Counts sum_of(const Shared& shared) {
  Counts all;
  for (const Board& b : shared.boards) all.add(b.counts);
  return all;
}

// Keeps o.n_jobs children at work. Returns the graphs that failed.
std::vector<uint64_t> run_all(const Options& o, Shared& shared, Clock::time_point start) {
  std::map<pid_t, Board*> children;
  const auto add_child = [&](Board& board) {
    const pid_t child = start_child([&] { return run_graphs(o, shared, board, start); });
    if (child > 0) children[child] = &board;
  };
  for (uint64_t i = 0; i < o.n_jobs; ++i) add_child(shared.boards[i]);
  std::vector<uint64_t> failed;
  while (!children.empty()) {
    int status = 0;
    const pid_t child = waitpid(-1, &status, 0);
    const auto found = children.find(child);
    if (found == children.end()) break;
    Board& board = *found->second;
    children.erase(found);
    const int code = code_of(status);
    if (code == 0) continue;
    failed.push_back(board.current);
    if (!o.go_on) shared.stop = true;
    report(o, board.current, code, board.text);
    if (o.go_on) add_child(board);
  }
  return failed;
}

void summary(const Options& o, const Counts& c, const std::vector<uint64_t>& failed,
             double seconds) {
  std::string devices;
  for (const Device& d : o.devices) devices += " " + d.name;
  std::printf(
      "%llu graphs on%s, %llu runs, %llu values compared in %.1f s: %zu differ; %llu pieces were "
      "refused by builders, %llu graphs have a piece that a device cannot run, in %llu a rounding "
      "moved, %llu have a value that is not finite\n",
      static_cast<unsigned long long>(c.graphs), devices.c_str(),
      static_cast<unsigned long long>(c.runs), static_cast<unsigned long long>(c.values), seconds,
      failed.size(), static_cast<unsigned long long>(c.refused),
      static_cast<unsigned long long>(c.unsupported), static_cast<unsigned long long>(c.shaken),
      static_cast<unsigned long long>(c.infinite));
  for (const uint64_t seed : failed) std::printf("differs: %s\n", replay_of(o, seed).c_str());
}

bool is_there(const Device& device) {
  return in_child([&] {
           mica_context* context = nullptr;
           mica_device* opened = nullptr;
           const bool there = mica_context_create(nullptr, &context) == MICA_OK &&
                              mica_context_add_backend(context, device.backend) == MICA_OK &&
                              mica_device_open(context, device.name.c_str(), &opened) == MICA_OK;
           return there ? 0 : 1;
         }) == 0;
}

std::set<int> parse_skip(const char* text) {
  std::set<int> skip;
  for (const char* at = text; *at != '\0'; ++at) {
    char* end = nullptr;
    skip.insert(static_cast<int>(std::strtol(at, &end, 10)));
    at = end;
    if (*at == '\0') break;
  }
  return skip;
}

bool parse(int argc, char** argv, Options& o) {
  const std::map<std::string, bool*> flags = {
      {"--show", &o.show}, {"--go-on", &o.go_on}, {"--brief", &o.brief}};
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (const auto flag = flags.find(arg); flag != flags.end()) {
      *flag->second = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* value = argv[++i];
    if (arg == "--first")
      o.first = std::strtoull(value, nullptr, 10);
    else if (arg == "--count")
      o.count = std::strtoull(value, nullptr, 10);
    else if (arg == "--jobs")
      o.n_jobs = std::strtoull(value, nullptr, 10);
    else if (arg == "--seconds")
      o.seconds = std::strtod(value, nullptr);
    else if (arg == "--backend")
      o.names.push_back(value);
    else if (arg == "--plugin")
      o.plugin = value;
    else if (arg == "--skip")
      o.skip = parse_skip(value);
    else
      return false;
  }
  return o.n_jobs >= 1 && o.n_jobs <= kMostJobs;
}

// Throws std::runtime_error where a device's backend is none.
void find_devices(Options& o) {
  const mica_backend* loaded = o.plugin.empty() ? nullptr : conformance::load_plugin(o.plugin);
  if (o.names.empty()) o.names.push_back(loaded != nullptr ? loaded->name : "cpu");
  for (const std::string& name : o.names) {
    const std::string base = name.substr(0, name.find(':'));
    const mica_backend* backend =
        loaded != nullptr && base == loaded->name ? loaded : conformance::builtin_backend(base);
    if (backend == nullptr) throw std::runtime_error("no backend " + base);
    const Device device{name, backend};
    if (is_there(device))
      o.devices.push_back(device);
    else
      std::printf("%s: not run, it is not there\n", name.c_str());
  }
}

int main_of(Options& o) {
  find_devices(o);
  if (o.devices.empty()) return 77;
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  Shared& shared = *new (memory) Shared();
  shared.next = o.first;
  const auto start = Clock::now();
  const std::vector<uint64_t> failed = run_all(o, shared, start);
  summary(o, sum_of(shared), failed, seconds_since(start));
  return failed.empty() ? 0 : 1;
}

}  // namespace
}  // namespace mica::fuzz

int main(int argc, char** argv) try {
  mica::fuzz::Options options;
  if (mica::fuzz::parse(argc, argv, options)) return mica::fuzz::main_of(options);
  std::fprintf(
      stderr,
      "graph_fuzz [--first N] [--count N] [--backend DEVICE]... [--plugin FILE] [--jobs N] "
      "[--seconds S] [--skip PIECE,...] [--show] [--go-on] [--brief]\n");
  return 2;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
