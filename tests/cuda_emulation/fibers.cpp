// Threads of a block as fibers: each runs until it waits, then the next one does. Warps take turns
// in one order and, in every other grid, in the opposite one: what is written without a barrier in
// between then differs from run to run.
#include <dlfcn.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "tests/cuda_emulation/machine.h"

#ifndef __x86_64__
#error "fibers are written for x86-64"
#endif

// Saves the registers that a call keeps on the stack, and goes on where `to` stopped.
extern "C" void emu_switch(void** from, void* to);
asm(".text\n.globl emu_switch\n.hidden emu_switch\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu {

namespace {

enum State { kReady, kAtWarp, kAtBlock, kAtPart, kAtCluster, kGaveWay, kDone };

struct Copy {
  void* to;
  const void* from;
  uint32_t bytes, of_which;
};
struct Lane {
  void* sp = nullptr;
  State state = kReady;
  dim3 thread, block;
  uint32_t rank = 0, index = 0, part = 0;  // part: how many it waits for
  uint32_t exchanges = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};
struct Barrier {
  uint32_t wanted = 0, arrived = 0, phase = 0;
  uint64_t bytes = 0, expected = 0;
  std::vector<Copy> copies;
};

constexpr uint32_t kMaxCluster = 8;
constexpr uint64_t kSharedBytes = 256 << 10;
constexpr size_t kStackBytes = 256 << 10;
constexpr uint32_t kPatience = 10000;  // rounds in which nothing but waiting happens

alignas(1024) char shared_memory[kMaxCluster][kSharedBytes];
std::vector<Lane> lanes;
std::vector<char*> stacks;
Lane* current = nullptr;
void* scheduler = nullptr;
const std::function<void()>* body = nullptr;
char slots[kMaxCluster * 32][2][32][32];  // warp, exchange, lane, bytes
std::map<uint32_t, Barrier> barriers;
uint64_t block_number = 0;  // counts blocks, or clusters of them
bool backwards = false;

void pause(State state) {
  current->state = state;
  emu_switch(&current->sp, scheduler);
}

void enter() {
  (*body)();
  for (const auto& group : current->groups)
    if (!group.empty()) stop("copies that nobody waits for");
  pause(kDone);
}

void prepare(Lane& lane, char* stack) {
  void** sp = reinterpret_cast<void**>(stack + kStackBytes - 64);
  *--sp = nullptr;  // what enter() would return to; keeps the stack's alignment
  *--sp = reinterpret_cast<void*>(enter);
  lane.sp = sp - 6;
  std::fill(sp - 6, sp, nullptr);
}

void resume(Lane& lane) {
  current = &lane;
  threadIdx = lane.thread;
  blockIdx = lane.block;
  lane.state = kReady;
  emu_switch(&scheduler, lane.sp);
}

// Lets go of lanes [first, end) when all that are not done wait in `state`.
bool release(size_t first, size_t end, State state) {
  bool any = false;
  for (size_t i = first; i < end; ++i) {
    if (lanes[i].state != state && lanes[i].state != kDone) return false;
    any |= lanes[i].state == state;
  }
  for (size_t i = first; any && i < end; ++i)
    if (lanes[i].state == state) lanes[i].state = kReady;
  return any;
}

// The same for n lanes that wait for n, whatever the others do.
bool release_part(size_t first, size_t end) {
  uint32_t n = 0, wanted = 0;
  for (size_t i = first; i < end; ++i)
    if (lanes[i].state == kAtPart) ++n, wanted = lanes[i].part;
  if (n == 0 || n < wanted) return false;
  for (size_t i = first; i < end; ++i)
    if (lanes[i].state == kAtPart) lanes[i].state = kReady;
  return true;
}

// One warp until it can do no more. True: something happened but giving way.
bool run_warp(size_t first, size_t end) {
  bool moved = false;
  for (;;) {
    bool ran = false;
    for (size_t i = first; i < end; ++i) {
      if (lanes[i].state != kReady) continue;
      resume(lanes[i]);
      ran = true;
      moved |= lanes[i].state != kGaveWay;
    }
    if (release(first, end, kAtWarp)) continue;
    if (!ran) return moved;
  }
}

// Blocks that run together: one, or a cluster.
void run_blocks(uint32_t n_lanes, uint32_t cluster) {
  uint32_t idle = 0;
  const size_t all = lanes.size(), n_warps = all / 32 + (all % 32 != 0 ? 1 : 0);
  for (;;) {
    bool moved = false;
    for (size_t w = 0; w < n_warps; ++w) {
      const size_t first = (backwards ? n_warps - 1 - w : w) * 32;
      moved |= run_warp(first, std::min(first + 32, all));
    }
    for (uint32_t b = 0; b < cluster; ++b) {
      moved |= release(b * n_lanes, (b + 1) * n_lanes, kAtBlock);
      moved |= release_part(b * n_lanes, (b + 1) * n_lanes);
    }
    moved |= release(0, all, kAtCluster);
    bool waiting = false, left = false;
    for (Lane& lane : lanes) {
      left |= lane.state != kDone;
      if (lane.state != kGaveWay) continue;
      lane.state = kReady;
      waiting = true;
    }
    if (!left) return;
    idle = moved ? 0 : idle + 1;
    if (idle > kPatience || (!moved && !waiting)) stop("its threads wait for each other for ever");
  }
}

}  // namespace

void stop(const char* what) {
  std::fprintf(stderr, "emulated CUDA: block %u, %u, %u, thread %u, %u: %s\n", blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, what);
  std::abort();
}

namespace {

// A fault of a kernel's, and where: addr2line -e the module takes the address.
void on_fault(int number, siginfo_t*, void* context) {
  const auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Dl_info module = {};
  dladdr(reinterpret_cast<void*>(registers[REG_RIP]), &module);
  char text[200];
  std::snprintf(text, sizeof text, "signal %d at 0x%llx of the module", number,
                registers[REG_RIP] - reinterpret_cast<long long>(module.dli_fbase));
  stop(text);
}

}  // namespace

void catch_faults() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(number, &action, nullptr);
}

