// Plans in which a layer goes without what moved cells need: refused, not wrong.
#include <gtest/gtest.h>

#include <string>

#include "mica/mica.h"
#include "mica/ops.h"

namespace {

struct KvPlans : testing::Test {
  ~KvPlans() override {
    mica_session_release(session);
    mica_kv_cache_release(cache);
    mica_device_release(device);
    mica_context_release(context);
  }
  // Two layers; of layer 1 only what is said.
  void make(mica_kv_keys keys, bool has_turns, bool is_shifted) {
    ASSERT_EQ(mica_context_create(nullptr, &context), MICA_OK);
    ASSERT_EQ(mica_context_add_backend(context, mica_backend_ref()), MICA_OK);
    ASSERT_EQ(mica_device_open(context, "ref", &device), MICA_OK);
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = 1;
    layer.head_dim_k = layer.head_dim_v = 32;
    const mica_kv_layer layers[] = {layer, layer};
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = 2;
    p.layers = layers;
    p.n_cells = 128;
    p.max_step_tokens = 8;
    p.keys = keys;
    ASSERT_EQ(mica_kv_cache_create(device, &p, &cache), MICA_OK);
    mica_session_params sp = MICA_SESSION_PARAMS_INIT;
    sp.cache = cache;
    ASSERT_EQ(mica_session_create(device, &sp, &session), MICA_OK);
    mica_rope_params rope = MICA_ROPE_PARAMS_INIT;
    rope.n_rot = 32;
    mica_graph* graphs[2] = {};
    for (mica_graph*& g : graphs) ASSERT_EQ(mica_graph_create(context, &g), MICA_OK);
    mica_graph* g = graphs[0];
    const mica_extent n = mica_graph_extent(g, "n_tokens", 8);
    const int64_t dim[] = {32, 1, 8};
    mica_tensor x = mica_input(g, "x", MICA_F32, 3, dim, n);
    for (uint32_t i = 0; i < 2; ++i) {
      const mica_kv kv = mica_graph_kv(g, cache, i, n);
      mica_kv_append(g, &kv, mica_rope(g, x, kv.key_positions, &rope), x);
      mica_attention_params params = MICA_ATTENTION_PARAMS_INIT;
      if (keys == MICA_KV_KEYS_RELATIVE && (has_turns || i == 0)) {
        params.turns = mica_rope_angles(g, kv.turns, &rope);
        params.rope_pairing = rope.pairing;
      }
      x = mica_attention(g, mica_rope(g, x, kv.positions, &rope), &kv, &params);
    }
    mica_output(g, x, "y");
    const mica_extent one = mica_graph_extent(graphs[1], "n_tokens", 1);
    for (uint32_t i = 0; i < (is_shifted ? 2u : 1u); ++i) {
      const mica_kv kv = mica_graph_kv(graphs[1], cache, i, one);
      mica_kv_shift(graphs[1], &kv, &rope);
    }
    ASSERT_EQ(mica_session_compile(session, 2, graphs, plans), MICA_OK)
        << mica_context_error(context);
    for (mica_graph* graph : graphs) mica_graph_release(graph);
    ASSERT_EQ(mica_session_allocate(session), MICA_OK);
  }
  mica_status step() {
    const float x[32] = {1};
    EXPECT_EQ(mica_session_set(session, "x", 0, x, sizeof x), MICA_OK);
    const mica_kv_span span = {0, 1};
    const mica_status status = mica_kv_reserve(cache, 1, &span);
    return status != MICA_OK ? status : mica_plan_run(plans[0]);
  }
  mica_status shift(bool all) {
    uint64_t n = 0;
    const mica_status status = mica_kv_reserve_shift(cache, all ? 1 : 0, &n);
    return status != MICA_OK || n == 0 ? status : mica_plan_run(plans[1]);
  }
  void expect(mica_status got, const char* text) {
    EXPECT_EQ(got, MICA_INVALID_ARGUMENT);
    EXPECT_NE(std::string(mica_context_error(context)).find(text), std::string::npos)
        << mica_context_error(context);
  }

  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_kv_cache* cache = nullptr;
  mica_session* session = nullptr;
  mica_plan* plans[2] = {};
};

TEST_F(KvPlans, ALayerWithoutTurns) {
  make(MICA_KV_KEYS_RELATIVE, false, true);
  ASSERT_EQ(step(), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 100), MICA_OK);
  expect(step(), "not every attention of the plan has turns");
  ASSERT_EQ(shift(true), MICA_OK);
  EXPECT_EQ(step(), MICA_OK);
}

TEST_F(KvPlans, ALayerWithoutShift) {
  make(MICA_KV_KEYS_ROTATED, true, false);
  ASSERT_EQ(step(), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 100), MICA_OK);
  expect(shift(false), "which the plan has no kv_shift for in each layer");
  expect(step(), "run a kv_shift step");
}

TEST_F(KvPlans, WholePlans) {
  make(MICA_KV_KEYS_RELATIVE, true, true);
  ASSERT_EQ(step(), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 100), MICA_OK);
  EXPECT_EQ(step(), MICA_OK) << mica_context_error(context);
  EXPECT_EQ(shift(true), MICA_OK) << mica_context_error(context);
  EXPECT_EQ(step(), MICA_OK) << mica_context_error(context);
}

}  // namespace
