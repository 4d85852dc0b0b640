// A fusion's pattern: one FusionDef in core/fusions/<name>.cpp; CMake lists it because it exists.
#pragma once
#include "core/op.h"

namespace mica {

constexpr uint32_t kMaxFusionMembers = 16;

// The nodes of a plan as a pattern sees them.
struct FusionView {
  const mica_b_partition* partition;
  const uint32_t* producer;  // per value: the node that makes it, or MICA_B_NONE; through views
  const uint32_t* n_uses;    // per value: how many inputs name it or a view of it; outputs count

  const mica_b_node& node(uint32_t i) const { return partition->nodes[i]; }
  const mica_b_value& value(uint32_t i) const { return partition->values[i]; }
  // The node that makes input k of node i, or MICA_B_NONE.
  uint32_t maker(uint32_t i, uint32_t k) const {
    const uint32_t v = node(i).input[k];
    return v == MICA_B_NONE ? MICA_B_NONE : producer[v];
  }
};

struct FusionDef {
  const char* name;
  // Whether a region of this fusion has `node` as its last member. Fills members (rising, `node`
  // last) and returns their number; 0: no.
  uint32_t (*match)(const FusionView& view, uint32_t node, uint32_t* members);
};

}  // namespace mica

#define MICA_DEFINE_FUSION(name, match)           \
  namespace mica {                                \
  extern const FusionDef fusion_##name;           \
  const FusionDef fusion_##name = {#name, match}; \
  }
