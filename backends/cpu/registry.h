// Which kernels there are, and binding a partition's nodes to them.
#pragma once
#include "backends/cpu/device.h"

namespace mica::cpu {

constexpr uint32_t kMaxMembers = 8;  // of a region that a kernel may do at once

// A unit with its kernel. `call.members` points at `members`: after a copy call fix().
struct Bound {
  const Kernel* kernel;  // nullptr: nothing to run (views)
  Call call;
  Call members[kMaxMembers];
  void fix() { call.members = call.n_members > 0 ? members : nullptr; }
};

// What a unit is: a node or a region.
struct UnitRef {
  uint32_t node;    // MICA_B_NONE for a region
  uint32_t region;  // MICA_B_NONE for a node
};

// Fills the call with maxima and chooses the kernel. Without buffers, values that are present get
// an address that is not to be used. UNSUPPORTED: `reason` says why.
mica_status bind(const mica_b_device& device, const mica_b_partition& partition, UnitRef unit,
                 mica_b_buffer* const* buffers, Bound& out, Writer& reason);

}  // namespace mica::cpu
