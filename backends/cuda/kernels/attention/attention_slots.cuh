// Cells that moved, in the few-rows kernel: a batch of entries meets queries of several turns, each
// in a slot of shared memory, so that warps take units of any turn one after the other.
#pragma once
#include "backends/cuda/kernels/attention/attention_query.cuh"

namespace mica::cuda {

#ifdef __CUDACC__

// Which turn is in which slot. Slot 0 always has turn 0.
struct SlotTurns {
  int32_t turn;  // of the slot with this lane's number; -1: none
  int32_t n;     // slots that are used
};

// Slots for the turns of entries, in their order, by every warp for itself; n_entries becomes how
// many of them there were enough slots for, at least one.
template <int kSlots>
__device__ inline SlotTurns slot_turns(const Entry* entries, int32_t& n_entries) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  SlotTurns slots = {lane == 0 ? 0 : -1, 1};
#pragma unroll 1
  for (int32_t first = 0; first < n_entries; first += 32) {
    const int32_t turn = first + lane < n_entries ? entries[first + lane].turn : 0;
    unsigned others = __ballot_sync(0xffffffffu, turn != 0);
#pragma unroll 1
    while (others != 0) {
      const int owner = __ffs(static_cast<int>(others)) - 1;
      const int32_t next = __shfl_sync(0xffffffffu, turn, owner);
      if (!__any_sync(0xffffffffu, slots.turn == next)) {
        if (slots.n == kSlots) {
          n_entries = first + owner;
          return slots;
        }
        if (lane == slots.n) slots.turn = next;
        ++slots.n;
      }
      others &= ~__ballot_sync(0xffffffffu, turn == next);
    }
  }
  return slots;
}

// What turn_queries() finds in the L1 cache then: the rows of `turns`, 32 angles a thread.
__device__ inline void touch_turns(const AttentionArgs& a, const SlotTurns& slots) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto n_rot = static_cast<int32_t>(a.op.n_rot);
  const int32_t lines = (n_rot + 31) / 32;
  const int32_t slot = min(1 + thread / lines, slots.n);
  const int32_t turn = __shfl_sync(0xffffffffu, slots.turn, slot);
  if (slot < slots.n)
    touch(reinterpret_cast<const int32_t*>(turn_row(a, turn) + thread % lines * 32));
}

// Four neighbours of a row, from element `first` on, rotated. Without conditions between the loads.
__device__ inline void turn_run(const AttentionArgs& a, const float* angles, int first,
                                const float* upper_row, const float* lower_row, float (&upper)[4],
                                float (&lower)[4]) {
  TurnPlace p[4];
  float cosine[4], sine[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    p[i] = turn_place(a, first + i);
    cosine[i] = angles[p[i].angle], sine[i] = angles[p[i].angle + 1];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    upper[i] = turned(p[i], upper_row[first + i], upper_row[p[i].other], cosine[i], sine[i]);
    lower[i] = turned(p[i], lower_row[first + i], lower_row[p[i].other], cosine[i], sine[i]);
  }
}

// The slots from 1 on: rows of q as they meet the cells of those turns. And entries have slots
// instead of turns. By the whole block, when all of it has found the slots and kept the rows.
template <class Cells, int kWarps>
__device__ void turn_queries(const AttentionArgs& a, const SlotTurns& slots,
                             DecodeShared<Cells::kDim, kWarps>& shared) {
  constexpr int32_t kProducts = Cells::kDim / 16;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t mine = shared.entries[threadIdx.x].turn;
  int32_t slot = 0;
#pragma unroll 1
  for (int32_t i = 1; i < slots.n; ++i)
    if (__shfl_sync(0xffffffffu, slots.turn, i) == mine) slot = i;
  shared.entries[threadIdx.x].turn = slot;
  const auto& rows = shared.turned().rows;
#pragma unroll 1
  for (auto i = static_cast<int32_t>(threadIdx.x / 32); i < (slots.n - 1) * kProducts;
       i += kWarps) {
    const int32_t product = i % kProducts;
    const float* angles = turn_row(a, __shfl_sync(0xffffffffu, slots.turn, 1 + i / kProducts));
    float upper[4], lower[4];
    turn_run(a, angles, product / 2 * 32 + Cells::run_of(lane, product % 2), rows[lane / 4],
             rows[lane / 4 + 8], upper, lower);
    store_run<Cells>(upper, lower, product, shared.slot(1 + i / kProducts));
  }
  __syncthreads();
}

#endif
}  // namespace mica::cuda
