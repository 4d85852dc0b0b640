// Threads: started when a device is opened, asleep when there is nothing to do.
#include "backends/cpu/pool.h"

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace mica::cpu {
namespace {

constexpr size_t kStackBytes = size_t{1} << 20;

long futex(std::atomic<uint32_t>& word, int op, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), op | FUTEX_PRIVATE_FLAG, value,
                 nullptr, nullptr, 0);
}

struct Loop : Task {
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> left{0};
  int64_t n = 0;
  void (*fn)(void* arg, int64_t i) = nullptr;
  void* arg = nullptr;
  Event done;
};

void enter_loop(Task* task, uint32_t) {
  Loop& loop = *static_cast<Loop*>(task);
  int64_t mine = 0;
  for (int64_t i = loop.next.fetch_add(1); i < loop.n; i = loop.next.fetch_add(1), ++mine) {
    loop.fn(loop.arg, i);
  }
  if (mine > 0 && loop.left.fetch_sub(mine) == mine) loop.done.notify();
}

}  // namespace

void Event::sleep(uint32_t ticket) { futex(sequence_, FUTEX_WAIT, ticket); }
void Event::wake_all() { futex(sequence_, FUTEX_WAKE, INT_MAX); }

mica_status Pool::start(uint32_t n_threads, const mica_executor* executor, Error& error) {
  n_threads_ = n_threads;
  executor_ = executor;
  if (executor != nullptr || n_threads <= 1) return MICA_OK;
  const uint32_t n = n_threads - 1;
  workers_ = static_cast<Worker*>(allocate(*allocator_, n * sizeof(Worker), alignof(Worker)));
  if (workers_ == nullptr) return error.out_of_memory("the threads of the cpu device");
  for (uint32_t i = 0; i < n; ++i) {
    new (workers_ + i) Worker;
    workers_[i].pool = this;
    workers_[i].index = i + 1;
  }
  // Signals are for the host program's own threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_attr_t attributes;
  int failed = pthread_attr_init(&attributes);
  if (failed != 0) return error.out_of_memory("the threads of the cpu device");
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (uint32_t i = 0; i < n && failed == 0; ++i) {
    failed = pthread_create(&workers_[i].thread, &attributes, main, workers_ + i);
    if (failed == 0) ++n_workers_;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  pthread_attr_destroy(&attributes);
  if (failed == 0) return MICA_OK;
  const uint32_t started = n_workers_;
  stop();
  return error.fail(MICA_OUT_OF_MEMORY, "the system gave ", started + 1, " of ", n_threads,
                    " threads");
}

void Pool::stop() {
  stopping_.store(true);
  generation_.fetch_add(1);
  published_.notify();
  for (uint32_t i = 0; i < n_workers_; ++i) pthread_join(workers_[i].thread, nullptr);
  if (workers_ != nullptr) deallocate(*allocator_, workers_, (n_threads_ - 1) * sizeof(Worker));
  workers_ = nullptr;
  n_workers_ = 0;
}

void* Pool::main(void* worker) {
  Worker& self = *static_cast<Worker*>(worker);
  self.pool->serve(self);
  return nullptr;
}

void Pool::serve(Worker& self) {
  Spin spin;
  uint32_t seen = 0;
  while (!stopping_.load()) {
    published_.await(spin, [&] { return generation_.load() != seen; });
    seen = generation_.load();
    Task* task = task_.load();
    if (task == nullptr) continue;
    // Announced, then checked again: from here on drain() sees this thread, or it sees the
    // retraction.
    self.inside.store(task);
    if (task_.load() == task) task->enter(task, self.index);
    self.inside.store(nullptr);
    left_.notify();
  }
}

void Pool::publish(Task& task) {
  if (n_workers_ == 0) return;
  task_.store(&task);
  generation_.fetch_add(1);
  published_.notify();
}

void Pool::join_in(Task& task) {
  if (executor_ == nullptr) return task.enter(&task, 0);
  executor_->parallel(
      executor_->user, n_threads_,
      [](void* arg, uint32_t i) {
        Task* t = static_cast<Task*>(arg);
        t->enter(t, i);
      },
      &task);
}

void Pool::retract(Task& task) {
  Task* expected = &task;
  task_.compare_exchange_strong(expected, nullptr);
}

void Pool::drain(Task& task) {
  retract(task);
  Spin spin;
  for (uint32_t i = 0; i < n_workers_; ++i) {
    left_.await(spin, [&] { return workers_[i].inside.load() != &task; });
  }
}

void Pool::parallel(int64_t n, void (*fn)(void* arg, int64_t i), void* arg) {
  Loop loop;
  loop.enter = enter_loop;
  loop.n = n;
  loop.left.store(n);
  loop.fn = fn;
  loop.arg = arg;
  if (n > 1) publish(loop);
  join_in(loop);
  Spin spin;
  loop.done.await(spin, [&] { return loop.left.load() <= 0; });
  drain(loop);
}

}  // namespace mica::cpu
