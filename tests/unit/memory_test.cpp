// The memory plan, on thousands of random graphs: what reuses memory computes the same as what does
// not, and no two values that live at the same time overlap.
#include <algorithm>
#include <cmath>

#include "core/plan.h"
#include "tests/unit/borrowed_backend.h"
#include "tests/unit/random_graph.h"

namespace {

using namespace mica::test;

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
