// The kernel lists, one a file in kernels/.
#include "backends/vulkan/registry.h"

namespace mica::vulkan {

#define MICA_KERNEL(name) extern const KernelList kernels_##name;
#include "vulkan_kernels.def"
#undef MICA_KERNEL

mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& bound,
                          const Kernel** out_kernel, Writer& reason) {
  static const KernelList* const lists[] = {
#define MICA_KERNEL(name) &kernels_##name,
#include "vulkan_kernels.def"
#undef MICA_KERNEL
      nullptr};
  constexpr uint32_t n = sizeof lists / sizeof lists[0] - 1;
  *out_kernel = nullptr;
  MICA_TRY(gpu::bind(partition, unit, bases, &device.caps, bound, reason));
  if (bound.name == nullptr) return MICA_OK;
  for (uint32_t i = 0; i < n && *out_kernel == nullptr; ++i)
    if (std::strcmp(lists[i]->name, bound.name) == 0)
      *out_kernel = gpu::choose(lists[i], 1, bound, partition.variant, reason);
  if (*out_kernel != nullptr) return MICA_OK;
  if (reason.size() == 0) reason.put("vulkan has no kernel named ", bound.name);
  return MICA_UNSUPPORTED;
}

}  // namespace mica::vulkan
