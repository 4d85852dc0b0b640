// Whether kernels know the options that a unit's nodes set.
#pragma once
#include "backends/known_args.h"
#include "backends/op_name.h"
#include "core/base/text.h"

namespace mica {

// Of the options of `op`; 0 where the list does not name it.
inline uint32_t known_bytes(const KnownArgs* known, uint32_t op) {
  for (; known->op != MICA_OP_NONE; ++known)
    if (known->op == op) return known->bytes;
  return 0;
}

// The unit is a node or a region, the other MICA_B_NONE. False: `reason` says what is not known.
inline bool knows_args(const KnownArgs* known, const mica_b_partition& partition, uint32_t node,
                       uint32_t region, Writer& reason) {
  const uint32_t* nodes = region == MICA_B_NONE ? &node : partition.regions[region].members;
  const uint32_t n = region == MICA_B_NONE ? 1 : partition.regions[region].n_members;
  for (uint32_t i = 0; i < n; ++i) {
    const mica_b_node& member = partition.nodes[nodes[i]];
    const auto* bytes = static_cast<const unsigned char*>(member.args);
    for (uint32_t k = known_bytes(known, member.op); k < member.args_size; ++k) {
      if (bytes[k] == 0) continue;
      const char* name = op_name(member.op);
      reason.put("its kernel knows the first ", known_bytes(known, member.op),
                 " bytes of the options of ", name != nullptr ? name : "the op", ", and byte ", k,
                 " is set");
      return false;
    }
  }
  return true;
}

}  // namespace mica
