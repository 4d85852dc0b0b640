// A CUDA device that is this processor: the runtime's functions that the backend calls, and blocks
// of threads as fibers. With it the backend as it is (plans, capture, launches, copies) runs the
// kernels themselves, one block after the other: two devices, 0 of compute capability 9.0 and 1 of
// 8.0. Only what the backend needs is here; what it does wrong ends the process with a sentence.
#include "tests/cuda_emulation/machine.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "backends/cuda/device.h"

extern "C" const mica_backend* mica_backend_cuda(void);

namespace {

struct alignas(128) Piece {  // kernels' arguments are aligned to 128 at most
  char bytes[128];
};
struct Launch {
  const void* kernel = nullptr;  // nullptr: set memory, or do the work
  std::function<void()> work;
  emu::Known known{};
  dim3 grid, block;
  uint64_t shared_bytes = 0;
  uint32_t cluster = 1;
  std::vector<Piece> args;
  void* memory = nullptr;
  int value = 0;
  size_t bytes = 0;
};
using Graph = std::vector<Launch>;

std::map<const void*, emu::Known>& kernels() {
  static std::map<const void*, emu::Known> map;
  return map;
}
Graph* capture = nullptr;

void execute(const Launch& n) {
  if (n.work) return n.work();
  if (n.kernel == nullptr) {
    std::memset(n.memory, n.value, n.bytes);
    return;
  }
  std::vector<Piece> args = n.args;  // a kernel may change its own
  emu::run_grid(n.grid, n.block, n.shared_bytes, n.cluster,
                [&] { n.known.call(n.kernel, args.data()); });
}
cudaError_t put(Launch&& n) {
  if (capture != nullptr) {
    capture->push_back(std::move(n));
  } else {
    execute(n);
  }
  return cudaSuccess;
}

cudaError_t launch_kernel(const cudaLaunchConfig_t* config, const void* kernel, void** args) {
  const auto it = kernels().find(kernel);
  if (it == kernels().end()) emu::stop("a launch of an unknown kernel");
  Launch n;
  n.kernel = kernel;
  n.known = it->second;
  n.grid = config->gridDim;
  n.block = config->blockDim;
  n.shared_bytes = config->dynamicSmemBytes;
  for (unsigned i = 0; i < config->numAttrs; ++i)
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension)
      n.cluster = config->attrs[i].val.clusterDim.x;
  n.args.resize((n.known.bytes + sizeof(Piece) - 1) / sizeof(Piece));
  std::memcpy(n.args.data(), args[0], n.known.bytes);
  return put(std::move(n));
}

cudaError_t properties(cudaDeviceProp* p, int index) {
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated");
  p->major = index == 0 ? 9 : 8;
  p->multiProcessorCount = 2;
  p->sharedMemPerBlockOptin = index == 0 ? 227 << 10 : 163 << 10;
  p->l2CacheSize = 1 << 20;
  p->totalGlobalMem = size_t{1} << 32;
  return cudaSuccess;
}

cudaError_t give_memory(void** out, size_t bytes) {
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*out, 0xff, bytes);
  return cudaSuccess;
}
template <class T>
cudaError_t make(T* out) {
  *out = static_cast<T>(std::malloc(1));
  return cudaSuccess;
}
cudaError_t set_memory(void* p, int value, size_t bytes, cudaStream_t) {
  Launch n;
  n.memory = p;
  n.value = value;
  n.bytes = bytes;
  return put(std::move(n));
}
cudaError_t free_memory(void* p) {
  std::free(p);
  return cudaSuccess;
}
Graph* of(void* handle) { return static_cast<Graph*>(handle); }

}  // namespace

void emu::put_work(std::function<void()> work) {
  Launch n;
  n.work = std::move(work);
  put(std::move(n));
}
void emu::remember(const void* kernel, const Known& known) { kernels()[kernel] = known; }

namespace mica::cuda {

const Driver kRuntime = {
    [](int* n) { return *n = 2, cudaSuccess; },
    properties,
    [](int) { return cudaSuccess; },
    [](size_t* free, size_t* all) { return *free = *all = size_t{1} << 32, cudaSuccess; },
    give_memory,
    free_memory,
    [](void** out, size_t bytes, unsigned) { return give_memory(out, bytes); },
    free_memory,
    [](void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
      return std::memcpy(to, from, bytes), cudaSuccess;
    },
    set_memory,
    [](cudaStream_t* out, unsigned) { return make(out); },
    [](cudaStream_t s) { return free_memory(s); },
    [](cudaStream_t) { return cudaSuccess; },
    [](cudaStream_t, cudaStreamCaptureMode) { return capture = new Graph, cudaSuccess; },
    [](cudaStream_t, cudaGraph_t* out) {
      *out = reinterpret_cast<cudaGraph_t>(std::exchange(capture, nullptr));
      return cudaSuccess;
    },
    [](cudaEvent_t* out, unsigned) { return make(out); },
    [](cudaEvent_t e) { return free_memory(e); },
    [](cudaEvent_t, cudaStream_t) { return cudaSuccess; },
    [](cudaEvent_t) { return cudaSuccess; },
    [](cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
      return *out = reinterpret_cast<cudaGraphExec_t>(new Graph(*of(graph))), cudaSuccess;
    },
    [](cudaGraphExec_t, cudaStream_t) { return cudaSuccess; },
    [](cudaGraphExec_t exec, cudaStream_t) {
      for (const Launch& n : *of(exec)) execute(n);
      return cudaSuccess;
    },
    [](cudaGraph_t graph) { return delete of(graph), cudaSuccess; },
    [](cudaGraphExec_t exec) { return delete of(exec), cudaSuccess; },
    [](cudaFuncAttributes* out, const void*) { return *out = {}, cudaSuccess; },
    [](const void*, cudaFuncAttribute, int) { return cudaSuccess; },
    launch_kernel,
    [] { return cudaSuccess; },
    [](cudaError_t) { return "emulated"; },
    [](const Mailbox* m, cudaStream_t) {
      for (uint32_t i = 0; i < m->n; ++i)
        std::memcpy(pointer(m->writes[i].dst),
                    reinterpret_cast<const char*>(m) + m->writes[i].offset, m->writes[i].bytes);
      return cudaSuccess;
    },
};
const void* scatter_kernel() { return &kRuntime; }

}  // namespace mica::cuda

extern "C" __attribute__((visibility("default"))) const mica_backend* mica_backend_entry(void) {
  emu::catch_faults();
  // cuBLASLt itself would look for a GPU; this module has its functions.
  Dl_info module = {};
  if (dladdr(reinterpret_cast<const void*>(mica_backend_entry), &module) != 0)
    setenv("MICA_CUDA_CUBLASLT", module.dli_fname, 0);
  return mica_backend_cuda();
}
