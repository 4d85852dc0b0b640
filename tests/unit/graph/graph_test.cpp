// Building graphs: errors that name their op and scope, the first of them kept, and handles that
// cannot be mixed up.
#include "core/graph/graph.h"

#include "tests/unit/world.h"

namespace {

using namespace mica::test;

class GraphTest : public testing::Test {
 protected:
  mica_status status() const { return mica_graph_status(g.get(), nullptr); }
  Context context = make_context();
  Graph g = make_graph(context);
};

TEST_F(GraphTest, ErrorsNameOpAndScope) {
  const mica_tensor w = input(g.get(), "w", {64, 8});
  const mica_tensor x = input(g.get(), "x", {32, 4});
  mica_graph_scope(g.get(), "blk.3");
  EXPECT_TRUE(is_none(mica_matmul(g.get(), w, x)));
  EXPECT_EQ(status(), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(graph_error(g).find("matmul 'blk.3': "), 0u) << graph_error(g);
}

TEST_F(GraphTest, ErrorsWithoutScopeNameTheOp) {
  const mica_tensor a = input(g.get(), "a", {5, 3});
  const mica_tensor b = input(g.get(), "b", {4});
  mica_graph_scope(g.get(), "somewhere");
  mica_graph_scope(g.get(), nullptr);
  EXPECT_TRUE(is_none(mica_add(g.get(), a, b)));
  EXPECT_EQ(graph_error(g).find("add: "), 0u) << graph_error(g);
}

TEST_F(GraphTest, HostileScopesAreEscaped) {
  const mica_tensor a = input(g.get(), "a", {5, 3});
  mica_graph_scope(g.get(), "\x1b[31m'\n");
  EXPECT_TRUE(is_none(mica_matmul(g.get(), a, input(g.get(), "b", {4}))));
  const std::string text = graph_error(g);
  for (const char c : text) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << text;
}

TEST_F(GraphTest, InvalidTensorsAreContagiousAndTheFirstErrorStays) {
  const mica_tensor a = input(g.get(), "a", {5, 3});
  mica_graph_scope(g.get(), "first");
  const mica_tensor bad = mica_add(g.get(), a, input(g.get(), "b", {4}));
  const std::string text = graph_error(g);
  mica_graph_scope(g.get(), "second");
  const mica_tensor none = MICA_NO_TENSOR;
  const int64_t dim[] = {15};
  EXPECT_TRUE(is_none(bad));
  EXPECT_TRUE(is_none(mica_silu(g.get(), bad)));
  EXPECT_TRUE(is_none(mica_add(g.get(), bad, a)));
  EXPECT_TRUE(is_none(mica_reshape(g.get(), bad, 1, dim)));
  EXPECT_TRUE(is_none(mica_swiglu(g.get(), bad, bad)));
  EXPECT_TRUE(is_none(mica_matmul(g.get(), none, none)));
  EXPECT_TRUE(is_none(input(g.get(), "late", {1})));
  EXPECT_EQ(mica_graph_extent(g.get(), "late", 4).index, 0u);
  mica_output(g.get(), bad, "y");
  EXPECT_EQ(graph_error(g), text);
  EXPECT_TRUE(has(text, "'first'")) << text;
}

TEST_F(GraphTest, MissingInputsAreNamed) {
  mica_graph_scope(g.get(), "blk.0");
  EXPECT_TRUE(is_none(mica_silu(g.get(), MICA_NO_TENSOR)));
  EXPECT_EQ(graph_error(g), "silu 'blk.0': input 0 is missing");
}

TEST_F(GraphTest, TensorsOfAnotherGraphAreRefused) {
  const Graph other = make_graph(context);
  const mica_tensor a = input(g.get(), "a", {4});
  const mica_tensor b = input(other.get(), "b", {4});
  EXPECT_TRUE(is_none(mica_add(g.get(), a, b)));
  EXPECT_EQ(graph_error(g), "add: input 1 is a tensor of another graph");
  mica_output(other.get(), a, "y");
  EXPECT_TRUE(has(graph_error(other), "not a tensor of this graph")) << graph_error(other);
  mica_tensor_info info;
  EXPECT_EQ(mica_graph_tensor_info(other.get(), a, &info), MICA_INVALID_ARGUMENT);
}

// A graph made where a released one was must not take its tensors.
TEST_F(GraphTest, TensorsOfAReleasedGraphAreRefused) {
  Graph old = make_graph(context);
  const mica_tensor stale = input(old.get(), "x", {4});
  old.reset();
  for (int i = 0; i < 20; ++i) {
    const Graph fresh = make_graph(context);
    (void)input(fresh.get(), "x", {4});
    EXPECT_TRUE(is_none(mica_silu(fresh.get(), stale))) << i;
  }
}

TEST_F(GraphTest, InputsAreChecked) {
  const int64_t dim[] = {4, 4, 4, 4, 4};
  const auto refused = [&](const char* name, int dtype, uint32_t rank, const int64_t* d,
                           const char* part) {
    const Graph graph = make_graph(context);
    EXPECT_TRUE(
        is_none(mica_input(graph.get(), name, static_cast<mica_dtype>(dtype), rank, d, {})));
    EXPECT_TRUE(has(graph_error(graph), part)) << graph_error(graph);
    EXPECT_EQ(mica_graph_status(graph.get(), nullptr), MICA_INVALID_ARGUMENT);
  };
  refused(nullptr, MICA_F32, 1, dim, "missing");
  refused("", MICA_F32, 1, dim, "missing");
  refused("x", MICA_F32, 1, nullptr, "missing");
  refused("x", 12345, 1, dim, "no such dtype");
  refused("x", -1, 1, dim, "no such dtype");
  refused("x", MICA_F32, 0, dim, "'x'");
  refused("x", MICA_F32, 5, dim, "'x'");
  const int64_t zero[] = {4, 0}, negative[] = {-4, 4};
  const int64_t huge[] = {int64_t{1} << 32, int64_t{1} << 31};
  const int64_t blocks[] = {33};
  refused("x", MICA_F32, 2, zero, "'x'");
  refused("x", MICA_F32, 2, negative, "'x'");
  refused("x", MICA_F32, 2, huge, "'x'");
  refused("x", MICA_Q8_0, 1, blocks, "'x'");
}

TEST_F(GraphTest, NamesAreUnique) {
  (void)input(g.get(), "x", {4});
  EXPECT_TRUE(is_none(input(g.get(), "x", {4})));
  EXPECT_TRUE(has(graph_error(g), "'x' is there already"));
  const Graph other = make_graph(context);
  const mica_tensor x = input(other.get(), "x", {4});
  mica_output(other.get(), x, "y");
  mica_output(other.get(), x, "y");
  EXPECT_TRUE(has(graph_error(other), "output 'y' is there already"));
}

TEST_F(GraphTest, ExtentsKeepTheirMaximum) {
  const mica_extent n = mica_graph_extent(g.get(), "n", 8);
  EXPECT_NE(n.index, 0u);
  EXPECT_EQ(mica_graph_extent(g.get(), "n", 8).index, n.index);
  EXPECT_NE(mica_graph_extent(g.get(), "m", 8).index, n.index);
  const mica_tensor x = input(g.get(), "x", {3, 8}, n);
  mica_tensor_info info;
  ASSERT_EQ(mica_graph_tensor_info(g.get(), mica_silu(g.get(), x), &info), MICA_OK);
  EXPECT_EQ(info.extent.index, n.index);
  EXPECT_EQ(info.dim[1], 8);
  EXPECT_EQ(mica_graph_extent(g.get(), "n", 9).index, 0u);
  EXPECT_TRUE(has(graph_error(g), "the maximum was 8, now it is 9")) << graph_error(g);
}

TEST_F(GraphTest, WrongExtentsAreRefused) {
  for (const int64_t max : {int64_t{0}, int64_t{-1}, int64_t{1} << 31}) {
    const Graph graph = make_graph(context);
    EXPECT_EQ(mica_graph_extent(graph.get(), "n", max).index, 0u);
    EXPECT_TRUE(has(graph_error(graph), "extent 'n'")) << graph_error(graph);
  }
  const Graph unnamed = make_graph(context);
  EXPECT_EQ(mica_graph_extent(unnamed.get(), nullptr, 1).index, 0u);
  EXPECT_EQ(mica_graph_status(unnamed.get(), nullptr), MICA_INVALID_ARGUMENT);
  const mica_extent n = mica_graph_extent(g.get(), "n", 8);
  EXPECT_TRUE(is_none(input(g.get(), "x", {8, 3}, n)));  // not the last dimension
  const Graph other = make_graph(context);
  EXPECT_TRUE(is_none(input(other.get(), "x", {8}, {7, 0})));  // no such extent
}

TEST_F(GraphTest, OutputsMustBePackedTensors) {
  const mica_tensor x = input(g.get(), "x", {4, 3});
  mica_output(g.get(), mica_transpose(g.get(), x), "y");
  EXPECT_TRUE(has(graph_error(g), "output 'y' is not contiguous")) << graph_error(g);
  for (const char* name : {"y", static_cast<const char*>(nullptr)}) {
    const Graph other = make_graph(context);
    mica_output(other.get(), name == nullptr ? input(other.get(), "x", {1}) : MICA_NO_TENSOR, name);
    EXPECT_EQ(mica_graph_status(other.get(), nullptr), MICA_INVALID_ARGUMENT);
  }
}

TEST_F(GraphTest, StateOpsWriteInputsOnly) {
  const mica_tensor x = input(g.get(), "x", {4, 3});
  const mica_tensor ids = input(g.get(), "ids", {3}, {}, MICA_I32);
  EXPECT_FALSE(is_none(mica_set_rows(g.get(), x, x, ids)));
  EXPECT_TRUE(is_none(mica_set_rows(g.get(), mica_silu(g.get(), x), x, ids)));
  EXPECT_TRUE(has(graph_error(g), "must be an input of the step or a cache")) << graph_error(g);
}

TEST_F(GraphTest, UnknownWeightsAreNotFound) {
  const Device device = open_device(context, "ref");
  mica_weights* raw = nullptr;
  ASSERT_EQ(mica_weights_create(device.get(), &raw), MICA_OK);
  const Weights weights(raw);
  EXPECT_TRUE(is_none(mica_weight(g.get(), raw, "w")));
  EXPECT_EQ(status(), MICA_NOT_FOUND);
  EXPECT_EQ(graph_error(g), "weight 'w' is not there");
  const Graph other = make_graph(context);
  EXPECT_TRUE(is_none(mica_weight(other.get(), nullptr, "w")));
  EXPECT_EQ(mica_graph_status(other.get(), nullptr), MICA_INVALID_ARGUMENT);
}

TEST_F(GraphTest, OneWeightIsOneTensor) {
  const Device device = open_device(context, "ref");
  mica_weights* raw = nullptr;
  ASSERT_EQ(mica_weights_create(device.get(), &raw), MICA_OK);
  const int64_t dim[] = {4, 2};
  ASSERT_EQ(mica_weights_describe(raw, "w", MICA_F32, 2, dim), MICA_OK);
  const mica_tensor w = mica_weight(g.get(), raw, "w");
  EXPECT_EQ(mica_weight(g.get(), raw, "w").index, w.index);
  mica_weights_release(raw);  // the graph keeps them
  mica_tensor_info info;
  ASSERT_EQ(mica_graph_tensor_info(g.get(), w, &info), MICA_OK);
  EXPECT_EQ(info.dim[1], 2);
  EXPECT_FALSE(is_none(mica_weight(g.get(), raw, "w")));
}

TEST_F(GraphTest, NullIsNeverFatal) {
  const int64_t dim[] = {1};
  const mica_tensor none = MICA_NO_TENSOR;
  EXPECT_EQ(mica_graph_create(nullptr, nullptr), MICA_INVALID_ARGUMENT);
  mica_graph* out = nullptr;
  EXPECT_EQ(mica_graph_create(nullptr, &out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_graph_create(context.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_graph_status(nullptr, nullptr), MICA_INVALID_ARGUMENT);
  mica_graph_release(nullptr);
  mica_graph_scope(nullptr, "x");
  mica_output(nullptr, none, "y");
  EXPECT_EQ(mica_graph_extent(nullptr, "n", 1).index, 0u);
  EXPECT_TRUE(is_none(mica_input(nullptr, "x", MICA_F32, 1, dim, {})));
  EXPECT_TRUE(is_none(mica_weight(nullptr, nullptr, "w")));
  EXPECT_TRUE(is_none(mica_add(nullptr, none, none)));
  EXPECT_TRUE(is_none(mica_matmul(nullptr, none, none)));
  EXPECT_TRUE(is_none(mica_swiglu(nullptr, none, none)));
  EXPECT_TRUE(is_none(mica_view(nullptr, none, 1, dim, nullptr)));
  EXPECT_TRUE(is_none(mica_rope(nullptr, none, none, nullptr)));
  EXPECT_TRUE(is_none(mica_attention(nullptr, none, nullptr, nullptr)));
  mica_kv_append(nullptr, nullptr, none, none);
  EXPECT_EQ(mica_graph_kv(nullptr, nullptr, 0, {}).k.index, 0u);
  EXPECT_TRUE(is_none(mica_attention(g.get(), none, nullptr, nullptr)));
  EXPECT_EQ(status(), MICA_INVALID_ARGUMENT);
}

TEST_F(GraphTest, KvIsChecked) {
  const mica_extent n = mica_graph_extent(g.get(), "n_tokens", 4);
  EXPECT_TRUE(is_none(mica_graph_kv(g.get(), nullptr, 0, n).k));
  EXPECT_TRUE(has(graph_error(g), "kv: ")) << graph_error(g);
  const Device device = open_device(context, "ref");
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = 1;
  layer.head_dim_k = layer.head_dim_v = 4;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 64;
  params.max_step_tokens = 4;
  mica_kv_cache* raw = nullptr;
  ASSERT_EQ(mica_kv_cache_create(device.get(), &params, &raw), MICA_OK);
  const Cache cache(raw);
  const auto refused = [&](uint32_t i_layer, int64_t max, const char* part) {
    const Graph graph = make_graph(context);
    const mica_extent e = mica_graph_extent(graph.get(), "n_tokens", max);
    EXPECT_TRUE(is_none(mica_graph_kv(graph.get(), raw, i_layer, e).k));
    EXPECT_TRUE(has(graph_error(graph), part)) << graph_error(graph);
  };
  refused(1, 4, "no layer 1");
  refused(0, 5, "at most 4");
}

// A composite that is built of composites is one region, which ends where the outer one does.
TEST_F(GraphTest, AScopeInsideAnotherDoesNotCloseIt) {
  mica_tensor x = input(g.get(), "x", {4});
  {
    const mica::RegionScope outer(g.get(), "outer");
    {
      const mica::RegionScope inner(g.get(), "inner");
      x = mica_relu(g.get(), x);
    }
    x = mica_relu(g.get(), x);
  }
  x = mica_relu(g.get(), x);
  ASSERT_EQ(g->regions.size(), 1u);
  EXPECT_STREQ(g->regions[0].fusion, "outer");
  EXPECT_EQ(g->regions[0].first, 0u);
  EXPECT_EQ(g->regions[0].end, 2u);
}

TEST(Contexts, ObjectsKeepTheirContext) {
  Context context = make_context();
  const Graph g = make_graph(context);
  Device device = open_device(context, "ref");
  context.reset();
  const Session session = make_session(device);
  device.reset();
  mica_output(g.get(), mica_silu(g.get(), input(g.get(), "x", {4})), "y");
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK);
}

TEST(Contexts, RefuseWrongParams) {
  mica_context* c = nullptr;
  EXPECT_EQ(mica_context_create(nullptr, nullptr), MICA_INVALID_ARGUMENT);
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.struct_size = 3;
  EXPECT_EQ(mica_context_create(&params, &c), MICA_INVALID_ARGUMENT);
  params = MICA_CONTEXT_PARAMS_INIT;
  const mica_allocator no_free = {nullptr, [](void*, size_t, size_t) -> void* { return nullptr; },
                                  nullptr};
  params.allocator = &no_free;
  EXPECT_EQ(mica_context_create(&params, &c), MICA_INVALID_ARGUMENT);
  params = MICA_CONTEXT_PARAMS_INIT;
  const mica_executor no_threads = {nullptr, 0, nullptr};
  params.executor = &no_threads;
  EXPECT_EQ(mica_context_create(&params, &c), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(c, nullptr);
  mica_context_release(nullptr);
  EXPECT_STREQ(mica_context_error(nullptr), "");
}

}  // namespace
