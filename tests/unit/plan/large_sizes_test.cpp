// Sizes whose sum does not fit in 64 bits are refused, not wrapped to a small buffer.
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

constexpr int64_t kHuge = int64_t{1} << 59;  // elements of F32: 2^61 bytes

class LargeSizesTest : public testing::Test {
 protected:
  void refused(const Graph& g, const char* why) {
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    ASSERT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
    const Session s = make_session(device);
    EXPECT_EQ(mica_session_compile(s.get(), 1, graphs, &plan), MICA_OUT_OF_MEMORY);
    EXPECT_STREQ(mica_context_error(context.get()), why);
  }
  Context context = make_context();
  Device device = open_device(context, "cpu");
};

TEST_F(LargeSizesTest, Inputs) {
  const Graph g = make_graph(context);
  for (int i = 0; i < 8; ++i) input(g.get(), std::to_string(i).c_str(), {kHuge});
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {4})), "y");
  refused(g, "the inputs of the plans are too large in all");
}

TEST_F(LargeSizesTest, Temporaries) {
  const Graph g = make_graph(context);
  const mica_tensor x = input(g.get(), "x", {kHuge});
  for (int i = 0; i < 8; ++i)
    mica_output(g.get(), mica_relu(g.get(), x), std::to_string(i).c_str());
  refused(g, "the plan's tensors are too large in all");
}

}  // namespace
