// Which kernels there are, and the choice among them for a unit of a partition.
#pragma once
#include "backends/vulkan/device.h"

namespace mica::vulkan {

// Binds the unit and chooses its kernel; nullptr: nothing runs for it (views). Without `bases`,
// addresses are not to be used. UNSUPPORTED: `reason` says why.
mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& bound,
                          const Kernel** out_kernel, Writer& reason);
// The backend's variants.
const char* variant(const Device& device, const mica_b_partition& partition, gpu::UnitRef unit,
                    uint32_t i);

// How many bytes of an op's args its kernels know; MICA_B_NONE where there are no kernels.
uint32_t args_bytes(uint32_t op);

}  // namespace mica::vulkan
