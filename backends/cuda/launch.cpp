// Launching and clearing, into a stream that is under capture or running.
#include "backends/cuda/kernel.h"

namespace mica::cuda {
namespace {

// Loads the kernel's module, and allows as much dynamic shared memory as there is: an attribute of
// the kernel, which its launches of different sizes share.
cudaError_t prepare(const Recorder& r, const void* kernel, uint64_t shared_bytes) {
  cudaFuncAttributes attributes = {};
  const cudaError_t error = r.driver->func_get_attributes(&attributes, kernel);
  if (error != cudaSuccess || shared_bytes <= 48 * 1024) return error;
  const auto all = static_cast<int>(r.device->max_shared_bytes - attributes.sharedSizeBytes);
  return r.driver->func_set_attribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, all);
}

}  // namespace

mica_status launch_any(Recorder& r, const void* kernel, dim3 grid, dim3 block,
                       uint64_t shared_bytes, void** args) {
  if (r.error != cudaSuccess) return MICA_INTERNAL;
  if (r.preparing || r.running) r.error = prepare(r, kernel, shared_bytes);
  if (r.error != cudaSuccess) return MICA_INTERNAL;
  if (r.preparing) return MICA_OK;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = r.stream;
  config.attrs = &early;
  config.numAttrs = r.device->cc >= 90 && !r.cleared ? 1 : 0;
  r.cleared = false;
  r.error = r.driver->launch(&config, kernel, args);
  return r.error == cudaSuccess ? MICA_OK : MICA_INTERNAL;
}

mica_status clear(Recorder& r, uint64_t address, uint64_t bytes) {
  if (r.error != cudaSuccess) return MICA_INTERNAL;
  if (r.preparing || bytes == 0) return MICA_OK;
  r.cleared = true;
  r.error = r.driver->memset_async(reinterpret_cast<void*>(address), 0, bytes, r.stream);
  return r.error == cudaSuccess ? MICA_OK : MICA_INTERNAL;
}

}  // namespace mica::cuda
