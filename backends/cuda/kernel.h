// What a CUDA kernel file is. Every kernels/<name>.cu holds one op or fusion: what it supports, its
// numerics, its workspace, its launch and its device code. CMake registers it because it exists.
//
// Launches are captured into a CUDA graph when a plan is compiled, and replayed for every step: all
// addresses are fixed, and live counts are read on the device (Tensor::live).
#pragma once
#include "backends/cuda/driver.h"
#include "backends/gpu/call.h"

namespace mica::cuda {

using gpu::Call;
using gpu::Tensor;

class CublasLt;

struct DeviceInfo {
  int index;
  int cc;  // compute capability: 80, 90, …
  int n_sms;
  uint64_t max_shared_bytes;  // of a block, opted in
  uint64_t l2_bytes;
  CublasLt* lt;                // nullptr: not to be used
  uint64_t tickets;            // kTickets words of device memory that are 0 between kernels
  void* encode_map = nullptr;  // cuTensorMapEncodeTiled; nullptr: wgmma's kernels cannot run
};

// Blocks of a kernel count here which of them is last. One device's kernels run one after the
// other, so one place serves all; whoever counts leaves zeros.
constexpr int32_t kTickets = 4096;

// The stream that launches go to, one after the other: under capture, or running. Every kernel's
// record() is called twice: first with `preparing`, which loads what will be launched, because
// nothing may be loaded under capture.
struct Recorder {
  cudaStream_t stream;
  const DeviceInfo* device;
  cudaError_t error;  // the first that failed
  const Driver* driver;
  bool preparing;  // loads what is launched, and does not launch it
  bool running;    // not under capture: loads it first, if need be
  bool cleared;    // the last thing recorded was no kernel: the next one may not overlap it
};

using Kernel = gpu::Kernel<Recorder>;
using KernelList = gpu::KernelList<Recorder>;

inline const DeviceInfo& device_of(const Call& c) {
  return *static_cast<const DeviceInfo*>(c.device);
}

[[nodiscard]] mica_status launch_any(Recorder& r, const void* kernel, dim3 grid, dim3 block,
                                     uint64_t shared_bytes, void** args);

// Launches kernel(args) with programmatic dependent launch where the device has it (sm_90 and up):
// it may start before the kernel ahead of it ends. So every kernel calls wait_for_inputs() before
// it touches anything but weights, and start_next() as early as it likes. `args` is one struct, and
// `shared_bytes` of dynamic shared memory may be up to DeviceInfo::max_shared_bytes less what the
// kernel declares itself.
template <class Args>
[[nodiscard]] mica_status launch(Recorder& r, void (*kernel)(Args), dim3 grid, dim3 block,
                                 uint64_t shared_bytes, const Args& args) {
  Args copy = args;
  void* list[] = {&copy};
  return launch_any(r, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, list);
}
// Sets bytes to zero, in the order of the launches; an address inside the workspace.
[[nodiscard]] mica_status clear(Recorder& r, uint64_t address, uint64_t bytes);

#ifdef __CUDACC__
// Everything that earlier kernels wrote is visible after this.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel's blocks may be scheduled from here on, where there is room.
__device__ inline void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// The live count of a tensor's slowest dimension. `live` as in Tensor; after wait_for_inputs().
__device__ inline int64_t live_count(uint64_t live, int64_t max) {
  return live != 0 ? *reinterpret_cast<const volatile int32_t*>(live) : max;
}
#endif

}  // namespace mica::cuda

// At the end of kernels/<name>.cu, outside namespaces: MICA_CUDA_KERNELS(mul, rows), and of an op
// with options, or a region of such, MICA_CUDA_KERNELS(rms_norm, rows, MICA_KNOWS(rms_norm, eps))
#define MICA_CUDA_KERNELS(kernel_name, rows, ...)                           \
  namespace mica::cuda {                                                    \
  static_assert(rows_have_names(rows));                                     \
  extern const KernelList kernels_##kernel_name;                            \
  const KernelList kernels_##kernel_name = {                                \
      #kernel_name, rows, sizeof(rows) / sizeof((rows)[0]), {__VA_ARGS__}}; \
  }
