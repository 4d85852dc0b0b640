// The watching backend: everything is passed through; buffers get a tail of guard bytes, and what a
// step may not write is looked at after it.
#include "tests/conformance/guard.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "backends/op_name.h"
#include "tests/conformance/hazards.h"
#include "tests/conformance/watched_cache.h"

namespace mica::conformance {
namespace {

constexpr uint64_t kMostGuardBytes = 4096;
constexpr unsigned char kGuard = 0xa5;

// The fill of memory that a step has not written: NaN for readers of F32, F16 and BF16 alike, and
// not the same at any two neighbouring places, so that neither a computed NaN nor a copy of another
// place looks like it.
constexpr uint64_t kPeriod = 252;
unsigned char unwritten(uint64_t at) {
  return at % 2 != 0 ? 0xff : static_cast<unsigned char>(0x81 + at % kPeriod / 2 * 37 % 126);
}
// The fill from a multiple of the period on, for any place in it: larger than what is written at
// once.
const std::vector<unsigned char>& unwritten_bytes() {
  static const std::vector<unsigned char> bytes = [] {
    std::vector<unsigned char> b((1 << 20) + kPeriod);
    for (size_t i = 0; i < b.size(); ++i) b[i] = unwritten(i);
    return b;
  }();
  return bytes;
}

struct Range {
  uint64_t begin, end;
};
// Rows of an output from its extent's value on: nobody may write them.
struct Tail {
  const char* name;  // of the node
  uint32_t op;
  uint64_t offset, row_bytes;
  int64_t max;
  uint64_t extent_offset;  // of the value, in the step block
};
// What of a plan's arena must still hold the fill after a step.
struct Watch {
  mica_b_buffer* arena = nullptr;
  mica_b_buffer* step = nullptr;
  std::vector<Range> untouched;  // bytes that belong to no value and no workspace
  std::vector<Tail> tails;
  WatchedCache cache;
};

struct State {
  const mica_backend* inner = nullptr;
  mica_backend table{};
  std::map<mica_b_buffer*, uint64_t> buffers;    // their bytes without the guard
  std::map<mica_b_buffer*, const char*> called;  // "the arena", …
  std::map<mica_b_plan*, Watch> watches;
  std::map<mica_b_buffer*, bool> filled;  // KV storage that has the fill already
  std::string complaint;                  // the first
  NodeNumerics numerics, imposed;
  std::map<const mica_b_partition*, size_t> asked;  // which plan of the session
  std::vector<StoredCells> stored;

  void complain(const std::string& text) {
    if (complaint.empty()) complaint = text;
  }
};

// None where buffers end at a page that nobody may touch.
uint64_t guard_bytes() {
  static const uint64_t bytes = [] {
    const char* pages = std::getenv("MICA_VULKAN_GUARD");
    const bool none = pages == nullptr || *pages == '\0' || std::strcmp(pages, "0") == 0;
    return none ? kMostGuardBytes : 0;
  }();
  return bytes;
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
    if (alone)
      tails.push_back({p.nodes[i].name, p.nodes[i].op, v.offset, row_bytes, e.max, e.offset});
  }
  return tails;
}

std::string named(const Tail& t) {
  const char* const op = op_name(t.op);
  return std::string("the result of ") + op + (t.name[0] != '\0' ? " '" : "") + t.name +
         (t.name[0] != '\0' ? "'" : "");
}

// The nodes of a unit: one, or a claimed region's members.
std::vector<uint32_t> nodes_of(const mica_b_partition& p, const mica_b_unit& u) {
  if (u.region == MICA_B_NONE) return {u.node};
  const mica_b_region& r = p.regions[u.region];
  return {r.members, r.members + r.n_members};
}

// The functions of a table: tables have no user pointer, so there is a set of functions a role.
template <Role kRole>
struct Guard {
  static State state;

