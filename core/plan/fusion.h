// A fusion's pattern: one FusionDef in core/fusions/<name>.cpp; CMake lists it because it exists.
#pragma once
#include "core/graph/op.h"

namespace mica {

constexpr uint32_t kMaxFusionMembers = 16;

// The nodes of a plan as a pattern sees them, in build order, views left out.
struct FusionView {
  const mica_b_partition* partition;
  const uint32_t* producer;  // per value: the node that makes it, or MICA_B_NONE; through views
  const uint32_t* n_uses;    // per value: how many inputs name it or a view of it; outputs count
  const uint32_t* roots;     // per value: itself, or of a view the value whose memory it is
  // Per root, readers[first_reader[root] … first_reader[root + 1]) are the nodes that read it or a
  // view of it, in build order; a node is there once an input.
  const uint32_t* first_reader;
  const uint32_t* readers;

  const mica_b_node& node(uint32_t i) const { return partition->nodes[i]; }
  const mica_b_value& value(uint32_t i) const { return partition->values[i]; }
  const mica_b_value& input(uint32_t i, uint32_t k) const { return value(node(i).input[k]); }
  bool is(uint32_t i, uint32_t op) const { return i != MICA_B_NONE && node(i).op == op; }
  bool has_input(uint32_t i, uint32_t k) const { return node(i).input[k] != MICA_B_NONE; }
  // The node that makes input k of node i, or MICA_B_NONE.
  uint32_t maker(uint32_t i, uint32_t k) const {
    const uint32_t v = node(i).input[k];
    return v == MICA_B_NONE ? MICA_B_NONE : producer[v];
  }
  // The first node from `from` on that reads value v or a view of it, or MICA_B_NONE.
  uint32_t reader(uint32_t v, uint32_t from) const;
  // The node that alone reads the output of node i; MICA_B_NONE when several do, or an output does.
  uint32_t only_reader(uint32_t i) const;
  // Input k of node i is the whole output of node `from`: its bytes in its order, but perhaps in
  // another shape. What a kernel indexes by dimensions wants same_shape too.
  bool takes_whole(uint32_t i, uint32_t k, uint32_t from) const;
  bool same_shape(uint32_t a, uint32_t b) const;
};

struct FusionDef {
  const char* name;
  // Regions are offered by falling rank: larger patterns first. What a device refuses goes on to
  // the patterns of lower rank.
  int32_t rank;
  // The region that `node` is the anchor of (its first member or its last; called for every node).
  // Fills members, in an order of the pattern's own in which a node comes after those whose values
  // it reads, and returns their number; 0: there is none. Then `near_miss`, nullptr before, may be
  // set to a static text for mica_plan_explain: what was missing where most of a region was found.
  uint32_t (*match)(const FusionView& view, uint32_t node, uint32_t* members,
                    const char** near_miss);
};

}  // namespace mica

#define MICA_DEFINE_FUSION(name, rank, match)           \
  namespace mica {                                      \
  extern const FusionDef fusion_##name;                 \
  const FusionDef fusion_##name = {#name, rank, match}; \
  }
