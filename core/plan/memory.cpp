// Waves and places. Units that depend on nothing of each other form a wave and may run at the same
// time; a barrier stands between waves. A temporary lives from the wave that writes it to the last
// wave that reads it, so reuse of memory never orders two units of one wave.
#include <algorithm>

#include "core/plan/plan.h"

namespace mica {
namespace {

struct Lifetime {
  uint32_t value;  // root, or MICA_B_NONE for the workspace of `unit`
  uint32_t unit;
  uint32_t first, last;  // waves, inclusive
  uint64_t bytes;
  uint64_t offset;
};

class Planner {
 public:
  Planner(mica_plan& plan, const mica_allocator& a)
      : plan_(plan), written_(a), read_(a), wave_of_(a), lives_(a), life_of_(a), last_use_(a) {}

  [[nodiscard]] bool prepare() {
    return written_.resize(plan_.values.size()) && read_.resize(plan_.values.size()) &&
           wave_of_.resize(plan_.units.size()) && life_of_.resize(plan_.values.size()) &&
           last_use_.resize(plan_.values.size());
  }
  void make_waves();
  [[nodiscard]] bool make_lifetimes();
  mica_status place(Error& error);

 private:
  // Calls f(value, is_write) for every value a unit touches outside its region's inside.
  template <class F>
  void touches(const mica_b_unit& u, const F& f) const {
    const uint32_t one[] = {u.node};
    const uint32_t* nodes = u.region != MICA_B_NONE ? plan_.regions[u.region].members : one;
    const uint32_t n = u.region != MICA_B_NONE ? plan_.regions[u.region].n_members : 1;
    for (uint32_t i = 0; i < n; ++i) {
      const mica_b_node& node = plan_.nodes[nodes[i]];
      for (uint32_t k = 0; k < node.n_inputs; ++k)
        if (node.input[k] != MICA_B_NONE) f(plan_.roots[node.input[k]], false);
      f(plan_.roots[node.output], true);
    }
  }
  bool can_take_over(const mica_b_unit& u, uint32_t wave, uint32_t& out_input) const;

