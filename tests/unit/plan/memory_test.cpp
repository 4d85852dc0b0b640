// The memory plan, on thousands of random graphs: what reuses memory computes the same as what does
// not, and no two values that live at the same time overlap.
#include <cmath>

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/plan/plan_checker.h"
#include "tests/unit/plan/random_graph.h"

namespace {

using namespace mica::test;

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

// More values than gaps are looked for among (core/plan/memory.cpp): short lives and long ones.
TEST_F(MemoryTest, ThousandsOfValuesOverlapNothing) {
  borrowed.workspaces = true;
  const Device device = open_device(context, "borrowed");
  std::mt19937_64 rng(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(rng() % n); };
  const Graph g = make_graph(context);
  std::vector<std::vector<mica_tensor>> made(8);  // by size
  for (size_t i = 0; i < made.size(); ++i)
    made[i] = {input(g.get(), std::to_string(i).c_str(), {static_cast<int64_t>(50 * i + 50)})};
  uint64_t no_reuse = 0;
  for (int i = 0; i < 5000; ++i) {
    std::vector<mica_tensor>& list = made[below(made.size())];
    const size_t far = below(10) == 0 ? list.size() : std::min<size_t>(list.size(), 5);
    const mica_tensor x = list[list.size() - 1 - below(far)];
    list.push_back(i % 3 == 0 ? mica_add(g.get(), x, list.back()) : mica_relu(g.get(), x));
    if (below(50) == 0 || i > 4900) mica_output(g.get(), list.back(), std::to_string(i).c_str());
    no_reuse += 4 * static_cast<uint64_t>(50 * (&list - made.data()) + 50);
  }
  const Session session = make_session(device);
  mica_plan* plan = nullptr;
  mica_graph* const graphs[] = {g.get()};
  ASSERT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK)
      << mica_context_error(context.get());
  PlanChecker checker(*plan);
  checker.check();
  EXPECT_GT(plan->units.size(), 2048u);
  EXPECT_LT(plan->arena_bytes, no_reuse / 2);
}

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
