// Plans over caches whose cells move: what a layer must have, and that all keys give the same.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mica/mica.h"
#include "mica/ops.h"

namespace {

struct KvPlans : testing::Test {
  ~KvPlans() override {
    drop();
    mica_device_release(device);
    mica_context_release(context);
  }
  void SetUp() override {
    ASSERT_EQ(mica_context_create(nullptr, &context), MICA_OK);
    ASSERT_EQ(mica_context_add_backend(context, mica_backend_ref()), MICA_OK);
    ASSERT_EQ(mica_device_open(context, "ref", &device), MICA_OK);
    rope.n_rot = 24;
    rope.offset = 4;
    rope.pairing = MICA_ROPE_HALF_SPLIT;
  }
  void drop() {
    mica_session_release(session);
    mica_kv_cache_release(cache);
    session = nullptr;
    cache = nullptr;
  }
  void make_cache(mica_kv_keys keys) {
    drop();
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = 1;
    layer.head_dim_k = layer.head_dim_v = 32;
    layer.dtype_k = layer.dtype_v = MICA_F32;
    const mica_kv_layer layers[] = {layer, layer};
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = 2;
    p.layers = layers;
    p.n_cells = 256;
    p.max_step_tokens = 8;
    p.keys = keys;
    ASSERT_EQ(mica_kv_cache_create(device, &p, &cache), MICA_OK);
  }
  // Two layers; of the second attention has a RoPE, or says that it has none.
  mica_graph* step_graph(bool has_rope, bool no_rope) {
    mica_graph* g = nullptr;
    EXPECT_EQ(mica_graph_create(context, &g), MICA_OK);
    const mica_extent n = mica_graph_extent(g, "n_tokens", 8);
    const int64_t dim[] = {32, 1, 8};
    mica_tensor x = mica_input(g, "x", MICA_F32, 3, dim, n);
    for (uint32_t i = 0; i < 2; ++i) {
      const mica_kv kv = mica_graph_kv(g, cache, i, n);
      mica_kv_append(g, &kv, mica_rope(g, x, kv.key_positions, &rope), x);
      mica_attention_params params = MICA_ATTENTION_PARAMS_INIT;
      if (i == 0 || has_rope) params.rope = &rope;
      params.no_rope = i == 1 && no_rope ? 1 : 0;
      x = mica_attention(g, mica_rope(g, x, kv.positions, &rope), &kv, &params);
    }
    mica_output(g, x, "y");
    return g;
  }
  void make(mica_kv_keys keys, bool is_shifted) {
    make_cache(keys);
    mica_session_params sp = MICA_SESSION_PARAMS_INIT;
    sp.cache = cache;
    ASSERT_EQ(mica_session_create(device, &sp, &session), MICA_OK);
    mica_graph* graphs[2] = {step_graph(true, false), nullptr};
    ASSERT_EQ(mica_graph_create(context, &graphs[1]), MICA_OK);
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
  mica_status step(uint32_t n = 1) {
    std::vector<float> x(size_t{32} * n);
    for (float& v : x) v = static_cast<float>(++last % 17) / 8 - 1;
    EXPECT_EQ(mica_session_set(session, "x", 0, x.data(), x.size() * sizeof(float)), MICA_OK);
    const mica_kv_span span = {0, n};
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
  // What a conversation gives whose cells are moved, divided and go on, of a cache of such keys.
  std::vector<float> moved(mica_kv_keys keys) {
    make(keys, true);
    last = 0;
    std::vector<float> out;
    const auto go = [&](uint32_t n) {
      EXPECT_EQ(shift(false), MICA_OK) << mica_context_error(context);
      EXPECT_EQ(step(n), MICA_OK) << mica_context_error(context);
      const size_t size = out.size();
      out.resize(size + size_t{32} * n);
      EXPECT_EQ(mica_plan_read(plans[0], "y", 0, out.data() + size, size_t{128} * n), MICA_OK);
    };
    for (uint32_t i = 0; i < 10; ++i) go(8);
    EXPECT_EQ(mica_kv_seq_rm(cache, 0, 13, 40), MICA_OK);
    EXPECT_EQ(mica_kv_seq_add(cache, 0, 40, -1, -27), MICA_OK);
    go(3);
    EXPECT_EQ(mica_kv_seq_add(cache, 0, 20, -1, 1000), MICA_OK);
    go(5);
    EXPECT_EQ(mica_kv_seq_div(cache, 0, 1010, -1, 4), MICA_OK);
    go(1);
    EXPECT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 77), MICA_OK);
    go(8);
    return out;
  }

  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_kv_cache* cache = nullptr;
  mica_session* session = nullptr;
  mica_plan* plans[2] = {};
  mica_rope_params rope = MICA_ROPE_PARAMS_INIT;
  uint32_t last = 0;
};

TEST_F(KvPlans, ALayerWithoutItsRope) {
  for (const mica_kv_keys keys : {MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED}) {
    make_cache(keys);
    const char* text = nullptr;
    mica_graph* g = step_graph(false, false);
    EXPECT_EQ(mica_graph_status(g, &text), MICA_INVALID_ARGUMENT);
    EXPECT_NE(std::string(text).find("params.rope"), std::string::npos) << text;
    mica_graph_release(g);
    g = step_graph(false, true);
    EXPECT_EQ(mica_graph_status(g, &text), MICA_OK) << text;
    mica_graph_release(g);
  }
}

// Of one layer alone: that other layers read the key positions does not hide it.
TEST_F(KvPlans, ALayerRotatedToPositions) {
  for (const mica_kv_keys keys :
       {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED})
    for (const bool is_view : {false, true}) {
      make_cache(keys);
      mica_graph* g = step_graph(true, false);
      const mica_extent n = mica_graph_extent(g, "n_tokens", 8);
      mica_kv kv = mica_graph_kv(g, cache, 1, n);
      const int64_t dim[] = {32, 1, 8};
      const mica_tensor x = mica_input(g, "k", MICA_F32, 3, dim, n);
      mica_tensor k = mica_rope(g, x, kv.positions, &rope);
      if (is_view) k = mica_view(g, k, 3, dim, nullptr);
      mica_kv_append(g, &kv, k, x);
      const char* text = nullptr;
      const bool is_wrong = keys != MICA_KV_KEYS_ROTATED;
      EXPECT_EQ(mica_graph_status(g, &text), is_wrong ? MICA_INVALID_ARGUMENT : MICA_OK) << text;
      const bool says =
          std::string(text).find("rotated to mica_kv.key_positions") != std::string::npos;
      EXPECT_EQ(says, is_wrong) << text;
      mica_graph_release(g);
    }
}

TEST_F(KvPlans, ALayerWithoutShift) {
  make(MICA_KV_KEYS_ROTATED, false);
  ASSERT_EQ(step(), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 100), MICA_OK);
  expect(shift(false), "which the plan has no kv_shift for in each layer");
  expect(step(), "run a kv_shift step");
}

TEST_F(KvPlans, WholePlans) {
  make(MICA_KV_KEYS_RELATIVE, true);
  ASSERT_EQ(step(), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 100), MICA_OK);
  EXPECT_EQ(step(), MICA_OK) << mica_context_error(context);
  EXPECT_EQ(shift(true), MICA_OK) << mica_context_error(context);
  EXPECT_EQ(step(), MICA_OK) << mica_context_error(context);
}

// However keys are stored, attention is the same function of positions.
TEST_F(KvPlans, AllKeysGiveTheSame) {
  for (const float ext_factor : {0.0f, 1.0f}) {
    rope.ext_factor = ext_factor;
    rope.linear_scale = ext_factor != 0 ? 0.25f : 1;
    rope.n_ctx_orig = 64;
    const std::vector<float> want = moved(MICA_KV_KEYS_ROTATED);
    for (const mica_kv_keys keys : {MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED}) {
      const std::vector<float> got = moved(keys);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], want[i], 2e-5) << "keys " << keys << " element " << i;
    }
  }
}

}  // namespace
