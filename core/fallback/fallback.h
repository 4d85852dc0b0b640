// Opt-in fallback. Nodes that the session's device cannot run go to the first fallback device that
// can, as *islands*: partitions of their own, with an arena and a step block on that device. The
// session's own units before, between and after islands are backend plans of their own over the
// same values and buffers. A step runs these *segments* in order and carries the values that an
// island reads to it, and those it makes back.
//
// Of this, the plain path knows the two base classes and the functions below. Without fallback
// devices both are empty, a plan is not in parts, and none of the functions does anything.
#pragma once
#include "core/base/device.h"
#include "mica/session.h"

struct mica_graph;

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
      : device(d), values(a), flows(a), nodes(a), units(a), extents(a), weights(a) {}
  mica_device* device;  // the session retains it
  mica_b_partition partition{};
  Vec<mica_b_value> values;    // [0] is unused
  Vec<IslandValue> flows;      // a value each
  Vec<mica_b_node> nodes;      // names and args are the plan's
  Vec<mica_b_unit> units;      // a node each
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

// What runs at once: a range of the plan's units on the session's device, or an island.
struct Segment {
  uint32_t first, n;
  uint32_t island;  // 1 + index, 0: none
  mica_b_partition partition;
  Compiled compiled;  // of islands none: theirs stays as it is
};

// What a plan keeps of it.
struct PlanParts {
  explicit PlanParts(const mica_allocator& a)
      : island_of(a), islands(a), fallbacks(a), segments(a) {}
  Vec<uint32_t> island_of;  // of each unit 1 + its island, 0: none
  Vec<Island*> islands;     // owned
  Vec<char> fallbacks;      // lines: what fell back, where to and why
  Vec<Segment> segments;    // in the order of a step

  bool in_parts() const { return !segments.empty(); }
  bool fell_back(uint32_t unit) const { return !islands.empty() && island_of[unit] != 0; }
};

// What a session keeps of it.
struct SessionParts {
  explicit SessionParts(const mica_allocator& a) : fallback(a), copies(a) {}
  ~SessionParts() {
    for (mica_device* d : fallback) mica_device_release(d);
  }
  Vec<mica_device*> fallback;  // retained
  Vec<WeightCopy*> copies;     // of the plans' islands
};

// --- Compiling ----------------------------------------------------------------------------------

// Keeps the devices that the caller names.
mica_status take_fallbacks(mica_session& session, const mica_session_params& params);
// Places every node that the device cannot run, and asks what it needs there; UNSUPPORTED, with all
// reasons, when nobody can.
mica_status place_fallbacks(mica_plan& plan, const mica_graph& graph);
// Marks the roots of values that islands read or make: they stay plain rows.
void pin_carried_values(const mica_plan& plan, Vec<uint8_t>& fixed);
// Once the units are final.
mica_status cut_parts(mica_plan& plan);
// For mica_plan_explain: where a unit that fell back runs, and what fell back and why.
void put_device(Writer& w, const mica_plan& plan, uint32_t unit);
void put_fallbacks(Writer& w, const mica_plan& plan);

// Forgets a user, and the copy with the last one. Only for this folder.
void drop_weight_copy(mica_session* session, WeightCopy* copy);

// --- Memory -------------------------------------------------------------------------------------

// Compiles the parts of a plan that is in parts; the first time also allocates its islands and
// copies their weights.
mica_status compile_parts(mica_plan& plan, mica_b_buffer* const* buffers);
// After all plans compiled, or one did not.
void settle_parts(mica_plan& plan, bool adopt);
void release_parts(mica_plan& plan);
// Of the segments on the session's device, what mica_backend.reserve says.
uint64_t parts_reserve(const mica_plan& plan);
// On fallback devices: of all islands and weight copies, and what their drivers take.
uint64_t fallback_bytes(const mica_session* session);

// --- Steps --------------------------------------------------------------------------------------

const mica_device* lost_fallback(const mica_session* session);
// Of a plan in parts. submit runs all segments but the last to their end.
mica_status submit_parts(mica_plan& plan);
mica_status wait_parts(mica_plan& plan);
}  // namespace mica
