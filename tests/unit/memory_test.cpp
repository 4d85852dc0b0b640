// The memory plan, on thousands of random graphs: what reuses memory computes the same as what does
// not, and no two values that live at the same time overlap.
#include <algorithm>
#include <cmath>

#include "core/plan.h"
#include "tests/unit/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

// A random graph; the same for the same seed, whichever values are outputs.
class RandomGraph {
 public:
  RandomGraph(mica_graph* g, uint64_t seed, bool all_outputs)
      : g_(g), rng_(seed), all_outputs_(all_outputs) {}

  void build() {
    const int n_inputs = pick(1, 4);
    for (int i = 0; i < n_inputs; ++i) {
      const std::string name = "in" + std::to_string(i);
      const Dims dim = {pick(1, 6), pick(1, 5), pick(0, 1) == 0 ? 1 : pick(1, 3)};
      add_leaf(name, dim);
    }
    state_ = {input(g_, "state", {4, 5}), {4, 5, 1}, true, true};
    const int64_t n_ids = 3;
    ids_ = mica_input(g_, "ids", MICA_I32, 1, &n_ids, {0});
    const int n_nodes = pick(3, 40);
    for (int i = 0; i < n_nodes; ++i) step();
    push(mica_copy(g_, values_.back().t), values_.back().dim);  // one output at least is computed
    const auto last = static_cast<int>(values_.size()) - 1;
    for (int i = last; i >= 0 && i > last - 3; --i) wanted_.push_back(static_cast<size_t>(i));
    wanted_.push_back(static_cast<size_t>(pick(0, last)));
    std::sort(wanted_.begin(), wanted_.end());
    wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
    for (size_t i = 0; i < values_.size(); ++i) {
      const bool wanted = std::binary_search(wanted_.begin(), wanted_.end(), i);
      if (wanted || all_outputs_) output(i);
    }
  }
  struct Output {
    std::string name;
    size_t n;
  };
  std::vector<Output> wanted() const {
    std::vector<Output> list;
    for (const size_t i : wanted_)
      if (values_[i].packed) list.push_back({name_of(i), elements(values_[i])});
    return list;
  }
  std::vector<Output> inputs() const { return inputs_; }

 private:
  struct Value {
    mica_tensor t;
    Dims dim;      // 3
    bool packed;   // can be an output
    bool rows_ok;  // elements of a row are adjacent
  };
  int pick(int a, int b) { return std::uniform_int_distribution<int>(a, b)(rng_); }
  const Value& any() {
    return values_[static_cast<size_t>(pick(0, static_cast<int>(values_.size()) - 1))];
  }
  static size_t elements(const Value& v) {
    return static_cast<size_t>(v.dim[0] * v.dim[1] * v.dim[2]);
  }
  static std::string name_of(size_t i) { return "v" + std::to_string(i); }
  void output(size_t i) {
    if (values_[i].packed) mica_output(g_, values_[i].t, name_of(i).c_str());
  }
  void add_leaf(const std::string& name, const Dims& dim) {
    values_.push_back({input(g_, name.c_str(), dim), dim, true, true});
    inputs_.push_back({name, elements(values_.back())});
  }
  void push(mica_tensor t, Dims dim, bool packed = true, bool rows_ok = true) {
    values_.push_back({t, std::move(dim), packed, rows_ok});
  }
  const Value* like(const Value& a, bool rows_ok, bool (*fits)(const Value& a, const Value& b)) {
    std::vector<const Value*> found;
    for (const Value& b : values_)
      if ((b.rows_ok || !rows_ok) && fits(a, b)) found.push_back(&b);
    return found.empty() ? nullptr
                         : found[static_cast<size_t>(pick(0, static_cast<int>(found.size()) - 1))];
  }

