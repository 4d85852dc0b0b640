// Waves and places. Units that depend on nothing of each other form a wave and may run at the same
// time; a barrier stands between waves. A temporary lives from the wave that writes it to the last
// wave that reads it, so reuse of memory never orders two units of one wave.
#include <algorithm>

#include "core/plan/session.h"

namespace mica {
namespace {

constexpr size_t kMostCompared = 2048;              // a plan of a model has fewer lives
constexpr uint64_t kMostBytes = uint64_t{1} << 62;  // of an arena, so that no sum below wraps

struct Lifetime {
  uint32_t value;  // root, or MICA_B_NONE for the workspace of `unit`
  uint32_t unit;
  uint32_t first, last;  // waves, inclusive
  uint64_t bytes;
  uint64_t offset;
};

// The highest end of what is placed, by wave: a tree of maxima, in which an end that holds for all
// waves of a node stays at it and is not handed down.
class Heights {
 public:
  explicit Heights(const mica_allocator& a) : all_(a), any_(a) {}
  [[nodiscard]] bool prepare(uint32_t n_waves) {
    while (n_ < n_waves) n_ *= 2;
    return all_.resize(size_t{2} * n_) && any_.resize(size_t{2} * n_);
  }
  // Raises waves first … last to `end` where they are lower; returns the highest of them.
  uint64_t raise(uint32_t first, uint32_t last, uint64_t end) {
    return raise(first, last, end, 1, 0, n_);
  }

 private:
  uint64_t raise(uint32_t first, uint32_t last, uint64_t end, uint32_t node, uint32_t from,
                 uint32_t n) {
    if (last < from || from + n <= first) return 0;
    any_[node] = std::max(any_[node], end);
    const bool whole = first <= from && from + n - 1 <= last;
    if (whole) all_[node] = std::max(all_[node], end);
    if (whole) return any_[node];
    const uint64_t left = raise(first, last, end, 2 * node, from, n / 2);
    const uint64_t right = raise(first, last, end, 2 * node + 1, from + n / 2, n / 2);
    return std::max({all_[node], left, right});
  }
  uint32_t n_ = 1;           // leaves
  Vec<uint64_t> all_, any_;  // per node: holds for all its waves; the highest of any of them
};

class Planner {
 public:
  Planner(mica_plan& plan, const mica_allocator& a)
      : plan_(plan), uses_(a), wave_of_(a), lives_(a), lowest_(a), heights_(a) {}

  [[nodiscard]] bool prepare() {
    return uses_.resize(plan_.values.size()) && wave_of_.resize(plan_.units.size());
  }

  void make_waves() {
    uint32_t wave = 0;
    for (uint32_t i = 0; i < plan_.units.size(); ++i) {
      mica_b_unit& u = plan_.units[i];
      bool conflict = false;
      touches(u, [&](uint32_t v, bool write) {
        conflict |= uses_[v].written == wave + 1 || (write && uses_[v].read == wave + 1);
      });
      if (conflict) ++wave;
      u.barrier = conflict || i == 0 ? 1 : 0;
      wave_of_[i] = wave;
      touches(u, [&](uint32_t v, bool write) {
        Use& use = uses_[v];
        if (!write) use.n_reads = use.read == wave + 1 ? use.n_reads + 1 : 1;
        (write ? use.written : use.read) = wave + 1;
        use.last = wave;
      });
    }
    for (const PlanNamed& o : plan_.outputs) uses_[plan_.roots[o.value]].last = UINT32_MAX;
  }

  [[nodiscard]] bool make_lifetimes() {
    for (uint32_t i = 0; i < plan_.units.size(); ++i) {
      const mica_b_unit& u = plan_.units[i];
      const uint32_t wave = wave_of_[i];
      bool ok = true;
      touches(u, [&](uint32_t v, bool write) {
        Use& use = uses_[v];
        if (!ok || !write || plan_.values[v].storage != MICA_B_TEMP || use.life != 0) return;
        uint32_t source = 0;
        if (can_take_over(u, wave, source)) {
          use.life = uses_[source].life;
          Lifetime& life = lives_[use.life - 1];
          life.last = std::max(life.last, use.last);
          return;
        }
        ok = lives_.push({v, i, wave, use.last, plan_.values[v].bytes, 0});
        use.life = static_cast<uint32_t>(lives_.size());
      });
      if (!ok) return false;
      if (u.workspace_bytes != 0 &&
          !lives_.push({MICA_B_NONE, i, wave, wave, u.workspace_bytes, 0}))
        return false;
    }
    return true;
  }

  mica_status place(Error& error) {
    uint64_t sum = 0;
    for (const Lifetime& life : lives_)
      if (!checked_add(sum, life.bytes, sum) || !checked_add(sum, kPlaceAlign, sum) ||
          sum > kMostBytes)
        return error.fail(MICA_OUT_OF_MEMORY, "the plan's tensors are too large in all");
    const uint32_t n_waves = wave_of_.empty() ? 1 : wave_of_.back() + 1;
    if (!place_lives(n_waves)) return error.out_of_memory("plan");
    set_offsets();
    return MICA_OK;
  }

 private:
  // Calls f(value, is_write) for every value a unit touches outside its region's inside.
  template <class F>
  void touches(const mica_b_unit& u, const F& f) const {
    for (const uint32_t i : plan_.nodes_of(u)) {
      plan_.each_read(plan_.nodes[i], [&](uint32_t root) { f(root, false); });
      f(plan_.roots[plan_.nodes[i].output], true);
    }
  }

