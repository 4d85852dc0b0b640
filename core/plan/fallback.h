// Opt-in fallback. Nodes that the session's device cannot run go to the first fallback device that
// can, as *islands*: partitions of their own, with an arena and a step block on that device. The
// session's own units before, between and after islands are backend plans of their own over the
// same values and buffers. A step runs these *segments* in order and carries the values that an
// island reads to it, and those it makes back.
#pragma once
#include "core/base/device.h"

struct mica_graph;
struct mica_plan;
struct mica_session;
struct mica_weights;

namespace mica {

// A weight as a fallback device wants it; the islands of a session share it.
struct WeightCopy {
  mica_weights* weights = nullptr;  // retained by the plans whose islands use it
  uint32_t entry = 0;
  mica_device* device = nullptr;
  mica_b_value value{};  // in `buffer`, at 0
  uint32_t granule_rows = 1;
  uint32_t n_users = 0;  // islands; without any the copy is dropped
  uint32_t n_ready = 0;  // of them, allocated; without any `buffer` is empty
  Buffer buffer;
};

struct IslandValue {
  uint32_t origin;  // the plan's value
  bool made;        // by a node of the island
  bool moves;  // is read from the plan's memory before the island runs, or if made, written after
};

struct Island {
  Island(const mica_allocator& a, mica_device* d)
      : device(d), values(a), flows(a), nodes(a), units(a), needs(a), extents(a), weights(a) {}
  mica_device* device;  // the session retains it
  mica_b_partition partition{};
  Vec<mica_b_value> values;  // [0] is unused
  Vec<IslandValue> flows;    // a value each
  Vec<mica_b_node> nodes;    // names and args are the plan's
  Vec<mica_b_unit> units;    // a node each
  Vec<mica_b_need> needs;
  Vec<mica_b_extent> extents;  // the plan's, at places in `step`
  Vec<WeightCopy*> weights;    // each counts as a user
  uint64_t arena_bytes = 0;
  uint64_t staging_bytes = 0;  // of the largest value that moves
  Buffer arena, step;
  void* staging = nullptr;
  uint32_t n_ready = 0;  // of its weights, those that count it in their n_ready
  mica_b_plan* handle = nullptr;

  uint64_t step_bytes() const { return extents.size() * sizeof(int32_t); }
};

// What runs at once: a range of the plan's units on its own device, or an island.
struct Segment {
  uint32_t first, n;
  uint32_t island;  // 1 + index, 0: none
  mica_b_partition partition;
  mica_b_plan* handle;
};

// Places every node that the device cannot run; UNSUPPORTED, with all reasons, when none can.
mica_status place_islands(mica_plan& plan, const mica_graph& graph, const mica_device* device);
bool on_island(const mica_plan& plan, uint32_t unit);
// What the fallback device answered for such a unit.
const mica_b_need& island_need(const mica_plan& plan, uint32_t unit);
// True when an island reads or makes the value or a view of its memory.
bool island_touches(const mica_plan& plan, uint32_t value);
// Once the units are final.
[[nodiscard]] bool make_segments(mica_plan& plan);
// Forgets a user, and the copy with the last one.
void drop_weight_copy(mica_session* session, WeightCopy* copy);

// Buffers, copied weights and backend plans of the islands. On failure none is kept.
mica_status allocate_islands(mica_plan& plan);
void release_islands(mica_plan& plan);
// Of all islands and weight copies.
uint64_t fallback_bytes(const mica_session* session);

// A step. submit runs all segments but the last to their end.
mica_status submit_segments(mica_plan& plan);
mica_status wait_last_segment(mica_plan& plan);
}  // namespace mica