  void step() {
    const Value a = any();
    switch (pick(0, 11)) {
      case 0:
        return push(mica_relu(g_, a.t), a.dim);
      case 1:
        return push(mica_scale(g_, a.t, 0.5f, 0.25f), a.dim);
      case 2:
        return push(mica_tanh(g_, a.t), a.dim);
      case 3:
      case 4:
        return binary(a);
      case 5:
        return view(a);
      case 6:
        return permute(a);
      case 7:
        return reshape_packed(a);
      case 8:
        return push(mica_copy(g_, a.t), a.dim);
      case 9:
        return matmul(a);
      case 10:
        return concat(a);
      default:
        return pick(0, 2) == 0 ? write_state(a) : norm(a);
    }
  }
  void binary(const Value& a) {
    const Value* b = like(a, false, [](const Value& x, const Value& y) {
      for (size_t i = 0; i < 3; ++i)
        if (y.dim[i] != 1 && y.dim[i] != x.dim[i]) return false;
      return true;
    });
    const mica_tensor t = pick(0, 1) == 0 ? mica_add(g_, a.t, b->t) : mica_mul(g_, a.t, b->t);
    push(t, a.dim);
  }
  void view(const Value& a) {
    int64_t dim[3], start[4] = {0, 0, 0, 0};
    for (int i = 0; i < 3; ++i) {
      const auto n = static_cast<int>(a.dim[static_cast<size_t>(i)]);
      start[i] = pick(0, n - 1);
      dim[i] = pick(1, n - static_cast<int>(start[i]));
    }
    push(mica_view(g_, a.t, 3, dim, start), {dim[0], dim[1], dim[2]}, false, a.rows_ok);
  }
  void permute(const Value& a) {
    const bool swap = pick(0, 1) == 0;
    const mica_tensor t =
        swap ? mica_permute(g_, a.t, 1, 0, 2, 3) : mica_permute(g_, a.t, 0, 2, 1, 3);
    const Dims dim = swap ? Dims{a.dim[1], a.dim[0], a.dim[2]} : Dims{a.dim[0], a.dim[2], a.dim[1]};
    push(t, dim, false, !swap && a.rows_ok);
  }
  void reshape_packed(const Value& a) {
    if (!a.packed) return push(mica_copy(g_, a.t), a.dim);
    const Dims dim = {a.dim[0] * a.dim[1], a.dim[2], 1};
    push(reshape(g_, a.t, dim), dim);
  }
  void matmul(const Value& a) {
    if (!a.rows_ok) return;
    const Value* w = like(a, true, [](const Value& x, const Value& y) {
      return y.dim[0] == x.dim[0] && x.dim[2] % y.dim[2] == 0;
    });
    push(mica_scale(g_, mica_matmul(g_, w->t, a.t), 0.1f, 0), {w->dim[1], a.dim[1], a.dim[2]});
  }
  void concat(const Value& a) {
    const Value* b = like(a, false, [](const Value& x, const Value& y) {
      return y.dim[1] == x.dim[1] && y.dim[2] == x.dim[2] && x.dim[0] + y.dim[0] < 20;
    });
    if (b == nullptr) return;
    push(mica_concat(g_, a.t, b->t, 0), {a.dim[0] + b->dim[0], a.dim[1], a.dim[2]});
  }
  void norm(const Value& a) {
    if (!a.rows_ok) return;
    push(pick(0, 1) == 0 ? mica_rms_norm(g_, a.t, MICA_NO_TENSOR, 1e-3f)
                         : mica_softmax(g_, a.t, MICA_NO_TENSOR, 1),
         a.dim);
  }
  // Rows of a, padded or cut to the state's width, go into the state; then the state is read.
  void write_state(const Value& a) {
    if (a.dim[0] < 4 || a.dim[1] < 3 || !a.rows_ok) return;
    const int64_t dim[] = {4, 3};
    const mica_tensor rows = mica_view(g_, a.t, 2, dim, nullptr);
    state_.t = mica_set_rows(g_, state_.t, rows, ids_);
    push(mica_scale(g_, state_.t, 0.9f, 0.1f), state_.dim);
  }

  mica_graph* g_;
  std::mt19937_64 rng_;
  bool all_outputs_;
  std::vector<Value> values_;
  std::vector<Output> inputs_;
  std::vector<size_t> wanted_;
  Value state_{};
  mica_tensor ids_{};
};

// --- An independent reading of a plan -----------------------------------------------------------

struct Interval {
  uint32_t first = UINT32_MAX, last = 0;  // waves
};

template <class F>
void touches(const mica_plan& p, const mica_b_unit& u, const F& f) {
  const uint32_t one[] = {u.node};
  const bool region = u.region != MICA_B_NONE;
  const uint32_t* nodes = region ? p.regions[u.region].members : one;
  for (uint32_t i = 0; i < (region ? p.regions[u.region].n_members : 1); ++i) {
    const mica_b_node& n = p.nodes[nodes[i]];
    for (uint32_t k = 0; k < n.n_inputs; ++k)
      if (n.input[k] != MICA_B_NONE) f(p.roots[n.input[k]], false);
    f(p.roots[n.output], true);
  }
}

