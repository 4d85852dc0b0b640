// Stands in for the CUDA backend in a library that was built without it.
#include "backends/gpu/absent.h"

namespace {

mica_status device_open(const mica_host* host, const char*, mica_b_device** out) {
  return mica::gpu::refuse_absent(host, out, "CUDA",
                                  "build it with -DMICA_CUDA=ON where nvcc is installed");
}
constexpr mica_backend kBackend = mica::gpu::absent_backend("cuda", device_open);

}  // namespace

const mica_backend* mica_backend_cuda(void) { return &kBackend; }
