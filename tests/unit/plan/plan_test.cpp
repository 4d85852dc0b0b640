// From graph to plan: strict placement, liveness, composites claimed or not, and the explanation.
#include "core/plan/plan.h"

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

class PlanTest : public testing::Test {
 protected:
  PlanTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    device = open_device(context, "borrowed");
  }
  mica_status compile(const Session& session) {
    mica_graph* const graphs[] = {g.get()};
    return mica_session_compile(session.get(), 1, graphs, &plan);
  }
  std::string error() const { return mica_context_error(context.get()); }
  void build_swiglu() {
    const mica_tensor gate = input(g.get(), "gate", {8, 2}), up = input(g.get(), "up", {8, 2});
    mica_graph_scope(g.get(), "ffn");
    y = mica_swiglu(g.get(), gate, up);
    mica_output(g.get(), y, "y");
  }

  Context context = make_context();
  Graph g = make_graph(context);
  Device device;
  mica_plan* plan = nullptr;
  mica_tensor y{};
};

TEST_F(PlanTest, PlacementIsStrictAndNamesOpScopeAndReason) {
  const mica_tensor x = input(g.get(), "x", {4});
  mica_graph_scope(g.get(), "blk.1");
  mica_output(g.get(), mica_silu(g.get(), x), "y");
  borrowed.refused_op = "silu";
  borrowed.reason = "no exponentials here";
  const Session session = make_session(device);
  EXPECT_EQ(compile(session), MICA_UNSUPPORTED);
  EXPECT_EQ(error(), "silu 'blk.1': borrowed cannot run it: no exponentials here");
  borrowed.reason = "";
  EXPECT_EQ(compile(session), MICA_UNSUPPORTED);
  EXPECT_EQ(error(), "silu 'blk.1': borrowed cannot run it: no reason given");
  borrowed = {};
  EXPECT_EQ(compile(session), MICA_OK);
}

TEST_F(PlanTest, WhatNobodyNeedsIsNeitherPlacedNorRun) {
  const mica_tensor x = input(g.get(), "x", {4});
  mica_graph_scope(g.get(), "dead");
  (void)mica_silu(g.get(), mica_tanh(g.get(), x));
  mica_graph_scope(g.get(), "live");
  mica_output(g.get(), mica_relu(g.get(), x), "y");
  borrowed.refused_op = "silu";
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK) << error();
  const std::string text = explain(plan);
  EXPECT_TRUE(has(text, "relu 'live'")) << text;
  EXPECT_FALSE(has(text, "dead")) << text;
  EXPECT_TRUE(has(text, ": 1 nodes in 1 units and 1 waves")) << text;
}

TEST_F(PlanTest, StateOpsAreAlwaysNeeded) {
  const mica_tensor dst = input(g.get(), "dst", {4, 3});
  const mica_tensor x = input(g.get(), "x", {4, 1});
  const mica_tensor ids = input(g.get(), "ids", {1}, {}, MICA_I32);
  (void)mica_set_rows(g.get(), dst, mica_scale(g.get(), x, 2, 0), ids);
  mica_output(g.get(), mica_relu(g.get(), x), "y");
  const Session session = make_session(device);
  mica_plan* p = ready(context, session, g);
  ASSERT_NE(p, nullptr);
  set<float>(session, "dst", std::vector<float>(12, 1));
  set<float>(session, "x", {1, 2, 3, 4});
  set<int32_t>(session, "ids", {1});
  ASSERT_EQ(mica_plan_run(p), MICA_OK);
  EXPECT_EQ(get(session, "dst", 12), (std::vector<float>{1, 1, 1, 1, 2, 4, 6, 8, 1, 1, 1, 1}));
}

// What reads an input before a state op, in build order, sees its old rows; what reads the op's
// result sees the new ones.
TEST_F(PlanTest, StateOpsRunInBuildOrder) {
  const mica_tensor dst = input(g.get(), "dst", {2, 2});
  const mica_tensor ids = input(g.get(), "ids", {1}, {}, MICA_I32);
  const mica_tensor before = mica_scale(g.get(), dst, 1, 0);
  const mica_tensor row = input(g.get(), "row", {2, 1});
  const mica_tensor once = mica_set_rows(g.get(), dst, row, ids);
  const mica_tensor between = mica_scale(g.get(), dst, 1, 0);
  const mica_tensor twice = mica_set_rows(g.get(), once, mica_scale(g.get(), row, -1, 0), ids);
  mica_output(g.get(), before, "before");
  mica_output(g.get(), between, "between");
  mica_output(g.get(), mica_scale(g.get(), twice, 1, 0), "after");
  for (const char* name : {"ref", "cpu"}) {
    const Device d = open_device(context, name);
    const Session session = make_session(d);
    mica_plan* p = ready(context, session, g);
    ASSERT_NE(p, nullptr);
    set<float>(session, "dst", {1, 2, 3, 4});
    set<float>(session, "row", {7, 8});
    set<int32_t>(session, "ids", {1});
    ASSERT_EQ(mica_plan_run(p), MICA_OK);
    EXPECT_EQ(read(p, "before", 4), (std::vector<float>{1, 2, 3, 4})) << name;
    EXPECT_EQ(read(p, "between", 4), (std::vector<float>{1, 2, 7, 8})) << name;
    EXPECT_EQ(read(p, "after", 4), (std::vector<float>{1, 2, -7, -8})) << name;
  }
}

