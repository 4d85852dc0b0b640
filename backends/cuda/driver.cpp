// The table of the CUDA runtime's own functions.
#include "backends/cuda/driver.h"

namespace mica::cuda {

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
};

}  // namespace mica::cuda
