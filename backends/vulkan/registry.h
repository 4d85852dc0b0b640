// Which kernels there are, and the choice among them for a unit of a partition.
#pragma once
#include "backends/vulkan/device.h"

namespace mica::vulkan {

// Binds the unit and chooses its kernel; nullptr: nothing runs for it (views). Without `bases`,
// addresses are not to be used. UNSUPPORTED: `reason` says why.
mica_status choose_kernel(const Device& device, const mica_b_partition& partition,
                          gpu::UnitRef unit, const uint64_t* bases, gpu::Bound& bound,
                          const Kernel** out_kernel, Writer& reason);

}  // namespace mica::vulkan
