// Running a plan: submit sets the counters, then every thread walks through the stages, takes items
// where there are some, and waits where others are not done yet.
#include <cstring>

#include "backends/cpu/plan.h"

using mica::Error;
namespace cpu = mica::cpu;

mica_status mica_b_plan::read_extents(Error& error) {
  for (uint32_t i = 0; i < partition_.n_extents; ++i) {
    if (extents_[i] < 0) continue;
    int32_t value = 0;
    std::memcpy(&value, step_block_ + partition_.extents[i].offset, sizeof value);
    if (value < 0 || value > partition_.extents[i].max) {
      return error.fail(MICA_INVALID_ARGUMENT, "an extent is ", value, ", its maximum is ",
                        partition_.extents[i].max);
    }
    extents_[i] = value;
  }
  for (const cpu::Patch& patch : patches_) *patch.dim = extents_[patch.extent];
  return MICA_OK;
}

mica_status mica_b_plan::submit(Error& error) {
  if (in_flight_) return error.fail(MICA_BUSY, "the plan's last step was not waited for");
  const uint64_t epoch = (epoch_.load() + 1) & cpu::kEpochMask;
  // Closes the counters to threads that are still in the last step, before anything they could read
  // changes: what they would take is tagged with an older number.
  for (cpu::Work& work : works_) {
    work.next.store(cpu::tagged(epoch, 0), std::memory_order_release);
  }
  MICA_TRY(read_extents(error));
  for (cpu::Stage& stage : stages_) {
    uint64_t left = 0;
    for (uint32_t i = stage.first; i < stage.end; ++i) {
      cpu::Work& work = works_[i];
      const int64_t items = work.kernel->items(*work.call, work.phase);
      const int64_t grain = work.kernel->grain != nullptr
                                ? work.kernel->grain(*work.call, work.phase)
                                : 1;
      work.items.store(static_cast<uint64_t>(items > 0 ? items : 0), std::memory_order_release);
      work.grain.store(static_cast<uint64_t>(grain > 0 ? grain : 1), std::memory_order_relaxed);
      left += items > 0 ? static_cast<uint64_t>(items) : 0;
    }
    stage.left.store(cpu::tagged(epoch, left), std::memory_order_release);
  }
  hint_.store(cpu::tagged(epoch, 0));
  in_flight_ = true;
  epoch_.store(epoch);
  device_.pool.publish(*this);
  return MICA_OK;
}

mica_status mica_b_plan::wait() {
  if (!in_flight_) return MICA_OK;
  device_.pool.join_in(*this);
  in_flight_ = false;
  if (!stopped(epoch_.load())) {
    device_.pool.retract(*this);
    return MICA_OK;
  }
  // Threads may still have an item in their hands.
  device_.pool.drain(*this);
  return MICA_CANCELLED;
}

// Takes items of a stage until there are none. Returns how many were done.
uint64_t mica_b_plan::do_work(const cpu::Stage& stage, uint64_t epoch, char* scratch) {
  uint64_t done = 0;
  for (uint32_t i = stage.first; i < stage.end; ++i) {
    cpu::Work& work = works_[i];
    uint64_t word = work.next.load(std::memory_order_relaxed);
    for (;;) {
      if (cpu::epoch_of(word) != epoch) return done;
      const uint64_t items = work.items.load(std::memory_order_acquire);
      const uint64_t first = cpu::items_of(word);
      if (first >= items) break;
      const uint64_t grain = work.grain.load(std::memory_order_relaxed);
      const uint64_t end = items - first > grain ? first + grain : items;
      if (!work.next.compare_exchange_weak(word, cpu::tagged(epoch, end))) continue;
      work.kernel->run(*work.call, work.phase, static_cast<int64_t>(first),
                       static_cast<int64_t>(end), scratch);
      done += end - first;
      if (device_.cancelled()) {
        stopped_epoch_.store(epoch);
        stage_done_.notify();
        return done;
      }
      word = work.next.load(std::memory_order_relaxed);
    }
  }
  return done;
}

void mica_b_plan::walk(uint64_t epoch, uint32_t i_thread) {
  char* scratch = scratch_ != nullptr ? scratch_ + i_thread * scratch_bytes_ : nullptr;
  cpu::Spin spin;
  // Written late by a thread of an older step, the hint may be of that step.
  const uint64_t hint = hint_.load();
  for (size_t i = cpu::epoch_of(hint) == epoch ? cpu::items_of(hint) : 0; i < stages_.size(); ++i) {
    if (stopped(epoch)) return;
    cpu::Stage& stage = stages_[i];
    const uint64_t before = stage.left.load();
    if (cpu::epoch_of(before) != epoch) return;
    if (cpu::items_of(before) == 0) continue;
    const uint64_t done = do_work(stage, epoch, scratch);
    if (done > 0 && cpu::items_of(stage.left.fetch_sub(done)) == done) {
      hint_.store(cpu::tagged(epoch, i + 1));
      stage_done_.notify();
      continue;
    }
    uint64_t now = 0;
    stage_done_.await(spin, [&] {
      now = stage.left.load();
      return now == cpu::tagged(epoch, 0) || cpu::epoch_of(now) != epoch || stopped(epoch);
    });
    if (now != cpu::tagged(epoch, 0)) return;
  }
}