class PlanChecker {
 public:
  explicit PlanChecker(const mica_plan& p) : p_(p), lives_(p.values.size()) {
    for (uint32_t i = 0; i < p.units.size(); ++i) {
      if (i > 0 && p.units[i].barrier != 0) ++wave_;
      waves_.push_back(wave_);
      touches(p, p.units[i], [&](uint32_t v, bool write) {
        if (write) lives_[v].first = std::min(lives_[v].first, wave_);
        lives_[v].last = std::max(lives_[v].last, wave_);
      });
    }
    for (const mica::PlanNamed& o : p.outputs) lives_[p.roots[o.value]].last = UINT32_MAX;
  }
  void check() const {
    waves_are_independent();
    places_are_inside();
    for (uint32_t a = 1; a < p_.values.size(); ++a)
      for (uint32_t b = 1; b < p_.values.size(); ++b)
        if (a != b && is_temp(a) && is_temp(b)) pair(a, b);
    for (uint32_t u = 0; u < p_.units.size(); ++u) workspace(u);
  }
  uint32_t n_taken_over() const { return n_taken_over_; }

 private:
  bool is_temp(uint32_t v) const {
    return p_.roots[v] == v && p_.values[v].storage == MICA_B_TEMP && lives_[v].first != UINT32_MAX;
  }
  static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
  }
  void waves_are_independent() const {
    for (uint32_t i = 0; i < p_.units.size(); ++i)
      for (uint32_t j = 0; j < i; ++j) {
        if (waves_[i] != waves_[j]) continue;
        touches(p_, p_.units[i], [&](uint32_t v, bool write) {
          touches(p_, p_.units[j], [&](uint32_t w, bool also) {
            EXPECT_FALSE(v == w && (write || also)) << "units " << j << " and " << i;
          });
        });
      }
  }
  void places_are_inside() const {
    for (uint32_t v = 1; v < p_.values.size(); ++v) {
      const mica_b_value& x = p_.values[v];
      if (x.storage != MICA_B_TEMP) continue;
      const mica_b_value& root = p_.values[p_.roots[v]];
      EXPECT_LE(x.offset + x.bytes, p_.arena_bytes);
      EXPECT_GE(x.offset, root.offset);
      EXPECT_LE(x.offset + x.bytes, root.offset + root.bytes);
      EXPECT_EQ(root.offset % mica::kPlaceAlign, 0u);
    }
  }
  // b may lie on a only if it is written, by the one unit that reads a last, where the op allows
  // it.
  void pair(uint32_t a, uint32_t b) const {
    const mica_b_value &x = p_.values[a], &y = p_.values[b];
    if (!overlap(x.offset, x.bytes, y.offset, y.bytes)) return;
    const Interval &la = lives_[a], &lb = lives_[b];
    if (la.last < lb.first || lb.last < la.first) return;
    if (lb.last == la.first && la.first != la.last) return;  // the same pair the other way round
    EXPECT_EQ(la.last, lb.first) << "values " << a << " and " << b << " live at once";
    EXPECT_EQ(x.offset, y.offset);
    EXPECT_EQ(x.bytes, y.bytes);
    uint32_t readers = 0, writers = 0;
    for (uint32_t u = 0; u < p_.units.size(); ++u) {
      if (waves_[u] != lb.first) continue;
      const mica_b_node& n = p_.nodes[p_.units[u].node];
      const int32_t k = mica::find_op(n.op)->inplace;
      touches(p_, p_.units[u], [&](uint32_t v, bool write) {
        readers += v == a && !write;
        if (v != b || !write) return;
        ++writers;
        EXPECT_GE(k, 0);
        EXPECT_EQ(n.input[k], a);
      });
    }
    EXPECT_EQ(readers, 1u);
    EXPECT_EQ(writers, 1u);
    ++n_taken_over_;
  }
  void workspace(uint32_t u) const {
    const mica_b_unit& unit = p_.units[u];
    if (unit.workspace_bytes == 0) return;
    EXPECT_LE(unit.workspace_offset + unit.workspace_bytes, p_.arena_bytes);
    for (uint32_t v = 1; v < p_.values.size(); ++v) {
      if (!is_temp(v) || lives_[v].first > waves_[u] || lives_[v].last < waves_[u]) continue;
      EXPECT_FALSE(overlap(unit.workspace_offset, unit.workspace_bytes, p_.values[v].offset,
                           p_.values[v].bytes));
    }
    for (uint32_t w = 0; w < u; ++w)
      if (waves_[w] == waves_[u] && p_.units[w].workspace_bytes != 0) {
        EXPECT_FALSE(overlap(unit.workspace_offset, unit.workspace_bytes,
                             p_.units[w].workspace_offset, p_.units[w].workspace_bytes));
      }
  }

  const mica_plan& p_;
  std::vector<Interval> lives_;
  std::vector<uint32_t> waves_;
  uint32_t wave_ = 0;
  mutable uint32_t n_taken_over_ = 0;
};

// --- Tests --------------------------------------------------------------------------------------

struct Totals {
  uint64_t arena = 0, no_reuse = 0, taken_over = 0, n_outputs = 0;
};

