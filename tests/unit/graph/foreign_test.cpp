// Objects of another graph or context are refused with a sentence, and a call that fails says why
// and gives NULL.
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

struct World {
  World() : context(make_context()), device(open_device(context, "cpu")) {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = 1;
    layer.head_dim_k = layer.head_dim_v = 8;
    mica_kv_params params = MICA_KV_PARAMS_INIT;
    params.n_layers = 1;
    params.layers = &layer;
    params.n_cells = 64;
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(mica_kv_cache_create(device.get(), &params, &c), MICA_OK);
    cache.reset(c);
  }
  std::string error() const { return mica_context_error(context.get()); }
  Context context;
  Device device;
  Cache cache;
};

TEST(ForeignTest, AnExtentIsOfOneGraph) {
  const World w;
  for (const bool kv : {false, true}) {
    const Graph a = make_graph(w.context), b = make_graph(w.context);
    const mica_extent of_a = mica_graph_extent(a.get(), "n", 4);
    const mica_extent of_b = mica_graph_extent(b.get(), "n", 4);
    EXPECT_EQ(of_a.index, of_b.index);
    EXPECT_NE(of_a.graph, of_b.graph);
    if (kv) {
      EXPECT_EQ(mica_graph_kv(b.get(), w.cache.get(), 0, of_a).k.index, 0u);
    } else {
      EXPECT_TRUE(is_none(input(b.get(), "x", {2, 4}, of_a)));
    }
    EXPECT_TRUE(has(graph_error(b), "extent of another graph")) << graph_error(b);
    EXPECT_TRUE(is_none(input(a.get(), "x", {2, 4}, {of_a.index + 1, of_a.graph})));
    EXPECT_NE(graph_error(a), "");
  }
  const Graph g = make_graph(w.context);
  const mica_extent n = mica_graph_extent(g.get(), "n", 4);
  mica_tensor_info info;
  ASSERT_EQ(mica_graph_tensor_info(g.get(), input(g.get(), "x", {2, 4}, n), &info), MICA_OK);
  EXPECT_EQ(info.extent.index, n.index);
  EXPECT_EQ(info.extent.graph, n.graph);
  EXPECT_FALSE(is_none(input(g.get(), "y", {2, 4}, info.extent)));
  ASSERT_EQ(mica_graph_tensor_info(g.get(), input(g.get(), "z", {2}, MICA_NO_EXTENT), &info),
            MICA_OK);
  EXPECT_EQ(info.extent.index | info.extent.graph, 0u);
}

