// The threads of a CPU device. Nobody is waited for by name: a task is published, threads that are
// awake join in, and it is done when its work is done. A thread that lost its core to another
// process therefore holds up the others only while it has a piece of work in its hands.
#pragma once
#include <pthread.h>

#include "backends/cpu/wait.h"
#include "core/base/text.h"
#include "mica/context.h"

namespace mica::cpu {

// What the threads of a pool do together. enter() returns when there is nothing left to do; it may
// be called late, when the task is long done, but never after Pool::drain.
struct Task {
  void (*enter)(Task* task, uint32_t i_thread) = nullptr;
};

class Pool {
 public:
  explicit Pool(const mica_allocator& a) : allocator_(&a) {}
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // n_threads counts the caller. With an executor no thread is made.
  mica_status start(uint32_t n_threads, const mica_executor* executor, Error& error);
  uint32_t n_threads() const { return n_threads_; }

  // Other threads begin to enter `task`.
  void publish(Task& task);
  // The caller takes part as thread 0 (an executor: its threads do), and returns when enter() did.
  void join_in(Task& task);
  // No thread enters any more; some may still be inside, with nothing in their hands if the task's
  // work is done.
  void retract(Task& task);
  // Retracts, and waits until no thread is inside.
  void drain(Task& task);

  // fn(arg, i, i_thread) for each i in [0, n), in any order, by several threads.
  void parallel(int64_t n, void (*fn)(void* arg, int64_t i), void* arg);

 private:
  struct alignas(64) Worker {
    Pool* pool = nullptr;
    uint32_t index = 0;
    pthread_t thread{};
    std::atomic<Task*> inside{nullptr};
  };

  static void* main(void* worker);
  void serve(Worker& worker);
  void stop();

  const mica_allocator* allocator_;
  const mica_executor* executor_ = nullptr;
  uint32_t n_threads_ = 1;
  uint32_t n_workers_ = 0;  // started
  Worker* workers_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};  // changes with each publish
  std::atomic<Task*> task_{nullptr};
  std::atomic<bool> stopping_{false};
  Event published_;
  Event left_;
};

}  // namespace mica::cpu
