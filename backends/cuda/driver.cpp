// The table of the CUDA runtime's own functions, and what the runtime and nvcc's objects would do
// before main: the build keeps it for here (constructors.cmake), because a program that links the
// library and opens no CUDA device is not to pay for it, nor to end by it (docs/adr/0007).
#include "backends/cuda/driver.h"

#include <pthread.h>

using Constructor = void (*)();
#define MICA_CUDA_CONSTRUCTORS(symbol, n) \
  extern "C" __attribute__((visibility("hidden"))) const Constructor symbol[n];
#include "cuda_modules.def"
#include "cuda_runtime.def"
#undef MICA_CUDA_CONSTRUCTORS

namespace mica::cuda {
namespace {

#define MICA_CUDA_CONSTRUCTORS(symbol, n) \
  for (const Constructor constructor : symbol) constructor();
// Of the runtime itself. It registers what ends it when the process exits.
void run_runtime_constructors() {
#include "cuda_runtime.def"
}
// Of nvcc's objects: each gives the runtime its kernels and their code, which the runtime loads
// when a kernel is first used.
void run_module_constructors() {
#include "cuda_modules.def"
}
#undef MICA_CUDA_CONSTRUCTORS

// Once for this copy of the library, because the runtime's state is one, too.
pthread_once_t runtime_once = PTHREAD_ONCE_INIT, modules_once = PTHREAD_ONCE_INIT;

// The first function of the runtime that is called for any device or list of devices.
cudaError_t get_device_count(int* out_n) {
  pthread_once(&runtime_once, run_runtime_constructors);
  return cudaGetDeviceCount(out_n);
}
void load_code() { pthread_once(&modules_once, run_module_constructors); }

void* entry_point(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result);
  if (error == cudaSuccess && result == cudaDriverEntryPointSuccess) return function;
  cudaGetLastError();  // or the next call would answer it again
  return nullptr;
}

}  // namespace

const Driver kRuntime = {
    get_device_count,
    cudaGetDeviceProperties,
    cudaSetDevice,
    cudaMemGetInfo,
    cudaMalloc,
    cudaFree,
    cudaHostAlloc,
    cudaFreeHost,
    cudaMemcpyAsync,
    cudaMemsetAsync,
    cudaStreamCreateWithFlags,
    cudaStreamDestroy,
    cudaStreamSynchronize,
    cudaStreamBeginCapture,
    cudaStreamEndCapture,
    cudaEventCreateWithFlags,
    cudaEventDestroy,
    cudaEventRecord,
    cudaEventQuery,
    cudaGraphInstantiate,
    cudaGraphUpload,
    cudaGraphLaunch,
    cudaGraphDestroy,
    cudaGraphExecDestroy,
    cudaFuncGetAttributes,
    cudaFuncSetAttribute,
    cudaLaunchKernelExC,
    cudaGetLastError,
    cudaGetErrorString,
    scatter,
    entry_point,
    load_code,
};

}  // namespace mica::cuda
