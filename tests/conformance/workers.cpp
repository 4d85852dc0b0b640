#include "tests/conformance/workers.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace mica::conformance {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMostText = 16384;
constexpr unsigned kMostSecondsToEnd = 60;

// Jobs [first, last), from the parent to a worker.
struct Order {
  size_t first, last;
};
// From a worker: a job begins, or it has ended and the verdict's text follows.
struct Report {
  size_t job;
  bool begins;
  int kind;
  double worst, seconds;
};

struct Worker {
  pid_t pid = -1;
  int fd = -1;
  Order order{0, 0};  // what is left of its group; first == last: none
  Clock::time_point since;
};

void work_off(int fd, const std::vector<Job>& jobs,
              const std::function<Verdict(const Job&)>& work) {
  Order order;
  while (recv(fd, &order, sizeof order, 0) == static_cast<ssize_t>(sizeof order)) {
    for (size_t i = order.first; i < order.last; ++i) {
      Report report{i, true, 0, 0, 0};
      if (send(fd, &report, sizeof report, MSG_NOSIGNAL) < 0) return;
      const Verdict v = work(jobs[i]);
      report = {i, false, v.kind, v.worst, v.seconds};
      std::string message(reinterpret_cast<const char*>(&report), sizeof report);
      message += v.text.substr(0, kMostText);
      if (send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0) return;
    }
  }
}

class Pool {
 public:
  Pool(const std::vector<Job>& jobs, const WorkOptions& options,
       const std::function<Verdict(const Job&)>& work)
      : jobs_(jobs), options_(options), work_(work), verdicts_(jobs.size()) {}

  std::vector<Row> run() {
    workers_.resize(std::max(1u, options_.n_workers));
    for (Worker& w : workers_) hand_out(w);
    while (busy()) wait();
    for (Worker& w : workers_) end(w);
    if (progress_) std::fprintf(stderr, "\r                    \r");
    std::vector<Row> rows;
    for (size_t i = 0; i < jobs_.size(); ++i)
      rows.push_back({jobs_[i].id(), jobs_[i].c->op, jobs_[i].device->name, jobs_[i].seed,
                      verdicts_[i], jobs_[i].c->may_refuse});
    return rows;
  }

 private:
  bool busy() const {
    return std::any_of(workers_.begin(), workers_.end(),
                       [](const Worker& w) { return w.order.first < w.order.last; });
  }

  void start(Worker& w) {
    int fds[2];
    // Packets: a message is read whole or not at all.
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) != 0)
      throw std::runtime_error("a socket pair for a worker cannot be made");
    std::fflush(stdout);
    w.pid = fork();
    if (w.pid < 0) throw std::runtime_error("a worker process cannot be started");
    if (w.pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // a job that hangs must not outlive this program
      close(fds[0]);
      for (const Worker& other : workers_)
        if (other.fd >= 0) close(other.fd);
      work_off(fds[1], jobs_, work_);
      alarm(kMostSecondsToEnd);
      if (options_.at_end) options_.at_end();
      std::fflush(stdout);  // what a plug-in printed
      _exit(0);
    }
    close(fds[1]);
    w.fd = fds[0];
  }

  // The next group, or nothing when there is none left.
  void hand_out(Worker& w) {
    w.order = {next_, next_};
    if (next_ == jobs_.size()) return;
    while (w.order.last < jobs_.size() && jobs_[w.order.last].same_group(jobs_[next_]))
      ++w.order.last;
    next_ = w.order.last;
    give(w);
  }

  void give(Worker& w) {
    if (w.fd < 0) start(w);
    w.since = Clock::now();
    // A worker that died just now is seen when its end of the line is read.
    if (send(w.fd, &w.order, sizeof w.order, MSG_NOSIGNAL) < 0) kill(w.pid, SIGKILL);
  }

  int end(Worker& w) {
    int status = 0;
    if (w.fd < 0) return status;
    close(w.fd);
    waitpid(w.pid, &status, 0);
    w.fd = -1;
    return status;
  }

  void lost(Worker& w, const std::string& why) {
    std::fprintf(stderr, "%s on %s %s\n", jobs_[w.order.first].id().c_str(),
                 jobs_[w.order.first].device->name.c_str(), why.c_str());
    verdicts_[w.order.first] = {Verdict::kFail, why};
    go_on(w);
  }

  void go_on(Worker& w) {
    if (progress_ && ++n_done_ % 16 == 0)
      std::fprintf(stderr, "\r%zu of %zu ", n_done_, jobs_.size());
    ++w.order.first;
    if (w.order.first == w.order.last) {
      hand_out(w);
    } else if (w.fd < 0) {
      give(w);  // the rest of the group, in a new process
    }
  }

  void receive(Worker& w) {
    char message[sizeof(Report) + kMostText];
    const ssize_t n = recv(w.fd, message, sizeof message, 0);
    if (n < static_cast<ssize_t>(sizeof(Report))) {
      const int status = end(w);
      lost(w, WIFSIGNALED(status)
                  ? "crashed with signal " + std::to_string(WTERMSIG(status))
                  : "ended its process with status " + std::to_string(WEXITSTATUS(status)));
      return;
    }
    Report report;
    std::memcpy(&report, message, sizeof report);
    w.since = Clock::now();
    if (report.begins) return;
    verdicts_[report.job] = {static_cast<Verdict::Kind>(report.kind),
                             std::string(message + sizeof report, message + n), report.worst,
                             report.seconds};
    go_on(w);
  }

  void check_time(Worker& w) {
    const std::chrono::duration<double> taken = Clock::now() - w.since;
    if (w.order.first == w.order.last || taken.count() <= options_.timeout) return;
    kill(w.pid, SIGKILL);
    end(w);
    char text[64];
    std::snprintf(text, sizeof text, "did not end within %g s and was killed", options_.timeout);
    lost(w, text);
  }

  void wait() {
    std::vector<pollfd> fds;
    std::vector<Worker*> of;
    double left = std::min(options_.timeout, 3600.0);
    for (Worker& w : workers_) {
      if (w.order.first == w.order.last) continue;
      fds.push_back({w.fd, POLLIN, 0});
      of.push_back(&w);
      const std::chrono::duration<double> taken = Clock::now() - w.since;
      left = std::min(left, options_.timeout - taken.count());
    }
    if (poll(fds.data(), fds.size(), static_cast<int>(std::max(0.0, left) * 1000) + 1) < 0) return;
    for (size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].revents != 0) {
        receive(*of[i]);
      } else {
        check_time(*of[i]);
      }
    }
  }

  const std::vector<Job>& jobs_;
  const WorkOptions& options_;
  const std::function<Verdict(const Job&)>& work_;
  std::vector<Verdict> verdicts_;
  std::vector<Worker> workers_;
  size_t next_ = 0, n_done_ = 0;
  const bool progress_ = isatty(STDERR_FILENO) != 0;
};

}  // namespace

std::vector<Row> run_jobs(const std::vector<Job>& jobs, const WorkOptions& options,
                          const std::function<Verdict(const Job&)>& work) {
  return Pool(jobs, options, work).run();
}

}  // namespace mica::conformance
