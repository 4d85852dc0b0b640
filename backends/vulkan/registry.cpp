// The kernel lists, one a file in kernels/.
#include "backends/vulkan/registry.h"

namespace mica::vulkan {

#define MICA_KERNEL(name) extern const KernelList kernels_##name;
#include "vulkan_kernels.def"
#undef MICA_KERNEL

namespace {

const KernelList* find_list(const char* name) {
  static const KernelList* const lists[] = {
#define MICA_KERNEL(name) &kernels_##name,
#include "vulkan_kernels.def"
#undef MICA_KERNEL
      nullptr};
  for (const KernelList* const* list = lists; *list != nullptr; ++list)
    if (std::strcmp((*list)->name, name) == 0) return *list;
  return nullptr;
}

}  // namespace

uint32_t args_bytes(uint32_t op) {
  const char* name = op_name(op);
  const KernelList* list = name != nullptr ? find_list(name) : nullptr;
  return list != nullptr ? known_bytes(list->known, op) : MICA_B_NONE;
}

mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& bound,
                          const Kernel** out_kernel, Writer& reason) {
  *out_kernel = nullptr;
  MICA_TRY(gpu::bind(partition, unit, bases, &device.caps, bound, reason));
  if (bound.name == nullptr) return MICA_OK;
  const KernelList* list = find_list(bound.name);
  if (list == nullptr) {
    reason.put("vulkan has no kernel named ", bound.name);
    return MICA_UNSUPPORTED;
  }
  if (!knows_args(list->known, partition, unit.node, unit.region, reason)) return MICA_UNSUPPORTED;
  *out_kernel = gpu::choose(list, 1, bound, partition.variant, reason);
  return *out_kernel != nullptr ? MICA_OK : MICA_UNSUPPORTED;
}

}  // namespace mica::vulkan
