// Running a plan: submit sets the counters, then every thread walks through the stages, takes
// pieces of work where there are some, and waits where others are not done yet.
#include <cstring>

#include "backends/cpu/plan.h"

using mica::Error;
namespace cpu = mica::cpu;

namespace {
constexpr uint32_t kPatience = 40;  // pauses, about 1 µs
}

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

// Shares the items of a work out to the lanes. Returns its pieces.
uint64_t mica_b_plan::set_up(cpu::Work& work, uint64_t epoch) {
  const cpu::Kernel& kernel = *work.kernel;
  work.items = kernel.items(*work.call, work.phase);
  if (work.items <= 0) return 0;
  work.grain = kernel.grain != nullptr ? kernel.grain(*work.call, work.phase) : 1;
  if (work.grain < 1) work.grain = 1;
  const int64_t most = static_cast<int64_t>(cpu::kMaxPieces);
  if (work.items / work.grain >= most) work.grain = work.items / most + 1;
  const uint64_t n = static_cast<uint64_t>((work.items + work.grain - 1) / work.grain);
  for (uint64_t i = 0, first = 0; i < n_lanes_ && first < n; ++i) {
    const uint64_t end = first + (n - first + n_lanes_ - i - 1) / (n_lanes_ - i);
    work.lanes[i].left.store(cpu::tagged(epoch, cpu::pieces(first, end)));
    first = end;
  }
  return n;
}

mica_status mica_b_plan::submit(Error& error) {
  if (in_flight_) return error.fail(MICA_BUSY, "the plan's last step was not waited for");
  MICA_TRY(read_extents(error));
  const uint64_t epoch = (epoch_.load() + 1) & cpu::kEpochMask;
  for (cpu::Stage& stage : stages_) {
    uint64_t left = 0;
    for (uint32_t i = stage.first; i < stage.end; ++i) left += set_up(works_[i], epoch);
    stage.left.store(cpu::tagged(epoch, left));
  }
  hint_.store(cpu::tagged(epoch, 0));
  stopped_epoch_.store(UINT64_MAX);
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
  // Threads may still have a piece in their hands.
  device_.pool.drain(*this);
  // What was left must not come back when step numbers do.
  for (cpu::Lane& lane : lanes_) lane.left.store(cpu::tagged(epoch_.load(), 0));
  return MICA_CANCELLED;
}

// Takes pieces of a lane until there are none. Returns how many were done.
uint64_t mica_b_plan::empty_lane(cpu::Work& work, uint32_t lane, uint64_t epoch,
                                 uint32_t i_thread) {
  std::atomic<uint64_t>& left = work.lanes[lane].left;
  uint64_t done = 0;
  uint64_t word = left.load();
  while (cpu::epoch_of(word) == epoch && cpu::next_of(word) < cpu::end_of(word)) {
    const uint64_t piece = cpu::next_of(word);
    const uint64_t rest = cpu::tagged(epoch, cpu::pieces(piece + 1, cpu::end_of(word)));
    if (!left.compare_exchange_weak(word, rest)) continue;
    const int64_t first = static_cast<int64_t>(piece) * work.grain;
    const int64_t end = work.items - first > work.grain ? first + work.grain : work.items;
    char* scratch = scratch_ != nullptr ? scratch_ + i_thread * scratch_bytes_ : nullptr;
    work.kernel->run(*work.call, work.phase, first, end, scratch);
    ++done;
    if (is_cancellable_ && device_.cancelled()) {
      stopped_epoch_.store(epoch);
      stage_done_.notify();
      return done;
    }
    word = left.load();
  }
  return done;
}

// Does what there is to do in a stage. True: it is complete, or the step is over or stopped.
bool mica_b_plan::work_on(cpu::Stage& stage, uint64_t epoch, uint32_t i_thread) {
  const auto over = [&](uint64_t done) {
    const uint64_t left = done > 0 ? stage.left.fetch_sub(done) - done : stage.left.load();
    const bool last = cpu::epoch_of(left) == epoch && cpu::count_of(left) == 0;
    if (last && done > 0) stage_done_.notify();
    return last || cpu::epoch_of(left) != epoch || stopped(epoch);
  };
  uint64_t done = 0;
  for (uint32_t i = stage.first; i < stage.end; ++i) {
    done += empty_lane(works_[i], i_thread % n_lanes_, epoch, i_thread);
  }
  if (over(done)) return true;
  if (n_lanes_ == 1) return false;
  // Fetching another thread's data costs more than a short wait until it has done its own part.
  for (uint32_t i = 0; i < kPatience; ++i) {
    cpu::pause_cpu();
    if (over(0)) return true;
  }
  done = 0;
  for (uint32_t j = 1; j < n_lanes_; ++j) {
    for (uint32_t i = stage.first; i < stage.end; ++i) {
      done += empty_lane(works_[i], (i_thread + j) % n_lanes_, epoch, i_thread);
    }
  }
  return over(done);
}

void mica_b_plan::walk(uint64_t epoch, uint32_t i_thread) {
  cpu::Spin spin;
  // Written late by a thread of an older step, the hint may be of that step.
  const uint64_t hint = hint_.load();
  for (size_t i = cpu::epoch_of(hint) == epoch ? cpu::count_of(hint) : 0; i < stages_.size(); ++i) {
    cpu::Stage& stage = stages_[i];
    const auto state = [&] { return stage.left.load(); };
    if (state() == cpu::tagged(epoch, 0)) continue;
    if (cpu::epoch_of(state()) != epoch || stopped(epoch)) return;
    if (!work_on(stage, epoch, i_thread)) {
      stage_done_.await(spin, [&] {
        const uint64_t now = state();
        return cpu::count_of(now) == 0 || cpu::epoch_of(now) != epoch || stopped(epoch);
      });
    }
    if (cpu::epoch_of(state()) != epoch) return;
    if (i_thread == 0) hint_.store(cpu::tagged(epoch, i + 1));
  }
}