  static mica_status fill(mica_b_buffer* buffer, uint64_t offset, uint64_t bytes, bool guard) {
    const std::vector<unsigned char> guards(guard ? bytes : 0, kGuard);
    for (uint64_t at = 0; at < bytes;) {
      const uint64_t n = std::min<uint64_t>(bytes - at, 1 << 20);
      const unsigned char* data =
          guard ? guards.data() + at : unwritten_bytes().data() + (offset + at) % kPeriod;
      const mica_status status = state.inner->buffer_write(buffer, offset + at, data, n);
      if (status != MICA_OK) return status;
      at += n;
    }
    return MICA_OK;
  }

  static void check_guard(mica_b_buffer* buffer, uint64_t bytes) {
    unsigned char tail[kMostGuardBytes];
    if (state.inner->buffer_read(buffer, bytes, tail, guard_bytes()) != MICA_OK) return;
    static const std::vector<unsigned char> whole(kMostGuardBytes, kGuard);
    if (std::memcmp(tail, whole.data(), guard_bytes()) == 0) return;
    const auto at = std::mismatch(whole.begin(), whole.end(), tail).first - whole.begin();
    const auto known = state.called.find(buffer);
    state.complain("byte " + std::to_string(at) + " behind " +
                   (known != state.called.end() ? known->second : "a buffer") + " was written");
  }

  static mica_status buffer_create(mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
    const mica_status status = state.inner->buffer_create(device, bytes + guard_bytes(), out);
    if (status != MICA_OK) return status;
    state.buffers[*out] = bytes;
    return fill(*out, bytes, guard_bytes(), true);
  }

  static void buffer_free(mica_b_buffer* buffer) {
    check_guard(buffer, state.buffers[buffer]);
    state.buffers.erase(buffer);
    state.called.erase(buffer);
    state.filled.erase(buffer);
    state.inner->buffer_free(buffer);
  }

  static void check_fill(const std::vector<unsigned char>& arena, const Range& r,
                         const std::string& what) {
    const unsigned char* const fill = unwritten_bytes().data();
    for (uint64_t at = r.begin; at < r.end;) {
      const uint64_t n = std::min<uint64_t>(r.end - at, 1 << 20);
      const unsigned char* const want = fill + at % kPeriod;
      if (std::memcmp(&arena[at], want, n) != 0) {
        const auto first = std::mismatch(want, want + n, &arena[at]).first - want;
        return state.complain("byte " +
                              std::to_string(at - r.begin + static_cast<uint64_t>(first)) + " of " +
                              what + " was written");
      }
      at += n;
    }
  }

  static void check_arena(const Watch& w) {
    std::vector<unsigned char> arena(state.buffers[w.arena]);
    if (state.inner->buffer_read(w.arena, 0, arena.data(), arena.size()) != MICA_OK) return;
    for (const Range& r : w.untouched)
      check_fill(arena, r, "the arena between values, from " + std::to_string(r.begin));
    for (const Tail& t : w.tails) {
      int32_t live = 0;
      if (state.inner->buffer_read(w.step, t.extent_offset, &live, sizeof live) != MICA_OK) return;
      check_fill(arena,
                 {t.offset + static_cast<uint64_t>(live) * t.row_bytes,
                  t.offset + static_cast<uint64_t>(t.max) * t.row_bytes},
                 "rows beyond the " + std::to_string(live) + " live ones of " + named(t));
    }
  }

  static mica_status query(mica_b_device* device, const mica_b_partition* partition, uint32_t unit,
                           mica_b_need* need) {
    const mica_status status = state.inner->query(device, partition, unit, need);
    // All plans of a session are asked before the first is compiled, in the same order.
    const size_t plan = state.asked.emplace(partition, state.asked.size()).first->second;
    if (status == MICA_OK && plan < state.imposed.size()) {
      const uint32_t node = partition->units[unit].node;
      if (node < state.imposed[plan].size()) need->numerics = state.imposed[plan][node];
    }
    return status;
  }

