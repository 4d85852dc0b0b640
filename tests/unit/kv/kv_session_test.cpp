// A cache in a session: its tables meet no caller's input, it has one owner, the step's number of
// tokens is the reserve's, and a step that is refused leaves nothing pending.
#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

constexpr int64_t kDim = 8;

class KvSessionTest : public testing::TestWithParam<const char*> {
 protected:
  KvSessionTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    device = open_device(context, GetParam());
    cache = make_cache(device);
  }
  Cache make_cache(const Device& d) const {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = 1;
    layer.head_dim_k = layer.head_dim_v = kDim;
    layer.dtype_k = layer.dtype_v = MICA_F32;
    mica_kv_params params = MICA_KV_PARAMS_INIT;
    params.n_layers = 1;
    params.layers = &layer;
    params.n_cells = 2048;
    params.max_step_tokens = 1024;
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(mica_kv_cache_create(d.get(), &params, &c), MICA_OK);
    return Cache(c);
  }
  // y = attention over q, of which K and V are q too.
  mica_tensor attend(mica_graph* g, mica_kv_cache* c, int64_t max = 8) const {
    const mica_extent n = mica_graph_extent(g, "n_tokens", max);
    mica_kv kv = mica_graph_kv(g, c, 0, n);
    const mica_tensor q = input(g, "q", {kDim, 1, max}, n);
    mica_kv_append(g, &kv, q, q);
    return mica_attention(g, q, &kv, nullptr);
  }
  Graph attention_graph(int64_t max = 8) const {
    Graph g = make_graph(context);
    mica_output(g.get(), attend(g.get(), cache.get(), max), "y");
    return g;
  }
  mica_status reserve(uint32_t n) const {
    const mica_kv_span span = {0, n};
    return mica_kv_reserve(cache.get(), 1, &span);
  }
  int64_t next() const { return mica_kv_seq_next(cache.get(), 0); }
  std::string error() const { return mica_context_error(context.get()); }

  Context context = make_context();
  Device device;
  Cache cache;
};

TEST_P(KvSessionTest, InputsMayHaveAnyName) {
  for (const char* name : {"factor", "kv", "kv.", "kv.positions", "kv.slots.0", "kv.table.0",
                           "kv.slots.99", "kv.table.4000000000"})
    for (const bool first : {false, true}) {
      cache = make_cache(device);
      const Graph g = make_graph(context);
      mica_tensor factor = {0, 0};
      if (first) factor = input(g.get(), name, {1});
      const mica_tensor y = attend(g.get(), cache.get(), 1024);
      if (!first) factor = input(g.get(), name, {1});
      const mica_tensor next = input(g.get(), "next", {4});
      mica_output(g.get(), mica_mul(g.get(), y, factor), "y");
      mica_output(g.get(), mica_scale(g.get(), next, 1, 0), "z");
      const Session s = make_session(device, cache.get());
      mica_plan* plan = ready(context, s, g);
      ASSERT_NE(plan, nullptr) << name;
      constexpr size_t kTokens = 600;
      set(s, "q", std::vector<float>(kTokens * kDim, 1));
      set(s, name, std::vector<float>{2});
      set(s, "next", std::vector<float>{3, 4, 5, 6});
      ASSERT_EQ(reserve(kTokens), MICA_OK);
      ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
      for (const float v : read(plan, "y", kTokens * kDim)) ASSERT_NEAR(v, 2, 1e-4) << name;
      EXPECT_EQ(get(s, name, 1), (std::vector<float>{2})) << name;
      EXPECT_EQ(get(s, "next", 4), (std::vector<float>{3, 4, 5, 6})) << name;
    }
}

TEST_P(KvSessionTest, TablesAreNoInputsOfTheCaller) {
  const Graph g = attention_graph();
  const Session s = make_session(device, cache.get());
  ASSERT_NE(ready(context, s, g), nullptr);
  int32_t word = 0;
  for (const char* name : {"", "kv.positions", "kv.slots.0", "kv.table.0"})
    EXPECT_EQ(mica_session_set(s.get(), name, 0, &word, 4), MICA_NOT_FOUND) << name;
}

