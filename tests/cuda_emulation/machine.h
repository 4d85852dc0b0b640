// What emulated device code asks of the machine that runs it (fibers.cpp, machine.cpp).
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs

namespace emu {

// A mistake of the kernel's: says where, and ends the process.
[[noreturn]] void stop(const char* what);
void wait_warp();
void wait_block();
void wait_cluster();
void wait_part(uint32_t n);  // for n threads of the block that call it
void give_way();             // others run first
uint32_t lane();             // of its warp
void* slot(uint32_t lane);   // of the warp's exchange that goes on; 32 bytes
void next_exchange();
uint32_t cluster_rank();
void* dynamic_shared();
bool first_of_block(uint64_t& seen);  // true once a block
// 32-bit addresses in shared memory, of this block or of another of the cluster.
uint32_t to_shared(const void* p);
void* from_shared(uint32_t address);
uint32_t shared_of(uint32_t address, uint32_t rank);
// Copies that are under way: nothing is there before it is waited for.
void copy_later(void* to, const void* from, uint32_t bytes, uint32_t of_which);
void commit_copies();
void wait_copies(uint32_t n_left);
void barrier_init(uint32_t address, uint32_t n);
void barrier_expect(uint32_t address, uint32_t bytes);
void barrier_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t address);
bool barrier_done(uint32_t address, uint32_t parity);

// Kernels by address, with their argument's type.
struct Known {
  uint32_t bytes;
  void (*call)(const void* kernel, void* args);
};
void remember(const void* kernel, const Known& known);
template <class Args>
const void* known(void (*kernel)(Args)) {
  const void* const key = reinterpret_cast<const void*>(kernel);
  remember(key,
           {sizeof(Args), [](const void* k, void* args) {
              reinterpret_cast<void (*)(Args)>(const_cast<void*>(k))(*static_cast<Args*>(args));
            }});
  return key;
}

// In the order of the launches, and where they are captured, whenever those run.
void put_work(std::function<void()> work);

// From now on a fault (SIGSEGV, SIGFPE) ends like stop().
void catch_faults();
// Runs `body` once a thread of the grid, block after block.
void run_grid(dim3 grid, dim3 block, uint64_t shared_bytes, uint32_t cluster,
              const std::function<void()>& body);

}  // namespace emu
