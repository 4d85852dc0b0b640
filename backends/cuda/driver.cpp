// The table of the CUDA runtime's own functions.
#include "backends/cuda/driver.h"

namespace mica::cuda {
namespace {

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
    cudaGetDeviceCount,
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
};

}  // namespace mica::cuda
