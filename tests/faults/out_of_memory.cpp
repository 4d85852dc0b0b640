// A program whose n-th allocation fails succeeds, or ends with exit code 1 and a sentence that
// names the memory; never by a signal.
//   out_of_memory FAIL_NTH_LIBRARY all|FIRST,STEP PROGRAM ARGS...
// all: each n. FIRST,STEP: the first FIRST, then every STEP-th.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

struct Ended {
  int status = 0;
  std::string errors;  // stderr
};

class Runner {
 public:
  Runner(const char* library, char** command) : library_(library), command_(command) {
    char folder[] = "/tmp/out_of_memory.XXXXXX";
    folder_ = mkdtemp(folder);
  }
  ~Runner() {
    (void)std::remove(file("errors").c_str());
    (void)std::remove(file("count").c_str());
    (void)rmdir(folder_.c_str());
  }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // n 0: none fails.
  Ended run(long n) const {
    std::vector<std::string> added = {"LD_PRELOAD=" + library_,
                                      "MICA_FAIL_MALLOC=" + std::to_string(n),
                                      "MICA_COUNT_FILE=" + file("count")};
    std::vector<char*> environment;
    for (char** e = environ; *e != nullptr; ++e) environment.push_back(*e);
    for (std::string& text : added) environment.push_back(text.data());
    environment.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, file("errors").c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid = 0;
    Ended ended;
    if (posix_spawn(&pid, command_[0], &actions, nullptr, command_, environment.data()) != 0 ||
        waitpid(pid, &ended.status, 0) != pid) {
      std::perror(command_[0]);
      std::exit(1);
    }
    posix_spawn_file_actions_destroy(&actions);
    std::ifstream errors(file("errors"), std::ios::binary);
    ended.errors.assign(std::istreambuf_iterator<char>(errors), std::istreambuf_iterator<char>());
    return ended;
  }
  long count() const {
    long n = 0;
    std::ifstream(file("count")) >> n;
    return n;
  }

 private:
  std::string file(const char* name) const { return folder_ + "/" + name; }

  std::string library_, folder_;
  char** command_;
};

bool is_right(const Ended& ended) {
  if (!WIFEXITED(ended.status)) return false;
  if (WEXITSTATUS(ended.status) == 0) return true;
  // "out of host memory", "out of memory: …", or a thread that found none.
  return WEXITSTATUS(ended.status) == 1 && (ended.errors.find("memory") != std::string::npos ||
                                            ended.errors.find("threads") != std::string::npos);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "out_of_memory LIBRARY all|FIRST,STEP PROGRAM ARGS...\n");
    return 1;
  }
  long first = 0, step = 1;
  if (std::strcmp(argv[2], "all") != 0 && std::sscanf(argv[2], "%ld,%ld", &first, &step) != 2) {
    std::fprintf(stderr, "'%s' is neither all nor FIRST,STEP\n", argv[2]);
    return 1;
  }
  const Runner runner(argv[1], argv + 3);
  const Ended whole = runner.run(0);
  const long n_allocations = runner.count();
  if (whole.status != 0 || n_allocations < 100) {
    std::fprintf(stderr, "status %d and %ld allocations when none fails\n%s", whole.status,
                 n_allocations, whole.errors.c_str());
    return 1;
  }
  long n_runs = 0, n_refused = 0, n_wrong = 0;
  for (long n = 1; n <= n_allocations; n += n < first ? 1 : step) {
    const Ended ended = runner.run(n);
    ++n_runs;
    n_refused += ended.status != 0 ? 1 : 0;
    if (is_right(ended)) continue;
    if (++n_wrong <= 20)
      std::fprintf(stderr, "allocation %ld: %s %d: %s\n", n,
                   WIFSIGNALED(ended.status) ? "signal" : "exit code",
                   WIFSIGNALED(ended.status) ? WTERMSIG(ended.status) : WEXITSTATUS(ended.status),
                   ended.errors.substr(0, 300).c_str());
  }
  std::printf("%s: %ld of %ld allocations failed in turn: %ld refused, %ld wrong\n", argv[3],
              n_runs, n_allocations, n_refused, n_wrong);
  return n_wrong == 0 && n_refused > 0 ? 0 : 1;
}
