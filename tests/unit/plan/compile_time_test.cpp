// Building and compiling a graph takes time in proportion to its nodes, whatever its shape: eight
// times the nodes may take 24 times as long (caches grow too small), where a quadratic scan
// takes 64.
#include <ctime>

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

constexpr int kFew = 4000, kMany = 8 * kFew;

// A chain of n nodes, each under a scope of its own.
void chain(mica_graph* g, mica_weights*, int n) {
  mica_tensor x = input(g, "x", {8});
  for (int i = 0; i < n; ++i) {
    mica_graph_scope(g, std::to_string(i).c_str());
    x = mica_relu(g, x);
  }
  mica_output(g, x, "y");
}

// n nodes that depend on nothing of each other, all of them outputs: all live at once.
void wide(mica_graph* g, mica_weights*, int n) {
  const mica_tensor x = mica_relu(g, input(g, "x", {8}));
  for (int i = 0; i < n; ++i) mica_output(g, mica_relu(g, x), ("y" + std::to_string(i)).c_str());
}

// Values of falling sizes that live long: places are looked for among many.
void long_lives(mica_graph* g, mica_weights*, int n) {
  std::vector<mica_tensor> made;
  const mica_tensor x = input(g, "x", {8});
  for (int i = 0; i < n / 2; ++i) made.push_back(mica_scale(g, x, static_cast<float>(i), 0));
  mica_tensor sum = x;
  for (const mica_tensor t : made) sum = mica_add(g, sum, t);
  mica_output(g, sum, "y");
}

// An input, a view of it and an extent a node.
void inputs(mica_graph* g, mica_weights*, int n) {
  mica_tensor sum = input(g, "x", {8});
  for (int i = 0; i < n / 2; ++i) {
    const std::string name = "x" + std::to_string(i);
    const mica_extent e = mica_graph_extent(g, name.c_str(), 1);
    const mica_tensor one = input(g, name.c_str(), {2, 4, 1}, i % 2 == 0 ? e : MICA_NO_EXTENT);
    if (i % 2 != 0) sum = mica_add(g, sum, reshape(g, one, {8}));
  }
  mica_output(g, sum, "y");
}

// Every weight read again and again.
void weights(mica_graph* g, mica_weights* w, int n) {
  mica_tensor x = input(g, "x", {8});
  for (int i = 0; i < n; ++i)
    x = mica_add(g, x, mica_weight(g, w, ("b" + std::to_string(i)).c_str()));
  mica_output(g, x, "y");
}

// Regions whose members stand side by side, and regions whose members stand far apart.
void regions(mica_graph* g, mica_weights* w, int n, bool apart) {
  const mica_tensor norm = mica_weight(g, w, "b0"), matrix = mica_weight(g, w, "matrix");
  mica_tensor x = input(g, "x", {8});
  if (!apart) {
    for (int i = 0; i < n / 4; ++i)
      x = mica_matmul(g, matrix, mica_rms_norm(g, mica_add(g, x, x), norm, 1e-5f));
    return mica_output(g, x, "y");
  }
  std::vector<mica_tensor> normed;
  for (int i = 0; i < n / 3; ++i)
    normed.push_back(mica_rms_norm(g, mica_scale(g, x, static_cast<float>(i), 0), norm, 1e-5f));
  for (size_t i = 0; i < normed.size(); ++i)
    mica_output(g, mica_matmul(g, matrix, normed[i]), ("y" + std::to_string(i)).c_str());
}
void near_regions(mica_graph* g, mica_weights* w, int n) { regions(g, w, n, false); }
void far_regions(mica_graph* g, mica_weights* w, int n) { regions(g, w, n, true); }

class CompileTimeTest : public testing::Test {
 protected:
  using Build = void (*)(mica_graph*, mica_weights*, int);

  CompileTimeTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    device = open_device(context, "borrowed");
  }
  // Processor time: other programs of the machine do not count.
  double seconds(Build build, mica_weights* w, int n) const {
    const std::clock_t begin = std::clock();
    const Graph g = make_graph(context);
    build(g.get(), w, n);
    const Session s = make_session(device);
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
    EXPECT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_OK)
        << mica_context_error(context.get());
    return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  }
  void expect_linear(Build build, const char* claimed = "") {
    borrowed.claimed = claimed;
    mica_weights* raw = nullptr;
    ASSERT_EQ(mica_weights_create(device.get(), &raw), MICA_OK);
    const Weights w(raw);
    const int64_t dim[2] = {8, 8};
    ASSERT_EQ(mica_weights_describe(raw, "matrix", MICA_F32, 2, dim), MICA_OK);
    for (int i = 0; i < kMany; ++i)
      ASSERT_EQ(mica_weights_describe(raw, ("b" + std::to_string(i)).c_str(), MICA_F32, 1, dim),
                MICA_OK);
    double few = 1e9, many = 1e9;
    for (int i = 0; i < 3; ++i) {
      few = std::min(few, seconds(build, raw, kFew));
      many = std::min(many, seconds(build, raw, kMany));
      if (many < 16 * few) break;
    }
    EXPECT_LT(many, 24 * few) << few << " s for " << kFew << ", " << many << " s for " << kMany;
  }
  Context context = make_context();
  Device device;
};

TEST_F(CompileTimeTest, Chain) { expect_linear(chain); }
TEST_F(CompileTimeTest, Wide) { expect_linear(wide); }
TEST_F(CompileTimeTest, LongLives) { expect_linear(long_lives); }
TEST_F(CompileTimeTest, Inputs) { expect_linear(inputs); }
TEST_F(CompileTimeTest, Weights) { expect_linear(weights); }
TEST_F(CompileTimeTest, NearRegions) { expect_linear(near_regions, "norm_matmul"); }
TEST_F(CompileTimeTest, FarRegions) { expect_linear(far_regions, "norm_matmul"); }

}  // namespace
