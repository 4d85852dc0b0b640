// Buffers between two pages that nobody may touch, for tests on a driver that computes on the CPU:
// a shader that reads or writes beyond its buffer faults. The environment's MICA_VULKAN_GUARD says
// which end of a buffer lies at the page: "end" (or "1") or "start".
#pragma once
#include "mica/context.h"

namespace mica::vulkan {

enum class Guard : uint8_t { none, end, start };
Guard guard_wanted();

// Zeroed host memory, whole pages of `align` bytes or more, and a page on either side.
struct GuardedPages {
  char* memory;  // nullptr: none
  uint64_t bytes, page;
};
GuardedPages map_guarded(uint64_t bytes, uint64_t align);
void unmap_guarded(GuardedPages& pages);

}  // namespace mica::vulkan