  static mica_status compile(mica_b_device* device, const mica_b_partition* partition,
                             mica_b_buffer* const* buffers, mica_b_plan** out) {
    const mica_status status = state.inner->compile(device, partition, buffers, out);
    if (status != MICA_OK) return status;
    if (const std::string hazard = find_hazard(*partition); !hazard.empty()) state.complain(hazard);
    note(*partition);
    state.called[buffers[0]] = "the arena";
    state.called[buffers[1]] = "the step block";
    for (uint32_t i = 1; i < partition->n_values; ++i) {
      const mica_b_value& v = partition->values[i];
      if (v.storage == MICA_B_WEIGHT) state.called[buffers[v.buffer]] = "the weights";
      if (v.storage != MICA_B_STATE) continue;
      mica_b_buffer* const kv = buffers[v.buffer];
      state.called[kv] = "the KV storage";
      if (std::exchange(state.filled[kv], true)) continue;
      if (fill(kv, 0, state.buffers[kv], false) != MICA_OK) return MICA_INTERNAL;
    }
    state.watches[*out] = {
        buffers[0], buffers[1], untouched_bytes(*partition, state.buffers[buffers[0]]),
        output_tails(*partition), WatchedCache(*state.inner, device, *partition, buffers)};
    return MICA_OK;
  }

  // Numerics of the plan's nodes. A plan of views alone asks for nothing, and is not counted; one
  // that is compiled again, because another came later, is counted once.
  static void note(const mica_b_partition& p) {
    const auto asked = state.asked.find(&p);
    if (p.n_units == 0 || asked == state.asked.end()) return;
    std::vector<uint32_t> numerics(p.n_nodes, MICA_NUM_EXACT);
    for (uint32_t i = 0; i < p.n_units; ++i)
      for (const uint32_t n : nodes_of(p, p.units[i])) numerics[n] = p.units[i].numerics;
    if (state.numerics.size() <= asked->second) state.numerics.resize(asked->second + 1);
    state.numerics[asked->second] = std::move(numerics);
  }

  static mica_status submit(mica_b_plan* plan) {
    Watch& w = state.watches[plan];
    const mica_status status = fill(w.arena, 0, state.buffers[w.arena], false);
    if (status != MICA_OK) return status;
    if (const std::string why = w.cache.before_step(state.buffers); !why.empty())
      state.complain(why);
    return state.inner->submit(plan);
  }

  static mica_status wait(mica_b_plan* plan) {
    const mica_status status = state.inner->wait(plan);
    for (const auto& [buffer, bytes] : state.buffers) check_guard(buffer, bytes);
    if (status != MICA_OK) return status;
    Watch& w = state.watches[plan];
    check_arena(w);
    state.stored.clear();
    if (const std::string why = w.cache.after_step(state.stored); !why.empty()) state.complain(why);
    return MICA_OK;
  }

  static void plan_release(mica_b_plan* plan) {
    state.watches.erase(plan);
    state.inner->plan_release(plan);
  }

  static const mica_backend* table(const mica_backend* inner) {
    state.inner = inner;
    state.table = *inner;
    state.table.buffer_create = buffer_create;
    state.table.buffer_free = buffer_free;
    state.table.query = query;
    state.table.compile = compile;
    state.table.submit = submit;
    state.table.wait = wait;
    state.table.plan_release = plan_release;
    return &state.table;
  }
};
template <Role kRole>
State Guard<kRole>::state;

State& state_of(Role role) {
  return role == Role::kTested ? Guard<Role::kTested>::state : Guard<Role::kOracle>::state;
}

}  // namespace

const mica_backend* guarded(const mica_backend* inner, Role role) {
  return role == Role::kTested ? Guard<Role::kTested>::table(inner)
                               : Guard<Role::kOracle>::table(inner);
}

std::string guards_complaint(Role role) { return std::exchange(state_of(role).complaint, ""); }

NodeNumerics take_numerics(Role role) {
  state_of(role).asked.clear();
  return std::exchange(state_of(role).numerics, {});
}

void impose_numerics(Role role, NodeNumerics numerics) {
  state_of(role).imposed = std::move(numerics);
}

std::vector<StoredCells> stored_cells(Role role) { return state_of(role).stored; }

}  // namespace mica::conformance
