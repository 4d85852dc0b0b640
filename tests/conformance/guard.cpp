// The watching backend: everything is passed through; buffers get a tail of guard bytes, and what a
// step may not write is looked at after it.
#include "tests/conformance/guard.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/hazards.h"

namespace mica::conformance {
namespace {

constexpr uint64_t kMostGuardBytes = 4096;
constexpr unsigned char kGuard = 0xa5;
constexpr unsigned char kNan = 0xff;  // all ones are NaN in F32, F16, BF16

struct Range {
  uint64_t begin, end;
};
// Rows of an output from its extent's value on: nobody may write them.
struct Tail {
  uint64_t offset, row_bytes;
  int64_t max;
  uint64_t extent_offset;  // of the value, in the step block
};
// What of a plan's arena must still hold NaN after a step.
struct Watch {
  mica_b_buffer* arena = nullptr;
  mica_b_buffer* step = nullptr;
  std::vector<Range> untouched;  // bytes that belong to no value and no workspace
  std::vector<Tail> tails;
};

struct State {
  const mica_backend* inner = nullptr;
  std::map<mica_b_buffer*, uint64_t> buffers;  // their bytes without the guard
  std::map<mica_b_plan*, Watch> watches;
  std::map<mica_b_buffer*, bool> filled;  // KV storage that holds NaN already
  bool damaged = false;
  std::string hazard;                // the first of the partitions' barriers; "": none
  uint32_t numerics = MICA_NUM_F32;  // of matmuls
};
State state;  // a test program's own; the backend table has no user pointer

// None where buffers end at a page that nobody may touch.
uint64_t guard_bytes() {
  static const uint64_t bytes = std::getenv("MICA_VULKAN_GUARD") != nullptr ? 0 : kMostGuardBytes;
  return bytes;
}

mica_status fill(mica_b_buffer* buffer, uint64_t offset, uint64_t bytes, unsigned char value) {
  const std::vector<unsigned char> data(std::min<uint64_t>(bytes, 1 << 20), value);
  for (uint64_t at = 0; at < bytes; at += data.size()) {
    const uint64_t n = std::min<uint64_t>(data.size(), bytes - at);
    const mica_status status = state.inner->buffer_write(buffer, offset + at, data.data(), n);
    if (status != MICA_OK) return status;
  }
  return MICA_OK;
}

void check_guard(mica_b_buffer* buffer, uint64_t bytes) {
  unsigned char tail[kMostGuardBytes];
  if (state.inner->buffer_read(buffer, bytes, tail, guard_bytes()) != MICA_OK) return;
  for (uint64_t i = 0; i < guard_bytes(); ++i) state.damaged |= tail[i] != kGuard;
}

mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
  const mica_status status = state.inner->buffer_create(device, bytes + guard_bytes(), out);
  if (status != MICA_OK) return status;
  state.buffers[*out] = bytes;
  return fill(*out, bytes, guard_bytes(), kGuard);
}

void buffer_free(mica_b_buffer* buffer) {
  check_guard(buffer, state.buffers[buffer]);
  state.buffers.erase(buffer);
  state.filled.erase(buffer);
  state.inner->buffer_free(buffer);
}

bool meet(const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; }
Range range_of(const mica_b_value& v) { return {v.offset, v.offset + v.bytes}; }

// The complement of all values and workspaces.
std::vector<Range> untouched_bytes(const mica_b_partition& p, uint64_t arena_bytes) {
  std::vector<Range> used;
  for (uint32_t i = 0; i < p.n_values; ++i)
    if (p.values[i].storage == MICA_B_TEMP) used.push_back(range_of(p.values[i]));
  for (uint32_t i = 0; i < p.n_units; ++i) {
    const mica_b_unit& u = p.units[i];
    used.push_back({u.workspace_offset, u.workspace_offset + u.workspace_bytes});
  }
  std::sort(used.begin(), used.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> rest;
  uint64_t at = 0;
  for (const Range& r : used) {
    if (r.begin > at) rest.push_back({at, r.begin});
    at = std::max(at, r.end);
  }
  if (arena_bytes > at) rest.push_back({at, arena_bytes});
  return rest;
}

// Packed outputs with an extent, of nodes that nobody reads, in memory that nobody else uses.
std::vector<Tail> output_tails(const mica_b_partition& p) {
  std::vector<Tail> tails;
  for (uint32_t i = 0; i < p.n_nodes; ++i) {
    const mica_b_value& v = p.values[p.nodes[i].output];
    if (v.storage != MICA_B_TEMP || v.extent == MICA_B_NONE) continue;
    const auto row_bytes = static_cast<uint64_t>(v.stride[v.rank - 1]);
    bool alone = row_bytes * static_cast<uint64_t>(v.dim[v.rank - 1]) == v.bytes;
    const auto check = [&](const Range& r) { alone = alone && !meet(r, range_of(v)); };
    for (uint32_t k = 0; k < p.n_nodes; ++k) {
      const mica_b_node& n = p.nodes[k];
      for (uint32_t j = 0; j < n.n_inputs; ++j)
        if (n.input[j] != MICA_B_NONE && p.values[n.input[j]].storage == MICA_B_TEMP)
          check(range_of(p.values[n.input[j]]));
      if (k != i && p.values[n.output].storage == MICA_B_TEMP) check(range_of(p.values[n.output]));
    }
    for (uint32_t k = 0; k < p.n_units; ++k) {
      const mica_b_unit& u = p.units[k];
      check({u.workspace_offset, u.workspace_offset + u.workspace_bytes});
    }
    const mica_b_extent& e = p.extents[v.extent];
    if (alone) tails.push_back({v.offset, row_bytes, e.max, e.offset});
  }
  return tails;
}

void check_nan(const std::vector<unsigned char>& arena, const Range& r) {
  for (uint64_t i = r.begin; i < r.end; ++i) state.damaged |= arena[i] != kNan;
}

void check_arena(const Watch& w) {
  std::vector<unsigned char> arena(state.buffers[w.arena]);
  if (state.inner->buffer_read(w.arena, 0, arena.data(), arena.size()) != MICA_OK) return;
  for (const Range& r : w.untouched) check_nan(arena, r);
  for (const Tail& t : w.tails) {
    int32_t live = 0;
    if (state.inner->buffer_read(w.step, t.extent_offset, &live, sizeof live) != MICA_OK) return;
    check_nan(arena, {t.offset + static_cast<uint64_t>(live) * t.row_bytes,
                      t.offset + static_cast<uint64_t>(t.max) * t.row_bytes});
  }
}

bool has_matmul(const mica_b_partition& p, const mica_b_unit& u) {
  if (u.region == MICA_B_NONE) return p.nodes[u.node].op == MICA_OP_matmul;
  const mica_b_region& region = p.regions[u.region];
  for (uint32_t i = 0; i < region.n_members; ++i)
    if (p.nodes[region.members[i]].op == MICA_OP_matmul) return true;
  return false;
}

mica_status query(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                  mica_b_need* need) {
  const mica_status status = state.inner->query(device, partition, unit, need);
  if (status == MICA_OK && has_matmul(*partition, partition->units[unit]))
    state.numerics = std::max(state.numerics, need->numerics);
  return status;
}

mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                    mica_b_buffer* const* buffers, mica_b_plan** out) {
  const mica_status status = state.inner->compile(device, partition, buffers, out);
  if (status != MICA_OK) return status;
  if (state.hazard.empty()) state.hazard = find_hazard(*partition);
  state.watches[*out] = {buffers[0], buffers[1],
                         untouched_bytes(*partition, state.buffers[buffers[0]]),
                         output_tails(*partition)};
  for (uint32_t i = 0; i < partition->n_values; ++i) {
    const mica_b_value& v = partition->values[i];
    if (v.storage != MICA_B_STATE || state.filled[buffers[v.buffer]]) continue;
    state.filled[buffers[v.buffer]] = true;
    if (fill(buffers[v.buffer], 0, state.buffers[buffers[v.buffer]], kNan) != MICA_OK)
      return MICA_INTERNAL;
  }
  return MICA_OK;
}

mica_status submit(mica_b_plan* plan) {
  mica_b_buffer* arena = state.watches[plan].arena;
  const mica_status status = fill(arena, 0, state.buffers[arena], kNan);
  return status == MICA_OK ? state.inner->submit(plan) : status;
}

mica_status wait(mica_b_plan* plan) {
  const mica_status status = state.inner->wait(plan);
  for (const auto& [buffer, bytes] : state.buffers) check_guard(buffer, bytes);
  if (status == MICA_OK) check_arena(state.watches[plan]);
  return status;
}

void plan_release(mica_b_plan* plan) {
  state.watches.erase(plan);
  state.inner->plan_release(plan);
}

}  // namespace

const mica_backend* guarded(const mica_backend* inner) {
  static mica_backend table;
  state.inner = inner;
  table = *inner;
  table.buffer_create = buffer_create;
  table.buffer_free = buffer_free;
  table.query = query;
  table.compile = compile;
  table.submit = submit;
  table.wait = wait;
  table.plan_release = plan_release;
  return &table;
}

std::string guards_complaint() {
  std::string text = std::exchange(state.hazard, "");
  if (std::exchange(state.damaged, false))
    text = "bytes behind a buffer, or of no value or live row, were written";
  return text;
}

uint32_t matmul_numerics() { return std::exchange(state.numerics, uint32_t{MICA_NUM_F32}); }

}  // namespace mica::conformance
