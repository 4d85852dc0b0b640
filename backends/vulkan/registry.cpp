// The kernel lists, one a file in kernels/.
#include "backends/vulkan/registry.h"

namespace mica::vulkan {

#define MICA_KERNEL(name) extern const KernelList kernels_##name;
#include "vulkan_kernels.def"
#undef MICA_KERNEL

namespace {

const KernelList* find_list(const char* name) {
#define MICA_KERNEL(kernel) \
  if (std::strcmp(name, #kernel) == 0) return &kernels_##kernel;
#include "vulkan_kernels.def"
#undef MICA_KERNEL
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
  *out_kernel = choose_row(*list, bound.call, partition.variant, find_list, reason);
  return *out_kernel != nullptr ? MICA_OK : MICA_UNSUPPORTED;
}

const char* variant(const Device& device, const mica_b_partition& partition, gpu::UnitRef unit,
                    uint32_t i) {
  char text[1];
  Writer reason(text, sizeof text);
  gpu::Bound bound;
  if (gpu::bind(partition, unit, nullptr, &device.caps, bound, reason) != MICA_OK) return nullptr;
  const KernelList* list = bound.name != nullptr ? find_list(bound.name) : nullptr;
  return list != nullptr ? nth_variant(*list, bound.call, i) : nullptr;
}

}  // namespace mica::vulkan