  // The op's in-place input, when it dies here, nothing else of this wave reads it, and both
  // tensors are one and the same run of bytes.
  bool can_take_over(const mica_b_unit& u, uint32_t wave, uint32_t& out_input) const {
    if (u.region != MICA_B_NONE) return false;
    const mica_b_node& node = plan_.nodes[u.node];
    const int32_t k = find_op(node.op)->inplace;
    if (k < 0 || node.input[k] == MICA_B_NONE) return false;
    const uint32_t v = node.input[k], root = plan_.roots[v];
    const mica_b_value& in = plan_.values[v];
    const mica_b_value& out = plan_.values[node.output];
    if (v != root || in.storage != MICA_B_TEMP || uses_[root].life == 0 || uses_[root].last != wave)
      return false;
    if (in.bytes != out.bytes || in.dtype != out.dtype || in.layout != out.layout ||
        !std::equal(in.dim, in.dim + 4, out.dim) ||
        !std::equal(in.stride, in.stride + 4, out.stride))
      return false;
    out_input = root;
    return uses_[root].n_reads == 1;  // of the last wave that reads it, which is this one
  }

  // The lowest offset where nothing lives at the same time. False: not among those compared.
  bool find_gap(const Lifetime& life, uint64_t bytes, uint64_t& out_offset) const {
    uint64_t offset = 0;
    for (const uint32_t j : lowest_) {
      const Lifetime& other = lives_[j];
      if (other.last < life.first || life.last < other.first) continue;
      if (offset + bytes <= other.offset) {
        out_offset = offset;
        return true;
      }
      offset = std::max(offset, align_up(other.offset + other.bytes, kPlaceAlign));
    }
    out_offset = offset;
    return lowest_.size() < kMostCompared;
  }

  // Largest first, each in the lowest gap; past so many lives that looking for gaps would take time
  // by their square, above all that lives at the same time. False: out of memory.
  [[nodiscard]] bool place_lives(uint32_t n_waves) {
    Vec<uint32_t> order(lives_.allocator());
    if (!order.resize(lives_.size()) || !lowest_.reserve(std::min(lives_.size(), kMostCompared)) ||
        !heights_.prepare(n_waves))
      return false;
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
      return lives_[a].bytes != lives_[b].bytes ? lives_[a].bytes > lives_[b].bytes : a < b;
    });
    for (const uint32_t i : order) {
      Lifetime& life = lives_[i];
      const uint64_t bytes = align_up(life.bytes, kPlaceAlign);
      const uint32_t last = std::min(life.last, n_waves - 1);
      if (!find_gap(life, bytes, life.offset)) life.offset = heights_.raise(life.first, last, 0);
      (void)heights_.raise(life.first, last, life.offset + bytes);
      plan_.arena_bytes = std::max(plan_.arena_bytes, life.offset + bytes);
      size_t at = std::upper_bound(
                      lowest_.begin(), lowest_.end(), life.offset,
                      [this](uint64_t offset, uint32_t j) { return offset < lives_[j].offset; }) -
                  lowest_.begin();
      if (at == kMostCompared) continue;
      if (lowest_.size() == kMostCompared) lowest_.pop();
      (void)lowest_.push(i);
      std::copy_backward(lowest_.begin() + at, lowest_.end() - 1, lowest_.end());
      lowest_[at] = i;
    }
    return true;
  }

  void set_offsets() {
    for (const Lifetime& life : lives_) {
      if (life.value != MICA_B_NONE) continue;
      plan_.units[life.unit].workspace_offset = life.offset;
      plan_.workspace_bytes = std::max(plan_.workspace_bytes, life.bytes);
    }
    uint64_t hidden = 0;  // values without memory get offsets of their own, so that views are told
    for (uint32_t v = 1; v < plan_.values.size(); ++v) {
      mica_b_value& value = plan_.values[v];
      const uint32_t root = plan_.roots[v];
      if (value.storage == MICA_B_TEMP && uses_[root].life != 0) {
        value.offset += lives_[uses_[root].life - 1].offset;
      } else if (value.storage == MICA_B_UNPLACED && root == v) {
        value.offset = hidden;
        hidden += align_up(value.bytes, kPlaceAlign);
      } else if (value.storage == MICA_B_UNPLACED && root < v) {
        value.offset += plan_.values[root].offset;
      }
    }
  }

  mica_plan& plan_;
  struct Use {
    uint32_t written, read;  // 1 + the wave that last did so
    uint32_t n_reads;        // how often that wave reads it
    uint32_t last;           // wave that touches it
    uint32_t life;           // 1 + index in lives_
  };
  Vec<Use> uses_;          // per root
  Vec<uint32_t> wave_of_;  // per unit
  Vec<Lifetime> lives_;
  Vec<uint32_t> lowest_;  // lives that are placed, by offset: the first kMostCompared of them
  Heights heights_;
};

}  // namespace

mica_status plan_memory(mica_plan& plan) {
  Error& error = plan.session->error();
  Planner planner(plan, plan.session->allocator());
  if (!planner.prepare()) return error.out_of_memory("plan");
  planner.make_waves();
  return planner.make_lifetimes() ? planner.place(error) : error.out_of_memory("plan");
}

}  // namespace mica