  mica_plan& plan_;
  Vec<uint32_t> written_, read_;  // per root: 1 + the wave that last did so
  Vec<uint32_t> wave_of_;         // per unit
  Vec<Lifetime> lives_;
  Vec<uint32_t> life_of_;   // per root: 1 + index in lives_
  Vec<uint32_t> last_use_;  // per root: last wave that touches it
};

void Planner::make_waves() {
  uint32_t wave = 0;
  for (uint32_t i = 0; i < plan_.units.size(); ++i) {
    mica_b_unit& u = plan_.units[i];
    bool conflict = false;
    touches(u, [&](uint32_t v, bool write) {
      const bool was_written = written_[v] == wave + 1, was_read = read_[v] == wave + 1;
      conflict |= was_written || (write && was_read);
    });
    if (conflict) ++wave;
    u.barrier = conflict || i == 0 ? 1 : 0;
    wave_of_[i] = wave;
    touches(u, [&](uint32_t v, bool write) {
      (write ? written_ : read_)[v] = wave + 1;
      last_use_[v] = wave;
    });
  }
  for (const PlanNamed& o : plan_.outputs) last_use_[plan_.roots[o.value]] = UINT32_MAX;
}

// The op's in-place input, when it dies here, nothing else of this wave reads it, and both tensors
// are one and the same run of bytes.
bool Planner::can_take_over(const mica_b_unit& u, uint32_t wave, uint32_t& out_input) const {
  if (u.region != MICA_B_NONE) return false;
  const mica_b_node& node = plan_.nodes[u.node];
  const int32_t k = find_op(node.op)->inplace;
  if (k < 0 || node.input[k] == MICA_B_NONE) return false;
  const uint32_t v = node.input[k], root = plan_.roots[v];
  const mica_b_value& in = plan_.values[v];
  const mica_b_value& out = plan_.values[node.output];
  if (v != root || in.storage != MICA_B_TEMP || life_of_[root] == 0 || last_use_[root] != wave)
    return false;
  if (in.bytes != out.bytes || in.dtype != out.dtype || in.layout != out.layout) return false;
  for (int i = 0; i < 4; ++i)
    if (in.dim[i] != out.dim[i] || in.stride[i] != out.stride[i]) return false;
  uint32_t readers = 0;
  for (uint32_t i = 0; i < plan_.units.size(); ++i)
    if (wave_of_[i] == wave)
      touches(plan_.units[i], [&](uint32_t r, bool write) { readers += r == root && !write; });
  out_input = root;
  return readers == 1;
}

bool Planner::make_lifetimes() {
  for (uint32_t i = 0; i < plan_.units.size(); ++i) {
    const mica_b_unit& u = plan_.units[i];
    const uint32_t wave = wave_of_[i];
    bool ok = true;
    touches(u, [&](uint32_t v, bool write) {
      if (!ok || !write || plan_.values[v].storage != MICA_B_TEMP || life_of_[v] != 0) return;
      uint32_t source = 0;
      if (can_take_over(u, wave, source)) {
        life_of_[v] = life_of_[source];
        Lifetime& life = lives_[life_of_[v] - 1];
        life.last = std::max(life.last, last_use_[v]);
        return;
      }
      ok = lives_.push({v, i, wave, last_use_[v], plan_.values[v].bytes, 0});
      life_of_[v] = static_cast<uint32_t>(lives_.size());
    });
    if (!ok) return false;
    if (u.workspace_bytes != 0 && !lives_.push({MICA_B_NONE, i, wave, wave, u.workspace_bytes, 0}))
      return false;
  }
  return true;
}

// Largest first, each at the lowest offset where nothing that lives at the same time is.
mica_status Planner::place(Error& error) {
  Vec<uint32_t> order(lives_.allocator()), placed(lives_.allocator());
  if (!order.resize(lives_.size()) || !placed.reserve(lives_.size()))
    return error.out_of_memory("plan");
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
    return lives_[a].bytes != lives_[b].bytes ? lives_[a].bytes > lives_[b].bytes : a < b;
  });
  for (const uint32_t i : order) {
    Lifetime& life = lives_[i];
    uint64_t bytes = 0;
    if (!checked_align(life.bytes, kPlaceAlign, bytes))
      return error.fail(MICA_OUT_OF_MEMORY, "a tensor is too large");
    uint64_t offset = 0;
    for (const uint32_t j : placed) {  // sorted by offset
      const Lifetime& other = lives_[j];
      if (other.last < life.first || life.last < other.first) continue;
      if (offset + bytes <= other.offset) break;
      offset = std::max(offset, align_up(other.offset + other.bytes, kPlaceAlign));
    }
    life.offset = offset;
    plan_.arena_bytes = std::max(plan_.arena_bytes, offset + bytes);
    size_t at = placed.size();
    if (!placed.push(i)) return error.out_of_memory("plan");
    for (; at > 0 && lives_[placed[at - 1]].offset > offset; --at) placed[at] = placed[at - 1];
    placed[at] = i;
  }
  uint64_t workspace = 0;
  for (const Lifetime& life : lives_) {
    if (life.value != MICA_B_NONE) continue;
    plan_.units[life.unit].workspace_offset = life.offset;
    workspace = std::max(workspace, life.bytes);
  }
  plan_.workspace_bytes = workspace;
  uint64_t hidden = 0;  // values without memory get offsets of their own, so that views are told
  for (uint32_t v = 1; v < plan_.values.size(); ++v) {
    mica_b_value& value = plan_.values[v];
    const uint32_t root = plan_.roots[v];
    if (value.storage == MICA_B_TEMP && life_of_[root] != 0) {
      value.offset += lives_[life_of_[root] - 1].offset;
    } else if (value.storage == MICA_B_UNPLACED && root == v) {
      value.offset = hidden;
      hidden += align_up(value.bytes, kPlaceAlign);
    } else if (value.storage == MICA_B_UNPLACED && root < v) {
      value.offset += plan_.values[root].offset;
    }
  }
  return MICA_OK;
}

}  // namespace

mica_status plan_memory(mica_plan& plan, const mica_allocator& allocator, Error& error) {
  Planner planner(plan, allocator);
  if (!planner.prepare()) return error.out_of_memory("plan");
  planner.make_waves();
  if (!planner.make_lifetimes()) return error.out_of_memory("plan");
  return planner.place(error);
}

}  // namespace mica
