// Waiting for another thread: spin shortly, then sleep in the kernel.
#pragma once
#include <atomic>
#include <cstdint>

namespace mica::cpu {

// How long a thread spins before it sleeps. Spins that were in vain (the other thread does long
// work, or lost its core to another process) make it shorter, spins that paid make it longer.
class Spin {
 public:
  uint32_t rounds() const { return rounds_; }
  void paid() {
    if (rounds_ < kMost) rounds_ += rounds_ / 8 + 1;
  }
  void in_vain() {
    if (rounds_ > kLeast) rounds_ -= rounds_ / 4;
  }

 private:
  // A round is one pause instruction: 12 to 45 ns on CPUs of today.
  static constexpr uint32_t kMost = 1200, kLeast = 40;
  uint32_t rounds_ = kMost;
};

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// A place to sleep until a condition holds. The one who makes it true calls notify() after a
// sequentially consistent write; ready() reads sequentially consistently. So either the sleeper
// sees the condition, or the writer sees the sleeper.
class Event {
 public:
  template <class Ready>
  void await(Spin& spin, Ready ready) {
    if (ready()) return;
    for (uint32_t i = spin.rounds(); i > 0; --i) {
      pause_cpu();
      if (!ready()) continue;
      spin.paid();
      return;
    }
    spin.in_vain();
    for (;;) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      const uint32_t ticket = sequence_.load(std::memory_order_seq_cst);
      const bool now = ready();
      if (!now) sleep(ticket);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      if (now || ready()) return;
    }
  }
  void notify() {
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    sequence_.fetch_add(1, std::memory_order_seq_cst);
    wake_all();
  }

 private:
  void sleep(uint32_t ticket);  // returns at once when sequence_ is no longer `ticket`
  void wake_all();

  std::atomic<uint32_t> sequence_{0};
  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace mica::cpu