TEST_F(PlanTest, CompositesAreClaimedAsOneUnit) {
  build_swiglu();
  borrowed.claimed = "swiglu";
  borrowed.refused_op = "silu";  // alone it could not run
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK) << error();
  const std::string text = explain(plan);
  EXPECT_TRUE(has(text, "swiglu (2 nodes) 'ffn' -> f32 [8, 2]")) << text;
  EXPECT_TRUE(has(text, "2 nodes in 1 units and 1 waves; 1 regions claimed")) << text;
  ASSERT_EQ(plan->nodes.size(), 2u);
  EXPECT_EQ(plan->values[plan->nodes[0].output].storage, static_cast<uint32_t>(MICA_B_UNPLACED));
  EXPECT_EQ(plan->values[plan->nodes[1].output].storage, static_cast<uint32_t>(MICA_B_TEMP));
}

TEST_F(PlanTest, UnfusedSessionsDoNotAsk) {
  build_swiglu();
  borrowed.claimed = "swiglu";
  const Session session = make_session(device, nullptr, true);
  ASSERT_EQ(compile(session), MICA_OK);
  EXPECT_EQ(borrowed.n_claims, 0u);
  const std::string text = explain(plan);
  EXPECT_TRUE(has(text, "silu 'ffn'") && has(text, "mul 'ffn'")) << text;
  borrowed.refused_op = "silu";
  borrowed.reason = "alone";
  EXPECT_EQ(compile(session), MICA_UNSUPPORTED);
}

TEST_F(PlanTest, RefusedCompositesRunMemberByMemberAndSayWhy) {
  build_swiglu();
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK);
  EXPECT_EQ(borrowed.n_claims, 1u);
  EXPECT_TRUE(
      has(explain(plan), "not claimed:\nswiglu at 'ffn': the reference runs plain ops only\n"))
      << explain(plan);
}

// A value inside a claimed region that is used elsewhere keeps its memory.
TEST_F(PlanTest, InnerValuesThatOthersUseArePlaced) {
  const mica_tensor gate = input(g.get(), "gate", {8}), up = input(g.get(), "up", {8});
  const mica_tensor x = mica_swiglu(g.get(), gate, up);
  const mica_tensor inner = {x.index - 1, x.graph};
  mica_output(g.get(), x, "y");
  mica_output(g.get(), inner, "inner");
  borrowed.claimed = "swiglu";
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK);
  EXPECT_EQ(plan->values[inner.index].storage, static_cast<uint32_t>(MICA_B_TEMP));
}

// A composite of which only a part is needed is not offered.
TEST_F(PlanTest, PartlyDeadCompositesAreNotOffered) {
  const mica_tensor gate = input(g.get(), "gate", {8}), up = input(g.get(), "up", {8});
  const mica_tensor x = mica_swiglu(g.get(), gate, up);
  mica_output(g.get(), mica_tensor{x.index - 1, x.graph}, "inner");
  borrowed.claimed = "swiglu";
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK);
  EXPECT_EQ(borrowed.n_claims, 0u);
  EXPECT_TRUE(has(explain(plan), "silu")) << explain(plan);
}

TEST_F(PlanTest, FusedAndUnfusedAgreeOnCpu) {
  build_swiglu();
  const std::vector<float> gate = randoms(16, 1, 3), up = randoms(16, 2, 3);
  std::vector<std::vector<float>> results;
  std::vector<std::string> texts;
  for (const bool unfused : {false, true}) {
    const Device cpu = open_device(context, "cpu");
    const Session session = make_session(cpu, nullptr, unfused);
    mica_plan* p = ready(context, session, g);
    ASSERT_NE(p, nullptr);
    set(session, "gate", gate);
    set(session, "up", up);
    ASSERT_EQ(mica_plan_run(p), MICA_OK);
    results.push_back(read(p, "y", 16));
    texts.push_back(explain(p));
  }
  EXPECT_TRUE(has(texts[0], "swiglu (2 nodes)")) << texts[0];
  EXPECT_TRUE(has(texts[1], "silu 'ffn'")) << texts[1];
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(results[0][i], results[1][i], 1e-5);
}