void run_grid(dim3 grid, dim3 threads, uint64_t shared_bytes, uint32_t cluster,
              const std::function<void()>& kernel) {
  gridDim = grid;
  blockDim = threads;
  body = &kernel;
  backwards = !backwards;
  const uint32_t n = threads.x * threads.y * threads.z;
  if (n > 1024 || (cluster > 1 && n % 32 != 0) || grid.x % cluster != 0 || cluster > kMaxCluster ||
      shared_bytes > kSharedBytes)
    stop("a launch that no device takes, or none that is emulated");
  while (stacks.size() < size_t{n} * cluster)
    stacks.push_back(static_cast<char*>(std::aligned_alloc(4096, kStackBytes)));
  for (uint32_t z = 0; z < grid.z; ++z)
    for (uint32_t y = 0; y < grid.y; ++y)
      for (uint32_t x = 0; x < grid.x; x += cluster) {
        ++block_number;
        barriers.clear();
        lanes.assign(size_t{n} * cluster, {});
        for (uint32_t i = 0; i < lanes.size(); ++i) {
          Lane& lane = lanes[i];
          lane.rank = i / n;
          const uint32_t at = i % n;
          lane.thread =
              dim3(at % threads.x, at / threads.x % threads.y, at / threads.x / threads.y);
          lane.block = dim3(x + lane.rank, y, z);
          lane.index = i;
          prepare(lane, stacks[i]);
        }
        for (uint32_t b = 0; b < cluster; ++b) std::memset(shared_memory[b], 0xff, shared_bytes);
        run_blocks(n, cluster);
      }
}

void wait_warp() { pause(kAtWarp); }
void wait_block() { pause(kAtBlock); }
void wait_cluster() { pause(kAtCluster); }
void wait_part(uint32_t n) {
  current->part = n;
  pause(kAtPart);
}
void give_way() { pause(kGaveWay); }
// Two slots in turn: nobody is at the next exchange but one before all have read this one's.
void next_exchange() { ++current->exchanges; }
uint32_t lane() { return current->index % 32; }
void* slot(uint32_t lane) { return slots[current->index / 32][current->exchanges % 2][lane]; }
uint32_t cluster_rank() { return current->rank; }
void* dynamic_shared() { return shared_memory[current->rank]; }
bool first_of_block(uint64_t& seen) {
  if (current->rank != 0) stop("a variable in shared memory of a cluster: not emulated");
  if (seen == block_number) return false;
  seen = block_number;
  return true;
}

uint32_t to_shared(const void* p) {
  return static_cast<uint32_t>(static_cast<const char*>(p) - shared_memory[0]);
}
void* from_shared(uint32_t address) { return shared_memory[0] + static_cast<int32_t>(address); }
uint32_t shared_of(uint32_t address, uint32_t rank) {
  return address + (rank - current->rank) * static_cast<uint32_t>(kSharedBytes);
}

namespace {

void check_copy(const void* to, const void* from, uint32_t bytes) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | bytes) % 16 != 0)
    stop("a copy at an odd address");
}
void arrive(const Copy& c) {
  std::memcpy(c.to, c.from, c.of_which);
  std::memset(static_cast<char*>(c.to) + c.of_which, 0, c.bytes - c.of_which);
}

}  // namespace

void copy_later(void* to, const void* from, uint32_t bytes, uint32_t of_which) {
  check_copy(to, of_which != 0 ? from : to, bytes);
  std::memset(to, 0xff, bytes);
  current->open.push_back({to, from, bytes, of_which});
}
void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void wait_copies(uint32_t n_left) {
  auto& groups = current->groups;
  while (groups.size() > n_left) {
    for (const Copy& c : groups.front()) arrive(c);
    groups.erase(groups.begin());
  }
}

void barrier_init(uint32_t address, uint32_t n) {
  barriers[address] = {};
  barriers[address].wanted = n;
}
void barrier_expect(uint32_t address, uint32_t bytes) {
  Barrier& b = barriers.at(address);
  if (++b.arrived > b.wanted) stop("more arrivals than a barrier waits for");
  b.expected += bytes;
}
void barrier_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t address) {
  void* const at = from_shared(to);
  check_copy(at, from, bytes);
  std::memset(at, 0xff, bytes);
  Barrier& b = barriers.at(address);
  b.copies.push_back({at, from, bytes, bytes});
  b.bytes += bytes;
}
// Its phase ends, with all its copies, when somebody waits for it.
bool barrier_done(uint32_t address, uint32_t parity) {
  Barrier& b = barriers.at(address);
  if (b.phase % 2 == parity % 2 && b.arrived == b.wanted && b.bytes == b.expected) {
    for (const Copy& c : b.copies) arrive(c);
    b = {b.wanted, 0, b.phase + 1, 0, 0, {}};
  }
  return b.phase % 2 != parity % 2;
}

}  // namespace emu
