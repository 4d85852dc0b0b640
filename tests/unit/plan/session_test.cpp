// Sessions: the order of calls, what is refused while a step runs, the budget, and the step block
// when plans are added.
#include "mica/session.h"

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/plan/tiny_session.h"

namespace {

using namespace mica::test;

class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    device = open_device(context, "borrowed");
    session = make_session(device);
  }
  std::string error() const { return mica_context_error(context.get()); }
  // y<tag> = x<tag> * factor, with a second input that is only uploaded.
  Graph scaled(const char* in, const char* out, int64_t n, float factor = 2) {
    Graph g = make_graph(context);
    mica_output(g.get(), mica_scale(g.get(), input(g.get(), in, {n}), factor, 0), out);
    return g;
  }
  mica_status compile(const Graph& g, mica_plan** plan) {
    mica_graph* const graphs[] = {g.get()};
    return mica_session_compile(session.get(), 1, graphs, plan);
  }
  Context context = make_context();
  Device device;
  Session session;
};

TEST_F(SessionTest, CallsOutOfOrderAreRefused) {
  const Graph g = scaled("x", "y", 4);
  float v[4] = {1, 2, 3, 4};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_set(session.get(), "x", 0, v, 16), MICA_NOT_FOUND);
  ASSERT_EQ(compile(g, &plan), MICA_OK);
  EXPECT_EQ(mica_session_set(session.get(), "x", 0, v, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "allocate the session first");
  EXPECT_EQ(mica_session_get(session.get(), "x", 0, v, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_run(plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_submit(plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_wait(plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_read(plan, "y", 0, v, 16), MICA_INVALID_ARGUMENT);
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
  EXPECT_EQ(mica_plan_read(plan, "y", 0, v, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "the plan has not run yet");
  EXPECT_EQ(mica_plan_wait(plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "no step of this plan is running");
  ASSERT_EQ(mica_session_set(session.get(), "x", 0, v, 16), MICA_OK);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 4), (std::vector<float>{2, 4, 6, 8}));
}

TEST_F(SessionTest, NamesAndRangesAreChecked) {
  const Graph g = make_graph(context);
  const mica_extent n = mica_graph_extent(g.get(), "n", 4);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {2, 4}, n)), "y");
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  float v[8] = {};
  mica_session* s = session.get();
  EXPECT_EQ(mica_session_set(s, "z", 0, v, 4), MICA_NOT_FOUND);
  EXPECT_EQ(error(), "no plan has an input 'z'");
  EXPECT_EQ(mica_session_set(s, "n", 0, v, 4), MICA_NOT_FOUND);  // an extent is no input
  EXPECT_EQ(mica_session_set_extent(s, "x", 1), MICA_NOT_FOUND);
  EXPECT_EQ(mica_session_set(s, "x", 0, v, 33), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(s, "x", 32, v, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(s, "x", UINT64_MAX, v, 2), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(s, "x", 4, v, UINT64_MAX - 2), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(s, "x", 0, nullptr, 4), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_get(s, "x", 30, v, 4), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set_extent(s, "n", 5), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "extent 'n': 5 is not in 0 to 4");
  EXPECT_EQ(mica_session_set_extent(s, "n", -1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set_extent(s, "n", 0), MICA_OK);
  EXPECT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(mica_session_set_extent(s, "n", 4), MICA_OK);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(mica_plan_read(plan, "z", 0, v, 4), MICA_NOT_FOUND);
  EXPECT_EQ(mica_plan_read(plan, "y", 28, v, 8), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_read(plan, "y", 28, v, 4), MICA_OK);
  mica_tensor_info info;
  ASSERT_EQ(mica_plan_output_info(plan, "y", &info), MICA_OK);
  EXPECT_EQ(info.dim[1], 4);
  EXPECT_EQ(mica_plan_output_info(plan, "z", &info), MICA_NOT_FOUND);
}

TEST_F(SessionTest, NullIsNeverFatal) {
  mica_session* out = nullptr;
  mica_memory memory;
  EXPECT_EQ(mica_session_create(nullptr, nullptr, &out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_create(device.get(), nullptr, nullptr), MICA_INVALID_ARGUMENT);
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.struct_size = 1;
  EXPECT_EQ(mica_session_create(device.get(), &params, &out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_memory(nullptr, &memory), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_memory(session.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_allocate(nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(nullptr, "x", 0, &memory, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(session.get(), nullptr, 0, &memory, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set_extent(session.get(), nullptr, 0), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_get(nullptr, "x", 0, &memory, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_run(nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_wait(nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_read(nullptr, "y", 0, &memory, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_output_info(nullptr, "y", nullptr), MICA_INVALID_ARGUMENT);
  mica_session_release(nullptr);
}

TEST_F(SessionTest, AStepInFlightKeepsEverythingBusy) {
  for (const char* name : {"ref", "cpu"}) {
    const Device d = open_device(context, name);
    const TinyModel model({});
    const Weights weights = load_tiny(context, d, model);
    TinySession tiny(context, d, model, weights.get(), {1, 8});
    mica_session* s = tiny.session().get();
    int32_t id = 0;
    const Graph late = scaled("x", "y", 4);
    mica_graph* const graphs[] = {late.get()};
    mica_plan* plan = nullptr;
    ASSERT_EQ(tiny.prepare({5}), MICA_OK);
    ASSERT_EQ(mica_plan_submit(tiny.plan(0)), MICA_OK);
    EXPECT_EQ(mica_plan_submit(tiny.plan(0)), MICA_BUSY);
    EXPECT_EQ(mica_plan_submit(tiny.plan(1)), MICA_BUSY);
    EXPECT_EQ(mica_plan_run(tiny.plan(1)), MICA_BUSY);
    EXPECT_EQ(mica_session_set(s, "ids", 0, &id, 4), MICA_BUSY);
    EXPECT_EQ(mica_session_get(s, "ids", 0, &id, 4), MICA_BUSY);
    EXPECT_EQ(mica_session_set_extent(s, "n_tokens", 1), MICA_BUSY);
    EXPECT_EQ(mica_session_compile(s, 1, graphs, &plan), MICA_BUSY);
    EXPECT_EQ(mica_session_allocate(s), MICA_BUSY);
    EXPECT_EQ(mica_plan_read(tiny.plan(0), "logits", 0, &id, 4), MICA_BUSY);
    EXPECT_TRUE(has(error(), "wait for it first")) << error();
    const mica_kv_span span = {0, 1};
    EXPECT_EQ(mica_kv_reserve(tiny.cache(), 1, &span), MICA_BUSY);
    EXPECT_EQ(mica_kv_seq_rm(tiny.cache(), 0, 0, -1), MICA_BUSY);
    EXPECT_EQ(mica_plan_wait(tiny.plan(1)), MICA_INVALID_ARGUMENT);  // it is not the one running
    EXPECT_EQ(mica_plan_wait(tiny.plan(0)), MICA_OK);
    EXPECT_EQ(mica_plan_wait(tiny.plan(0)), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_kv_seq_next(tiny.cache(), 0), 1);
  }
}

TEST_F(SessionTest, SessionsMayBeReleasedInFlight) {
  for (const char* name : {"ref", "cpu"}) {
    const Device d = open_device(context, name);
    const TinyModel model({});
    const Weights weights = load_tiny(context, d, model);
    TinySession tiny(context, d, model, weights.get(), {1, 64});
    ASSERT_EQ(tiny.prepare(token_ids(model.shape(), 64)), MICA_OK);
    ASSERT_EQ(mica_plan_submit(tiny.plan(1)), MICA_OK);
  }
}

TEST_F(SessionTest, StepsNeedAReserveOfTheirSize) {
  const Device d = open_device(context, "ref");
  const TinyModel model({});
  const Weights weights = load_tiny(context, d, model);
  TinySession tiny(context, d, model, weights.get(), {1, 8});
  EXPECT_EQ(mica_plan_run(tiny.plan()), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "the plan uses the cache: reserve first");
  ASSERT_EQ(tiny.prepare({1, 2, 3}), MICA_OK);
  EXPECT_EQ(mica_plan_run(tiny.plan(0)), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "the reserve has 3 tokens, the plan at most 1");
  EXPECT_EQ(mica_kv_seq_next(tiny.cache(), 0), 0);  // abandoned
  ASSERT_EQ(tiny.prepare({1, 2, 3}), MICA_OK);
  EXPECT_EQ(mica_plan_run(tiny.plan(1)), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(tiny.cache(), 0), 3);
}

TEST_F(SessionTest, TheBudgetIsKeptAndTheSentenceSaysWhatToLower) {
  const TinyModel model({});
  mica_memory need{};
  {
    const Device d = open_device(context, "ref");
    const Weights weights = load_tiny(context, d, model);
    const TinySession tiny(context, d, model, weights.get(), {16});
    ASSERT_EQ(mica_session_memory(tiny.session().get(), &need), MICA_OK);
    EXPECT_EQ(need.weights_bytes, mica_weights_bytes(weights.get()));
    EXPECT_EQ(need.kv_bytes, mica_kv_cache_bytes(tiny.cache()));
    EXPECT_EQ(need.total_bytes, need.weights_bytes + need.kv_bytes + need.activations_bytes +
                                    need.step_bytes + need.reserve_bytes);
  }
  for (const uint64_t budget : {need.total_bytes - 1, need.total_bytes}) {
    CountingAllocator allocator;
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.allocator = allocator.get();
    params.memory_budget_bytes = budget;
    const Context limited = make_context(&params);
    const Device d = open_device(limited, "ref");
    const Weights weights = load_tiny(limited, d, model);
    mica_kv_cache* c = nullptr;
    ASSERT_EQ(model.make_cache(d.get(), &c), MICA_OK);
    const Cache cache(c);
    const Session s = make_session(d, c);
    const Graph g = make_graph(limited);
    model.build(g.get(), weights.get(), c, 16);
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    ASSERT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_OK);
    const int64_t live = allocator.live_bytes();
    const mica_status status = mica_session_allocate(s.get());
    EXPECT_EQ(status, budget < need.total_bytes ? MICA_OVER_BUDGET : MICA_OK);
    if (status == MICA_OK) continue;
    EXPECT_EQ(allocator.live_bytes(), live) << "nothing was allocated";
    const std::string text = mica_context_error(limited.get());
    EXPECT_TRUE(has(text, "the budget is") && has(text, "KV cache") && has(text, "lower")) << text;
    EXPECT_EQ(mica_plan_run(plan), MICA_INVALID_ARGUMENT);
  }
}

TEST_F(SessionTest, AllocatingAgainChangesNothing) {
  const Graph g = scaled("x", "y", 4);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "x", {1, 2, 3, 4});
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  borrowed.buffer_bytes = 0;
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
  EXPECT_EQ(borrowed.buffer_bytes, 0u);
  EXPECT_EQ(read(plan, "y", 4), (std::vector<float>{2, 4, 6, 8}));
}

TEST_F(SessionTest, EmptySessionsAllocateToo) {
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
  const Graph g = scaled("x", "y", 2);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "x", {1, 2});
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 2), (std::vector<float>{2, 4}));
}

// What the caller wrote stays, wherever the places move to; new places are zero.
TEST_F(SessionTest, PlansAddedLaterKeepTheStepBlock) {
  const Graph first = make_graph(context);
  const mica_extent n = mica_graph_extent(first.get(), "n", 4);
  const mica_tensor a = input(first.get(), "a", {1, 4}, n);
  mica_output(first.get(), mica_add(first.get(), a, input(first.get(), "b", {1, 4}, n)), "y");
  mica_plan* plan = ready(context, session, first);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "a", {1, 2, 3, 4});
  set<float>(session, "b", {10, 20, 30, 40});
  ASSERT_EQ(mica_session_set_extent(session.get(), "n", 3), MICA_OK);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);

  const Graph second = make_graph(context);  // b becomes larger, c is new
  const mica_tensor b = input(second.get(), "b", {500});
  const mica_tensor c = input(second.get(), "c", {500});
  mica_output(second.get(), mica_add(second.get(), b, c), "z");
  mica_plan* plan2 = nullptr;
  ASSERT_EQ(compile(second, &plan2), MICA_OK);
  // Not yet allocated: what does not fit the old places is refused, the rest works.
  const std::vector<float> large(500, 7);
  EXPECT_EQ(mica_session_set(session.get(), "b", 0, large.data(), 2000), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_session_set(session.get(), "c", 0, large.data(), 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "allocate the session first");
  std::vector<float> got(500);
  EXPECT_EQ(mica_session_get(session.get(), "c", 0, got.data(), 16), MICA_INVALID_ARGUMENT);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 3), (std::vector<float>{11, 22, 33}));

  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
  EXPECT_EQ(get(session, "a", 4), (std::vector<float>{1, 2, 3, 4}));
  std::vector<float> expected(500, 0);
  for (size_t i = 0; i < 4; ++i) expected[i] = 10 * static_cast<float>(i + 1);
  EXPECT_EQ(get(session, "b", 500), expected);
  EXPECT_EQ(get(session, "c", 500), std::vector<float>(500, 0));
  EXPECT_EQ(read(plan, "y", 3), (std::vector<float>{11, 22, 33}));  // the last step's
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "y", 3), (std::vector<float>{11, 22, 33}));
  set(session, "c", std::vector<float>(500, 1));
  ASSERT_EQ(mica_plan_run(plan2), MICA_OK);
  for (float& x : expected) ++x;
  EXPECT_EQ(read(plan2, "z", 500), expected);
}

// A plan that computes nothing needs no arena, but must still be made.
TEST_F(SessionTest, PlansWithoutNodesRun) {
  const Graph g = scaled("x", "y", 2);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  const Graph same = make_graph(context);
  mica_output(same.get(), input(same.get(), "x", {2}), "out");
  mica_plan* plan2 = ready(context, session, same);
  ASSERT_NE(plan2, nullptr);
  set<float>(session, "x", {5, 6});
  ASSERT_EQ(mica_plan_run(plan2), MICA_OK) << error();
  EXPECT_EQ(read(plan2, "out", 2), (std::vector<float>{5, 6}));
}

TEST_F(SessionTest, WeightsAreNotReadAsOutputs) {
  const Device d = open_device(context, "ref");
  const TinyModel model({});
  const Weights weights = load_tiny(context, d, model);
  const Session s = make_session(d);
  const Graph g = make_graph(context);
  mica_output(g.get(), mica_weight(g.get(), weights.get(), "norm"), "w");
  mica_plan* plan = ready(context, s, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  float v = 0;
  EXPECT_EQ(mica_plan_read(plan, "w", 0, &v, 4), MICA_UNSUPPORTED);
}

TEST_F(SessionTest, FailedStepsLeaveTheCacheAndSayWhy) {
  const TinyModel model({});
  const Weights weights = load_tiny(context, device, model);
  TinySession tiny(context, device, model, weights.get(), {8});
  const std::vector<float> first = tiny.step(0, {1, 2, 3});
  for (const bool in_submit : {true, false}) {
    ASSERT_EQ(tiny.prepare({4, 5}), MICA_OK);
    (in_submit ? borrowed.submit_status : borrowed.wait_status) = MICA_OUT_OF_MEMORY;
    EXPECT_EQ(mica_plan_run(tiny.plan()), MICA_OUT_OF_MEMORY);
    borrowed = {};
    EXPECT_EQ(mica_kv_seq_next(tiny.cache(), 0), 3);
  }
  const std::vector<float> after = tiny.step(0, {4, 5});
  TinySession other(context, device, model, weights.get(), {8});
  (void)other.step(0, {1, 2, 3});
  EXPECT_EQ(other.step(0, {4, 5}), after);
}

TEST_F(SessionTest, ALostDeviceRefusesEverythingButRelease) {
  const Graph g = scaled("x", "y", 2);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  borrowed.submit_status = MICA_DEVICE_LOST;
  EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
  borrowed = {};
  float v = 0;
  EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
  EXPECT_EQ(mica_session_set(session.get(), "x", 0, &v, 4), MICA_DEVICE_LOST);
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_DEVICE_LOST);
  EXPECT_TRUE(has(error(), "release what is on it")) << error();
  // Others of the process go on.
  const Device ref = open_device(context, "ref");
  const Session other = make_session(ref);
  mica_plan* plan2 = ready(context, other, g);
  ASSERT_NE(plan2, nullptr);
  EXPECT_EQ(mica_plan_run(plan2), MICA_OK);
}

}  // namespace