TEST_F(PlanTest, ExplainTellsShapesAndCutsToTheBuffer) {
  const mica_extent n = mica_graph_extent(g.get(), "n", 6);
  const mica_tensor x = input(g.get(), "x", {4, 6}, n);
  mica_output(g.get(), mica_relu(g.get(), mica_tanh(g.get(), x)), "y");
  const Session session = make_session(device);
  ASSERT_EQ(compile(session), MICA_OK);
  const std::string text = explain(plan);
  EXPECT_TRUE(has(text, "device borrowed (double-precision reference)")) << text;
  EXPECT_TRUE(has(text, "tanh -> f32 [4, <=6]  [reference]")) << text;
  EXPECT_TRUE(has(text, "2 units and 2 waves")) << text;
  char part[20];
  std::memset(part, 'z', sizeof part);
  size_t size = 0;
  ASSERT_EQ(mica_plan_explain(plan, part, 10, &size), MICA_OK);
  EXPECT_EQ(size, text.size());
  EXPECT_EQ(std::string(part), text.substr(0, 9));
  EXPECT_EQ(part[10], 'z');
  EXPECT_EQ(mica_plan_explain(nullptr, part, 10, &size), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_explain(plan, nullptr, 10, &size), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_explain(plan, part, 10, nullptr), MICA_OK);
}

TEST_F(PlanTest, GraphsThatFailedAreRefusedWithTheirSentence) {
  mica_graph_scope(g.get(), "blk.7");
  (void)mica_add(g.get(), input(g.get(), "a", {3}), input(g.get(), "b", {2}));
  const Session session = make_session(device);
  EXPECT_EQ(compile(session), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), graph_error(g));
  EXPECT_TRUE(has(error(), "add 'blk.7': ")) << error();
}

TEST_F(PlanTest, GraphsWithoutOutputAreRefused) {
  (void)mica_relu(g.get(), input(g.get(), "x", {3}));
  const Session session = make_session(device);
  EXPECT_EQ(compile(session), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "the graph has no output and writes no state");
}

TEST_F(PlanTest, CompileIsAllOrNone) {
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {300})), "y");
  const Graph bad = make_graph(context);
  (void)mica_add(bad.get(), input(bad.get(), "a", {3}), input(bad.get(), "b", {2}));
  const Session session = make_session(device);
  mica_graph* const graphs[] = {g.get(), bad.get()};
  mica_plan* plans[2] = {};
  EXPECT_EQ(mica_session_compile(session.get(), 2, graphs, plans), MICA_INVALID_ARGUMENT);
  mica_graph* const with_null[] = {g.get(), nullptr};
  EXPECT_EQ(mica_session_compile(session.get(), 2, with_null, plans), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_compile(session.get(), 0, graphs, plans), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_compile(session.get(), 1, nullptr, plans), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_compile(nullptr, 1, graphs, plans), MICA_INVALID_ARGUMENT);
  mica_memory memory;
  ASSERT_EQ(mica_session_memory(session.get(), &memory), MICA_OK);
  EXPECT_EQ(memory.total_bytes, 0u) << "of plans that were not made";
}

TEST_F(PlanTest, OneInputHasOneDtypeInASession) {
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {4})), "y");
  const Graph other = make_graph(context);
  mica_output(other.get(), mica_relu(other.get(), input(other.get(), "x", {4}, {}, MICA_F16)), "y");
  const Session session = make_session(device);
  mica_graph* const graphs[] = {g.get(), other.get()};
  mica_plan* plans[2] = {};
  EXPECT_EQ(mica_session_compile(session.get(), 2, graphs, plans), MICA_INVALID_ARGUMENT);
  EXPECT_TRUE(has(error(), "input 'x' has another dtype")) << error();
}

TEST_F(PlanTest, PlansOutliveTheirGraph) {
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {2})), "y");
  const Session session = make_session(device);
  mica_plan* p = ready(context, session, g);
  ASSERT_NE(p, nullptr);
  g.reset();
  set<float>(session, "x", {-3, 3});
  ASSERT_EQ(mica_plan_run(p), MICA_OK);
  EXPECT_EQ(read(p, "y", 2), (std::vector<float>{0, 3}));
}

}  // namespace
