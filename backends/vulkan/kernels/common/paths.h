// Who takes the kernels for matrix units.
#pragma once
#include "backends/vulkan/kernel.h"

namespace mica::vulkan {

// Whole subgroups of 32 and matrices of 16 x 16 x 16, with so much shared memory.
inline bool has_matrix_units(const DeviceCaps& caps, uint32_t shared_bytes) {
  return caps.cooperative_matrix && caps.min_subgroup_size <= 32 && caps.max_subgroup_size >= 32 &&
         caps.max_invocations >= 256 && caps.max_shared_bytes >= shared_bytes;
}

}  // namespace mica::vulkan
