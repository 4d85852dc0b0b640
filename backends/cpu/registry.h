// Which kernels there are, and binding a partition's nodes to them.
#pragma once
#include "backends/cpu/device.h"

namespace mica::cpu {

constexpr uint32_t kMaxMembers = 16;  // of a region that a kernel may do at once

// A unit with its kernel.
struct Bound {
  const Kernel* kernel;  // nullptr: nothing to run (views)
  Call call;
};

// What a unit is: a node or a region.
struct UnitRef {
  uint32_t node;    // MICA_B_NONE for a region
  uint32_t region;  // MICA_B_NONE for a node
};

// Fills the call with maxima and chooses the kernel. `members`: room for those of a region, at most
// kMaxMembers. Without buffers, values that are present get an address that is not to be used.
// UNSUPPORTED: `reason` says why.
mica_status bind(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                 mica_b_buffer* const* buffers, Call* members, Bound& out, Writer& reason);

// The backend's variants.
const char* variant(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                    uint32_t i);

// The backend's value_layout: kLayoutPanels where the kernel that makes the value can round it for
// all that read it, which are matmuls by weights of one type. Not of a single column, which every
// reader rounds itself, in the shade of its first weights' way from memory.
void value_layout(const mica_b_device& device, const mica_b_partition& partition, uint32_t value,
                  uint32_t* out_layout, uint64_t* out_bytes);

// How many bytes of an op's args its kernels know; MICA_B_NONE where there are no
// kernels.
uint32_t args_bytes(const mica_b_device& device, uint32_t op);

}  // namespace mica::cpu
