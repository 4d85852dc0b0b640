// Stands in for the Vulkan backend in a library that was built without it.
#include "backends/gpu/absent.h"

namespace {

mica_status device_open(const mica_host* host, const char*, mica_b_device** out) {
  return mica::gpu::refuse_absent(
      host, out, "Vulkan",
      "build it with -DMICA_VULKAN=ON where glslangValidator and vulkan_core.h are installed");
}
constexpr mica_backend kBackend = mica::gpu::absent_backend("vulkan", device_open);

}  // namespace

const mica_backend* mica_backend_vulkan(void) { return &kBackend; }
