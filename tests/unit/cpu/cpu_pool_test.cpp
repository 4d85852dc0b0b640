// The CPU backend's threads: every piece of work is done once, latecomers find nothing, an executor
// takes their place, and waiting sleeps.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <thread>
#include <vector>

#include "backends/cpu/pool.h"

namespace mica::cpu {
namespace {

struct Counts {
  explicit Counts(size_t n) : each(n) {}
  std::vector<std::atomic<int>> each;
};

void count_one(void* arg, int64_t i) {
  static_cast<Counts*>(arg)->each[static_cast<size_t>(i)].fetch_add(1);
}

void expect_all_once(Pool& pool, int64_t n) {
  Counts counts(static_cast<size_t>(n));
  pool.parallel(n, count_one, &counts);
  for (const auto& c : counts.each) ASSERT_EQ(c.load(), 1);
}

TEST(CpuPool, DoesEveryPieceOnce) {
  for (const uint32_t n_threads : {1u, 2u, 3u, 8u}) {
    Error error;
    Pool pool(default_allocator());
    ASSERT_EQ(pool.start(n_threads, nullptr, error), MICA_OK) << error.text();
    EXPECT_EQ(pool.n_threads(), n_threads);
    for (int round = 0; round < 300; ++round) expect_all_once(pool, round % 41);
  }
}

// Rounds with pauses in between, so that threads fall asleep and are woken.
TEST(CpuPool, WakesSleepers) {
  Error error;
  Pool pool(default_allocator());
  ASSERT_EQ(pool.start(4, nullptr, error), MICA_OK);
  for (int round = 0; round < 50; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    expect_all_once(pool, 100);
  }
}

// What one thread wrote before it finished is there for the caller afterwards.
TEST(CpuPool, ResultsAreVisible) {
  Error error;
  Pool pool(default_allocator());
  ASSERT_EQ(pool.start(4, nullptr, error), MICA_OK);
  struct Squares {
    int64_t value[64];
  } squares;
  for (int round = 0; round < 500; ++round) {
    pool.parallel(
        64, [](void* arg, int64_t i) { static_cast<Squares*>(arg)->value[i] = i * i; }, &squares);
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(squares.value[i], i * i);
  }
}

TEST(CpuPool, UsesAnExecutor) {
  struct Threads {
    uint32_t calls = 0;
  } threads;
  mica_executor executor;
  executor.user = &threads;
  executor.n_threads = 3;
  executor.parallel = [](void* user, uint32_t n, void (*fn)(void*, uint32_t), void* arg) {
    ++static_cast<Threads*>(user)->calls;
    std::vector<std::thread> all;
    for (uint32_t i = 0; i < n; ++i) all.emplace_back(fn, arg, i);
    for (auto& t : all) t.join();
  };
  Error error;
  Pool pool(default_allocator());
  ASSERT_EQ(pool.start(3, &executor, error), MICA_OK);
  for (int round = 0; round < 20; ++round) expect_all_once(pool, 50);
  EXPECT_EQ(threads.calls, 20u);
}

// Other threads are published to while the pool's own are still awake, asleep, or on the way.
TEST(CpuPool, StopsAtAnyMoment) {
  for (int round = 0; round < 100; ++round) {
    Error error;
    Pool pool(default_allocator());
    ASSERT_EQ(pool.start(4, nullptr, error), MICA_OK);
    if (round % 2 == 0) expect_all_once(pool, 7);
  }
}

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(CpuPool, SleepsWhenIdle) {
  Error error;
  Pool pool(default_allocator());
  ASSERT_EQ(pool.start(4, nullptr, error), MICA_OK);
  expect_all_once(pool, 10);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(cpu_seconds() - before, 0.05);
}

TEST(CpuPool, EventKeepsNoOneWaiting) {
  Event event;
  std::atomic<int> turn{0};
  constexpr int kTurns = 20000;
  const auto player = [&](int me) {
    Spin spin;
    for (int i = 0; i < kTurns; ++i) {
      event.await(spin, [&] { return turn.load() % 2 == me; });
      turn.fetch_add(1);
      event.notify();
    }
  };
  std::thread other(player, 1);
  player(0);
  other.join();
  EXPECT_EQ(turn.load(), 2 * kTurns);
}

}  // namespace
}  // namespace mica::cpu
