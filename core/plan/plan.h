// A plan: a graph compiled for one device. plan.cpp builds the partition, fuse.cpp claims regions,
// memory.cpp orders units into waves and places values, explain.cpp tells about it.
#pragma once
#include <span>

#include "core/fallback/fallback.h"
#include "core/graph/graph.h"
#include "core/graph/weights.h"

namespace mica {

using PlanNamed = GraphNamed;
struct PlanInput : GraphInput {
  uint32_t place;  // index in the session's places; kNoPlace: a table that nothing reads
};
constexpr uint32_t kNoPlace = UINT32_MAX;

// A value in the step block: an input or a view of one.
struct PlanStepValue {
  uint32_t value, input;
  uint64_t offset;  // in the input
};

struct PlanRefusal {
  const char* fusion;
  const char* where;  // the first of them
  size_t reason;      // offset in reasons
  uint32_t n;         // how many regions were not made for it
};

// Buffers of every plan: arena, step block, then weights, then the cache.
enum : uint32_t { kArenaBuffer = 0, kStepBuffer = 1, kFirstWeightsBuffer = 2 };

constexpr uint64_t kPlaceAlign = 256;  // of values in the arena and the step block

}  // namespace mica

struct mica_plan : mica::PlanParts {
  mica_plan(mica_session* s, const mica_allocator& a)
      : PlanParts(a), session(s), values(a), roots(a), nodes(a), regions(a), members(a), units(a),
        extents(a), names(a), args(a), outputs(a), output_names(a), inputs(a), step_values(a),
        extent_names(a), extent_tables(a), extent_places(a), weights(a), kernels(a), refusals(a),
        reasons(a), reads_table(a) {}
  ~mica_plan();

  mica_session* session;
  mica_b_partition partition{};
  mica::Vec<mica_b_value> values;    // same indices as the graph's; [0] is unused
  mica::Vec<uint32_t> roots;         // of each value, the value whose memory it is
  mica::Vec<mica_b_node> nodes;      // live ones, views left out
  mica::Vec<mica_b_region> regions;  // claimed
  mica::Vec<uint32_t> members;       // of all regions
  mica::Vec<mica_b_unit> units;
  mica::Vec<mica_b_extent> extents;  // [0] is none
  mica::Vec<char> names;
  mica::Vec<char> args;
  mica::Vec<mica::PlanNamed> outputs;
  mica::NameMap output_names;
  mica::Vec<mica::PlanInput> inputs;
  mica::Vec<mica::PlanStepValue> step_values;
  mica::Vec<size_t> extent_names;
  mica::Vec<uint32_t> extent_tables;  // of each extent, GraphExtent::table
  mica::Vec<uint32_t> extent_places;  // of each extent, index in the session's places
  uint32_t graph_tag = 0;             // of its extents
  mica::Vec<mica_weights*> weights;   // retained
  mica::Vec<mica_b_need> kernels;     // a unit each
  mica::Vec<mica::PlanRefusal> refusals;
  mica::Vec<char> reasons;  // of the refusals
  mica_kv_cache* cache = nullptr;
  uint32_t cache_extent = 0;       // n_tokens
  mica::Vec<uint8_t> reads_table;  // of each of the cache's tables
  uint64_t arena_bytes = 0;
  uint64_t workspace_bytes = 0;  // of the wave that needs most
  mica::Compiled compiled;       // unless it is in parts
  bool allocated = false;        // and compiled
  uint32_t arena = 0;            // which of the session's arenas
  bool ran = false;  // at least one step; the session knows whose values the arenas hold

  const char* name_at(size_t offset) const { return names.data() + offset; }
  // The node, or the region's members.
  std::span<const uint32_t> nodes_of(const mica_b_unit& u) const {
    if (u.region == MICA_B_NONE) return {&u.node, 1};
    return {regions[u.region].members, regions[u.region].n_members};
  }
  // Calls f(root) for each input that is there.
  template <class F>
  void each_read(const mica_b_node& node, const F& f) const {
    for (uint32_t k = 0; k < node.n_inputs; ++k)
      if (node.input[k] != MICA_B_NONE) f(roots[node.input[k]]);
  }
};

namespace mica {
// Fills the plan, whose session is known, but for what waits for the session's places. The device
// must support every node.
mica_status build_plan(mica_plan& plan, const mica_graph& graph);
// Whether a device runs a node; UNSUPPORTED: `reason` says why not.
mica_status node_supported(const mica_device* device, const mica_b_partition& partition,
                           uint32_t node, char* reason, size_t capacity);
// "silu 'a': cpu cannot run it: …"; without the node's name when it is NULL.
void put_refusal(Writer& w, const mica_b_node* node, const mica_device* device, const char* reason);
// Finds regions (composite ones of the graph, patterns of core/fusions) and asks the device.
mica_status claim_regions(mica_plan& plan, const mica_graph& graph);
// Whether the device's kernels know all of a node's args that are not zero; else `reason` says so.
bool args_known(const mica_device* device, const mica_b_node& node, char* reason, size_t capacity);
// Cuts units into waves, sets barriers, and places temporaries and workspaces in the arena.
mica_status plan_memory(mica_plan& plan);
}  // namespace mica