TEST_P(KvSessionTest, ACacheHasOneSession) {
  Session first = make_session(device, cache.get());
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.cache = cache.get();
  mica_session* second = first.get();
  EXPECT_EQ(mica_session_create(device.get(), &params, &second), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(error(), "session: the cache belongs to another session, which owns its storage");
  const Graph g = attention_graph();
  mica_plan* plan = ready(context, first, g);
  ASSERT_NE(plan, nullptr);
  set(first, "q", std::vector<float>(4 * kDim, 1));
  ASSERT_EQ(reserve(4), MICA_OK);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
  EXPECT_EQ(next(), 4);
  // With its session go the pages, so the tables must not go on naming them.
  ASSERT_EQ(reserve(2), MICA_OK);
  first.reset();
  EXPECT_EQ(next(), 0);
  EXPECT_EQ(mica_kv_seq_cells(cache.get(), 0), 0u);
  const Session later = make_session(device, cache.get());
  plan = ready(context, later, g);
  ASSERT_NE(plan, nullptr);
  set(later, "q", std::vector<float>(2 * kDim, 3));
  ASSERT_EQ(reserve(2), MICA_OK) << error();
  ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
  for (const float v : read(plan, "y", 2 * kDim)) EXPECT_NEAR(v, 3, 1e-4);
}

TEST_P(KvSessionTest, ASessionThatIsNotMadeLeavesTheCacheFree) {
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.cache = cache.get();
  params.n_fallback = 1;  // and no list of them
  mica_session* s = nullptr;
  EXPECT_EQ(mica_session_create(device.get(), &params, &s), MICA_INVALID_ARGUMENT);
  params.n_fallback = 0;
  ASSERT_EQ(mica_session_create(device.get(), &params, &s), MICA_OK) << error();
  mica_session_release(s);
}

TEST_P(KvSessionTest, AVariantThatNoKernelHasIsRefused) {
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.cache = cache.get();
  params.variant = "naiv";
  mica_session* s = nullptr;
  ASSERT_EQ(mica_session_create(device.get(), &params, &s), MICA_OK) << error();
  const Graph g = attention_graph();
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_compile(s, 1, graphs, &plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "no op of the graph has a kernel named 'naiv'");
  EXPECT_EQ(plan, nullptr);
  mica_session_release(s);
}

TEST_P(KvSessionTest, ARefusedRunAbandonsItsReserve) {
  const Session s = make_session(device, cache.get());
  const Graph g = attention_graph();
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  ASSERT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_OK) << error();
  const auto refused = [&](mica_status status) {
    EXPECT_NE(status, MICA_OK);
    EXPECT_NE(error(), "");
    EXPECT_EQ(next(), 0);
  };
  ASSERT_EQ(reserve(4), MICA_OK);
  refused(mica_plan_run(plan));  // not allocated
  ASSERT_EQ(reserve(4), MICA_OK) << error();
  refused(mica_plan_submit(plan));
  ASSERT_EQ(mica_session_allocate(s.get()), MICA_OK);
  ASSERT_EQ(reserve(9), MICA_OK) << error();
  refused(mica_plan_run(plan));  // more tokens than the plan takes
  ASSERT_EQ(reserve(4), MICA_OK) << error();
  ASSERT_EQ(mica_plan_submit(plan), MICA_OK);
  EXPECT_EQ(mica_plan_submit(plan), MICA_BUSY);
  EXPECT_EQ(mica_kv_commit(cache.get()), MICA_BUSY);
  mica_kv_abandon(cache.get());
  EXPECT_EQ(mica_kv_seq_rm(cache.get(), 0, 0, -1), MICA_BUSY);
  ASSERT_EQ(mica_plan_wait(plan), MICA_OK) << error();  // BUSY has left the reserve
  EXPECT_EQ(next(), 4);
}