TEST(ForeignTest, ObjectsOfAnotherContextAreRefused) {
  const World here, there;
  const Graph g = make_graph(there.context);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {4})), "y");
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = reinterpret_cast<mica_plan*>(0x10);
  Session s = make_session(here.device);
  EXPECT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(plan, nullptr);
  EXPECT_TRUE(has(here.error(), "graph is of another context")) << here.error();
  s = make_session(there.device);
  EXPECT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_OK) << there.error();

  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  params.cache = there.cache.get();
  mica_session* out = reinterpret_cast<mica_session*>(0x10);
  EXPECT_EQ(mica_session_create(here.device.get(), &params, &out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(out, nullptr);
  EXPECT_TRUE(has(here.error(), "cache is of another context")) << here.error();

  const Graph local = make_graph(here.context);
  const mica_extent n = mica_graph_extent(local.get(), "n", 4);
  EXPECT_EQ(mica_graph_kv(local.get(), there.cache.get(), 0, n).k.index, 0u);
  EXPECT_TRUE(has(graph_error(local), "cache is of another context")) << graph_error(local);
}

TEST(ForeignTest, ACallThatFailsSaysWhy) {
  const World w;
  mica_context* c = w.context.get();
  const auto fails = [&](mica_status status, const char* about) {
    EXPECT_EQ(status, MICA_INVALID_ARGUMENT) << about;
    EXPECT_TRUE(has(w.error(), about)) << about << ": " << w.error();
    EXPECT_EQ(mica_device_open(c, "nothing", nullptr), MICA_INVALID_ARGUMENT);  // another text
  };
  const Session s = make_session(w.device);
  const Graph g = make_graph(w.context);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {4})), "y");
  mica_plan* plan = ready(w.context, s, g);
  mica_weights* raw = nullptr;
  ASSERT_EQ(mica_weights_create(w.device.get(), &raw), MICA_OK);
  const Weights weights(raw);
  char byte = 0;
  fails(mica_graph_create(c, nullptr), "out_graph is NULL");
  mica_tensor_info info;
  fails(mica_graph_tensor_info(g.get(), {0, 0}, &info), "not a tensor of this graph");
  fails(mica_graph_tensor_info(g.get(), {1, 0}, nullptr), "out_info is NULL");
  fails(mica_session_create(w.device.get(), nullptr, nullptr), "out_session is NULL");
  fails(mica_session_memory(s.get(), nullptr), "out_memory is NULL");
  fails(mica_session_set(s.get(), nullptr, 0, &byte, 1), "input is NULL");
  fails(mica_session_set(s.get(), "x", 0, nullptr, 1), "data is NULL");
  fails(mica_session_get(s.get(), "x", 0, nullptr, 1), "dst is NULL");
  fails(mica_session_set_extent(s.get(), nullptr, 1), "extent is NULL");
  fails(mica_plan_read(plan, nullptr, 0, &byte, 1), "output is NULL");
  fails(mica_plan_output_info(plan, "y", nullptr), "out_info is NULL");
  fails(mica_plan_output_numerics(plan, "y", nullptr), "out_numerics is NULL");
  fails(mica_plan_explain(plan, nullptr, 3, nullptr), "buffer is NULL");
  fails(mica_weights_create(w.device.get(), nullptr), "out_weights is NULL");
  fails(mica_weights_info(weights.get(), "w", nullptr), "out_info is NULL");
  fails(mica_weights_describe_gguf(weights.get(), nullptr), "file is NULL");
  fails(mica_weights_read(weights.get(), "w", nullptr, 1), "dst is NULL");
  fails(mica_device_count(c, nullptr), "out_n is NULL");
  fails(mica_device_get_info(w.device.get(), nullptr), "out_info is NULL");
  fails(mica_kv_cache_usage(w.cache.get(), nullptr), "out_usage is NULL");
  const Graph bad = make_graph(w.context);
  mica_graph_kv(bad.get(), nullptr, 0, mica_graph_extent(bad.get(), "n", 4));
  EXPECT_EQ(graph_error(bad), "kv: cache is NULL");
}

template <class T>
T* rubbish() {
  return reinterpret_cast<T*>(0x10);
}

TEST(ForeignTest, AnObjectThatIsNotMadeIsNull) {
  auto* device = rubbish<mica_device>();
  EXPECT_NE(mica_device_open(nullptr, "cpu", &device), MICA_OK);
  EXPECT_EQ(device, nullptr);
  auto* graph = rubbish<mica_graph>();
  EXPECT_NE(mica_graph_create(nullptr, &graph), MICA_OK);
  EXPECT_EQ(graph, nullptr);
  auto* weights = rubbish<mica_weights>();
  EXPECT_NE(mica_weights_create(nullptr, &weights), MICA_OK);
  EXPECT_EQ(weights, nullptr);
  auto* session = rubbish<mica_session>();
  EXPECT_NE(mica_session_create(nullptr, nullptr, &session), MICA_OK);
  EXPECT_EQ(session, nullptr);
  mica_plan* plans[2] = {rubbish<mica_plan>(), rubbish<mica_plan>()};
  EXPECT_NE(mica_session_compile(nullptr, 2, nullptr, plans), MICA_OK);
  EXPECT_EQ(plans[0], nullptr);
  EXPECT_EQ(plans[1], nullptr);
}

}  // namespace
