// Small host writes, all at once: every entry of a mailbox goes to its place.
#include "backends/cuda/driver.h"

namespace mica::cuda {
namespace {

// One block an entry. The mailbox lies in the host's memory, pinned.
__global__ void scatter_writes(const Mailbox* mailbox) {
  const PendingWrite w = mailbox->writes[blockIdx.x];
  const char* src = reinterpret_cast<const char*>(mailbox) + w.offset;
  char* dst = reinterpret_cast<char*>(w.dst);
  uint32_t done = 0;
  if (w.dst % 16 == 0) {
    const uint32_t n = w.bytes / 16;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
      reinterpret_cast<uint4*>(dst)[i] = reinterpret_cast<const uint4*>(src)[i];
    done = n * 16;
  } else if (w.dst % 4 == 0) {
    const uint32_t n = w.bytes / 4;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
      reinterpret_cast<uint32_t*>(dst)[i] = reinterpret_cast<const uint32_t*>(src)[i];
    done = n * 4;
  }
  for (uint32_t i = done + threadIdx.x; i < w.bytes; i += blockDim.x) dst[i] = src[i];
}

}  // namespace

cudaError_t scatter(const Mailbox* mailbox, cudaStream_t stream) {
  void* args[] = {&mailbox};
  return cudaLaunchKernel(scatter_kernel(), dim3(mailbox->n), dim3(128), args, 0, stream);
}

const void* scatter_kernel() { return reinterpret_cast<const void*>(scatter_writes); }

}  // namespace mica::cuda
