// Who takes the kernels for matrix units. MICA_VULKAN_ENABLE is a list of words, for tests:
// plain_fragments runs them without any (fragments.glsl).
#pragma once
#include <cstdlib>
#include <cstring>

#include "backends/vulkan/kernel.h"

namespace mica::vulkan {

inline bool path_enabled(const char* word) {
  const size_t n = std::strlen(word);
  for (const char* at = std::getenv("MICA_VULKAN_ENABLE"); at != nullptr;) {
    if (std::strncmp(at, word, n) == 0 && (at[n] == '\0' || at[n] == ',')) return true;
    at = std::strchr(at, ',');
    if (at != nullptr) ++at;
  }
  return false;
}

// Whole subgroups of 32 and matrices of 16 x 16 x 16, with so much shared memory.
inline bool has_matrix_units(const DeviceCaps& caps, uint32_t shared_bytes) {
  return caps.cooperative_matrix && caps.min_subgroup_size <= 32 && caps.max_subgroup_size >= 32 &&
         caps.max_invocations >= 256 && caps.max_shared_bytes >= shared_bytes;
}

}  // namespace mica::vulkan
