// Angles of RoPE are made once a graph, for all that rotate by them.
#include "core/graph/graph.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

class AnglesTest : public testing::Test {
 protected:
  AnglesTest() {
    n = mica_graph_extent(g.get(), "n", 6);
    params.n_rot = 8;
  }
  mica_tensor positions(const char* name) { return input(g.get(), name, {6}, n, MICA_I32); }
  // Nodes that make angles.
  size_t count() const {
    size_t found = 0;
    for (const GraphNode& node : g->nodes) found += node.op == &op_rope_angles ? 1 : 0;
    return found;
  }
  mica_tensor angles(mica_tensor at) { return mica_rope_angles(g.get(), at, &params); }

  Context context = make_context();
  Graph g = make_graph(context);
  mica_extent n{};
  mica_rope_params params = MICA_ROPE_PARAMS_INIT;
};

TEST_F(AnglesTest, OfOnePositionsAndOptionsAreMadeOnce) {
  const mica_tensor at = positions("at");
  const mica_tensor q = input(g.get(), "q", {16, 3, 6}, n), k = input(g.get(), "k", {12, 1, 6}, n);
  for (int layer = 0; layer < 3; ++layer) {
    params.pairing = layer == 1 ? MICA_ROPE_HALF_SPLIT : MICA_ROPE_ADJACENT;
    params.attn_factor = 1.0f + static_cast<float>(layer);
    params.offset = layer == 2 ? 4 : 0;
    EXPECT_FALSE(is_none(mica_rope(g.get(), q, at, &params)));
    EXPECT_FALSE(is_none(mica_rope(g.get(), k, at, &params)));
  }
  EXPECT_EQ(count(), 1u);
  EXPECT_EQ(g->nodes.size(), 7u);
  EXPECT_EQ(angles(at).index, g->nodes[0].out);
  EXPECT_EQ(g->nodes[1].in[1], g->nodes[6].in[1]);
  params.n_rot = params.offset = 0;  // a whole head
  const mica_tensor small = input(g.get(), "small", {8, 1, 6}, n);
  EXPECT_FALSE(is_none(mica_rope(g.get(), small, at, &params)));
  EXPECT_EQ(count(), 1u);
}

TEST_F(AnglesTest, OfOtherPositionsOrOptionsAreApart) {
  const mica_tensor at = positions("at");
  const mica_tensor factors = input(g.get(), "factors", {4}, {});
  const uint32_t first = angles(at).index;
  EXPECT_NE(angles(positions("others")).index, first);
  const mica_rope_params same = params;
  const auto differs = [&](auto change) {
    const size_t before = count();
    params = same;
    change();
    EXPECT_NE(angles(at).index, first);
    EXPECT_EQ(count(), before + 1);
    params = same;
    EXPECT_EQ(angles(at).index, first);
  };
  differs([&] { params.n_rot = 6; });
  differs([&] { params.base = 500; });
  differs([&] { params.linear_scale = 0.5f; });
  differs([&] { params.freq_factors = factors; });
  differs([&] { params.n_ctx_orig = 7; });
  EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
}

// Few are looked through, so a graph of many tables is built in linear time.
TEST_F(AnglesTest, OnlyTheLastFewAreFoundAgain) {
  const mica_tensor at = positions("at");
  const uint32_t first = angles(at).index;
  for (uint32_t i = 1; i < mica_graph::kShared; ++i) {
    params.base = static_cast<float>(100 + i);
    angles(at);
  }
  params.base = 10000;
  EXPECT_EQ(angles(at).index, first);
  params.base = 99;
  angles(at);
  params.base = 10000;
  EXPECT_NE(angles(at).index, first);
}

TEST_F(AnglesTest, OfFactorsThatAreWrittenAreMadeAgain) {
  const mica_tensor at = positions("at");
  const mica_tensor held = input(g.get(), "held", {4, 1}, {});
  params.freq_factors = reshape(g.get(), held, {4});
  const uint32_t first = angles(at).index;
  EXPECT_EQ(angles(at).index, first);
  mica_set_rows(g.get(), held, input(g.get(), "rows", {4, 1}, {}),
                input(g.get(), "ids", {1}, {}, MICA_I32));
  EXPECT_NE(angles(at).index, first);
  EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
}

TEST_F(AnglesTest, WhatIsWrongWithXIsSaid) {
  const mica_tensor at = positions("at");
  EXPECT_TRUE(is_none(mica_rope(g.get(), MICA_NO_TENSOR, at, nullptr)));
  EXPECT_TRUE(has(graph_error(g), "rope: input 0 is missing")) << graph_error(g);
}

}  // namespace
}  // namespace mica::test