TEST_P(KvSessionTest, AStepOfALostDeviceAbandonsItsReserve) {
  if (std::string(GetParam()) != "borrowed") GTEST_SKIP();
  const Session s = make_session(device, cache.get());
  const Graph g = attention_graph();
  mica_plan* plan = ready(context, s, g);
  ASSERT_NE(plan, nullptr);
  borrowed.wait_status = MICA_DEVICE_LOST;
  for (int i = 0; i < 2; ++i) {  // the second is refused before it is submitted
    ASSERT_EQ(reserve(4), MICA_OK) << i << ": " << error();
    EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
    EXPECT_EQ(next(), 0);
  }
  EXPECT_EQ(reserve(4), MICA_OK) << error();
}

TEST_P(KvSessionTest, TheExtentOfTokensIsTheReserves) {
  const Session s = make_session(device, cache.get());
  const Graph g = attention_graph();
  mica_plan* plan = ready(context, s, g);
  ASSERT_NE(plan, nullptr);
  const auto step = [&](uint32_t n, float v) {
    EXPECT_EQ(reserve(n), MICA_OK) << error();
    set(s, "q", std::vector<float>(n * kDim, v));
    return mica_plan_run(plan);
  };
  ASSERT_EQ(step(4, 1), MICA_OK) << error();  // never set
  ASSERT_EQ(step(3, 1), MICA_OK) << error();
  ASSERT_EQ(mica_session_set_extent(s.get(), "n_tokens", 4), MICA_OK);
  ASSERT_EQ(step(4, 1), MICA_OK) << error();  // equal
  EXPECT_EQ(next(), 11);
  for (const uint32_t n : {2u, 7u}) {
    EXPECT_EQ(step(n, 5), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(error(), "the reserve has " + std::to_string(n) +
                           " tokens, but extent 'n_tokens' was set to 4");
    EXPECT_EQ(next(), 11);
  }
  ASSERT_EQ(mica_session_set_extent(s.get(), "n_tokens", 2), MICA_OK);
  ASSERT_EQ(step(2, 1), MICA_OK) << error();
  for (const float v : read(plan, "y", 2 * kDim)) EXPECT_NEAR(v, 1, 1e-4);  // no row of 5
}

TEST_P(KvSessionTest, APlanIsReadUntilAnotherRuns) {
  const Session s = make_session(device);
  Graph g[2] = {make_graph(context), make_graph(context)};
  mica_graph* graphs[2];
  mica_plan* plans[2];
  for (int i = 0; i < 2; ++i) {
    graphs[i] = g[i].get();
    mica_output(graphs[i], mica_scale(graphs[i], input(graphs[i], "x", {4}), i == 0 ? 2 : 3, 0),
                "y");
  }
  ASSERT_EQ(mica_session_compile(s.get(), 2, graphs, plans), MICA_OK) << error();
  ASSERT_EQ(mica_session_allocate(s.get()), MICA_OK);
  set(s, "x", std::vector<float>{1, 2, 3, 4});
  ASSERT_EQ(mica_plan_run(plans[0]), MICA_OK);
  EXPECT_EQ(read(plans[0], "y", 4), (std::vector<float>{2, 4, 6, 8}));
  float y[4];
  EXPECT_EQ(mica_plan_read(plans[1], "y", 0, y, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "the plan has not run yet");
  EXPECT_EQ(read(plans[0], "y", 4), (std::vector<float>{2, 4, 6, 8}));
  ASSERT_EQ(mica_plan_run(plans[1]), MICA_OK);
  EXPECT_EQ(mica_plan_read(plans[0], "y", 0, y, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "another plan of the session has run since: the plan's outputs are gone");
  EXPECT_EQ(read(plans[1], "y", 4), (std::vector<float>{3, 6, 9, 12}));
  EXPECT_EQ(mica_plan_read(plans[1], "y", 0, nullptr, 16), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "output 'y' has nowhere to go: dst is NULL");
}

TEST_P(KvSessionTest, SequencesThatAreNotThereSayMinusOne) {
  EXPECT_EQ(mica_kv_seq_next(cache.get(), 7), -1);
  EXPECT_EQ(mica_kv_seq_next(nullptr, 0), -1);
  EXPECT_EQ(mica_kv_seq_rm(cache.get(), 0, -5, 3), MICA_OK);
}

INSTANTIATE_TEST_SUITE_P(Devices, KvSessionTest, testing::Values("ref", "cpu", "borrowed"));

}  // namespace
