// Random graphs, built through the public API and run on devices and on the reference, fused and
// member by member, under the conformance suite's guard. A graph's number is its seed.
//   graph_fuzz [--first N] [--count N] [--backend DEVICE]... [--seconds S] [--skip PIECE,...]
//              [--show]
// Graphs run in a child process: one that crashes, or takes longer than a minute, is reported like
// a difference. What is reported is made smaller first, by leaving out pieces while it still fails.
// Exit code 1 after a difference; 77 where none of the devices is there.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tests/fuzz/graph_judge.h"

namespace mica::fuzz {
namespace {

constexpr unsigned kMostSeconds = 60;  // of a graph

struct Options {
  uint64_t first = 1, count = 1000;
  double seconds = 1e9;
  std::vector<std::string> devices;
  std::set<int> skip;
  bool show = false, go_on = false;
};

// In memory that parent and child share.
struct Board {
  volatile uint64_t current;
  Counts counts;
  char text[4096];
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void print_case(const std::vector<std::string>& log) {
  for (const std::string& line : log) std::printf("%s\n", line.c_str());
}

// Runs `fn` in a child. Its exit code, or 128 and the signal that ended it.
template <class Fn>
int in_child(Fn fn) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const int code = fn();
    std::fflush(nullptr);
    _exit(code);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
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

void report(const Options& o, uint64_t seed, int code, const char* text) {
  if (code > 128)
    std::printf("graph %llu: ended by signal %d (%s)\n", static_cast<unsigned long long>(seed),
                code - 128, code - 128 == SIGALRM ? "it took too long" : strsignal(code - 128));
  else
    std::printf("graph %llu: %s\n", static_cast<unsigned long long>(seed), text);
  const std::set<int> skip = smaller(o, seed, o.skip, code > 128 ? code : kind_of(text));
  std::string list;
  for (const int piece : skip) list += (list.empty() ? "" : ",") + std::to_string(piece);
  std::printf("--- with --first %llu --count 1 --skip '%s':\n",
              static_cast<unsigned long long>(seed), list.c_str());
  print_case(built(seed, skip).log);
  failure(o, seed, skip, true);
}

// Graphs from `from` on, until one differs or the time is over.
int run_from(const Options& o, uint64_t from, Board& board, Clock::time_point start) {
  auto last = Clock::now();
  for (uint64_t seed = from; seed < o.first + o.count; ++seed) {
    board.current = seed;
    if (seconds_since(start) > o.seconds) return 3;
    alarm(kMostSeconds);
    const Verdict v = judge(seed, o.skip, o.devices, board.counts);
    if (o.show) print_case(v.log);
    if (v.fails()) {
      std::snprintf(board.text, sizeof board.text, "%s", v.text.c_str());
      return 1;
    }
    if (seconds_since(last) > 10) {
      std::fprintf(stderr, "%llu graphs\n", static_cast<unsigned long long>(board.counts.graphs));
      last = Clock::now();
    }
  }
  return 0;
}

void summary(const Options& o, const Counts& c, uint64_t n_failed, double seconds) {
  std::string devices;
  for (const std::string& d : o.devices) devices += " " + d;
  std::printf(
      "%llu graphs on%s, %llu runs, %llu values compared in %.1f s: %llu differ; %llu pieces were "
      "refused by builders, %llu graphs have a piece that a device cannot run, in %llu a rounding "
      "moved, %llu have a value that is not finite\n",
      static_cast<unsigned long long>(c.graphs), devices.c_str(),
      static_cast<unsigned long long>(c.runs), static_cast<unsigned long long>(c.values), seconds,
      static_cast<unsigned long long>(n_failed), static_cast<unsigned long long>(c.refused),
      static_cast<unsigned long long>(c.unsupported), static_cast<unsigned long long>(c.jittered),
      static_cast<unsigned long long>(c.infinite));
}

bool is_there(const std::string& device) {
  return in_child([&] {
           Counts counts;
           RunSettings s;
           s.seed = 1;
           s.device = device;
           mica_context* context = nullptr;
           mica_device* opened = nullptr;
           if (mica_context_create(nullptr, &context) != MICA_OK) return 1;
           for (const mica_backend* b : {mica_backend_ref(), mica_backend_cpu(),
                                         mica_backend_cuda(), mica_backend_vulkan()})
             if (mica_context_add_backend(context, b) != MICA_OK) return 1;
           return mica_device_open(context, device.c_str(), &opened) == MICA_OK ? 0 : 1;
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
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--show" || arg == "--go-on") {
      (arg == "--show" ? o.show : o.go_on) = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* value = argv[++i];
    if (arg == "--first")
      o.first = std::strtoull(value, nullptr, 10);
    else if (arg == "--count")
      o.count = std::strtoull(value, nullptr, 10);
    else if (arg == "--seconds")
      o.seconds = std::strtod(value, nullptr);
    else if (arg == "--backend")
      o.devices.push_back(value);
    else if (arg == "--skip")
      o.skip = parse_skip(value);
    else
      return false;
  }
  if (o.devices.empty()) o.devices.push_back("cpu");
  return true;
}

int main_of(Options o) {
  std::vector<std::string> there;
  for (const std::string& d : o.devices) {
    if (is_there(d))
      there.push_back(d);
    else
      std::printf("%s: not run, it is not there\n", d.c_str());
  }
  o.devices = there;
  if (there.empty()) return 77;
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  Board& board = *new (memory) Board();
  const auto start = Clock::now();
  uint64_t n_failed = 0;
  for (uint64_t from = o.first; from < o.first + o.count; from = board.current + 1) {
    const int code = in_child([&] { return run_from(o, from, board, start); });
    if (code == 0 || code == 3) break;
    ++n_failed;
    report(o, board.current, code, board.text);
    if (!o.go_on) break;
  }
  summary(o, board.counts, n_failed, seconds_since(start));
  return n_failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace mica::fuzz

int main(int argc, char** argv) {
  mica::fuzz::Options options;
  if (mica::fuzz::parse(argc, argv, options)) return mica::fuzz::main_of(options);
  std::fprintf(stderr,
               "graph_fuzz [--first N] [--count N] [--backend DEVICE]... [--seconds S] "
               "[--skip PIECE,...] [--show] [--go-on]\n");
  return 2;
}