class MemoryTest : public testing::Test {
 protected:
  MemoryTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
  }
  // Results of the wanted outputs, then the state.
  std::vector<std::vector<float>> run(const Device& device, uint64_t seed, bool all_outputs) {
    const Graph g = make_graph(context);
    RandomGraph random(g.get(), seed, all_outputs);
    random.build();
    const Session session = make_session(device);
    mica_plan* plan = ready(context, session, g);
    if (plan == nullptr) return {};
    PlanChecker checker(*plan);
    checker.check();
    totals.taken_over += checker.n_taken_over();
    (all_outputs ? totals.no_reuse : totals.arena) += plan->arena_bytes;
    for (const auto& in : random.inputs())
      set(session, in.name.c_str(), randoms(in.n, seed * 100 + in.name.size() + in.n));
    set(session, "state", randoms(20, seed));
    set<int32_t>(session, "ids", {0, 3, 1});
    EXPECT_EQ(mica_plan_run(plan), MICA_OK);
    std::vector<std::vector<float>> results;
    for (const auto& o : random.wanted()) results.push_back(read(plan, o.name.c_str(), o.n));
    results.push_back(get(session, "state", 20));
    totals.n_outputs += results.size();
    return results;
  }
  void compare(const char* name, int n_graphs, float tolerance) {
    const Device device = open_device(context, name);
    ASSERT_NE(device, nullptr);
    for (int seed = 1; seed <= n_graphs && !HasFailure(); ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      const auto reused = run(device, static_cast<uint64_t>(seed), false);
      const auto kept = run(device, static_cast<uint64_t>(seed), true);
      ASSERT_EQ(reused.size(), kept.size());
      for (size_t i = 0; i < reused.size(); ++i) {
        ASSERT_EQ(reused[i].size(), kept[i].size());
        for (size_t k = 0; k < reused[i].size(); ++k)
          ASSERT_TRUE(std::memcmp(&reused[i][k], &kept[i][k], 4) == 0 ||
                      (std::isnan(reused[i][k]) && std::isnan(kept[i][k])) ||
                      std::fabs(reused[i][k] - kept[i][k]) <=
                          tolerance * (1 + std::fabs(kept[i][k])))
              << reused[i][k] << " or " << kept[i][k];
      }
    }
    // The generator does make graphs that reuse memory.
    EXPECT_GT(totals.taken_over, static_cast<uint64_t>(n_graphs));
    EXPECT_LT(totals.arena * 3, totals.no_reuse * 2);
    EXPECT_GT(totals.n_outputs, static_cast<uint64_t>(n_graphs) * 4);
  }
  Totals totals;
  Context context = make_context();
};

TEST_F(MemoryTest, ReuseChangesNoBitOnRef) { compare("ref", 2500, 0); }

TEST_F(MemoryTest, WorkspacesOverlapNothing) {
  borrowed.workspaces = true;
  compare("borrowed", 500, 0);
}

// The CPU runs units of a wave at the same time.
TEST_F(MemoryTest, ReuseChangesNothingOnCpu) { compare("cpu", 500, 1e-5f); }

TEST_F(MemoryTest, StatedBytesAreThoseAllocated) {
  borrowed = {};
  const Device device = open_device(context, "borrowed");
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const Graph g = make_graph(context);
    RandomGraph random(g.get(), seed, false);
    random.build();
    const Session session = make_session(device);
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    ASSERT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK);
    mica_memory before, after;
    ASSERT_EQ(mica_session_memory(session.get(), &before), MICA_OK);
    borrowed.buffer_bytes = 0;
    ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
    ASSERT_EQ(mica_session_memory(session.get(), &after), MICA_OK);
    EXPECT_EQ(borrowed.buffer_bytes, before.total_bytes) << seed;
    EXPECT_EQ(before.total_bytes, after.total_bytes);
    EXPECT_EQ(before.total_bytes, before.activations_bytes + before.step_bytes);
  }
}

// A chain of in-place ops needs one place, whatever its length.
TEST_F(MemoryTest, ChainsRunInPlace) {
  const Device device = open_device(context, "ref");
  const Graph g = make_graph(context);
  mica_tensor x = input(g.get(), "x", {1000});
  for (int i = 0; i < 20; ++i) x = mica_scale(g.get(), x, 1, 1);
  mica_output(g.get(), x, "y");
  const Session session = make_session(device);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->arena_bytes, 4096u);
  set(session, "x", std::vector<float>(1000, 0.5f));
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 1000), std::vector<float>(1000, 20.5f));
  EXPECT_EQ(get(session, "x", 1000), std::vector<float>(1000, 0.5f));  // inputs are never reused
}

}  // namespace
