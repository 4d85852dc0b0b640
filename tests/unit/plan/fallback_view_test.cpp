// A view of a weight says where plain rows are. A fallback device that keeps the weight in a layout
// of its own cannot follow it.
#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

class FallbackViewTest : public testing::Test {
 protected:
  FallbackViewTest() {
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    borrowed = {};
    device = open_device(context, "borrowed");
    cpu = open_device(context, "cpu");
    ref = open_device(context, "ref");
    const int64_t dim[] = {512, 64};
    std::vector<unsigned char> rows(512 / 32 * 18 * 64);
    const std::vector<float> values = randoms(512 * 64, 1);
    EXPECT_EQ(mica_dtype_encode(MICA_Q4_0, values.data(), rows.data(), values.size()), MICA_OK);
    mica_weights* w = nullptr;
    EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
    weights.reset(w);
    EXPECT_EQ(mica_weights_describe(w, "w", MICA_Q4_0, 2, dim), MICA_OK);
    const mica_weight_source source = {
        rows.data(),
        [](void* user, uint32_t, uint64_t offset, uint64_t, void*, const void** out) {
          *out = static_cast<unsigned char*>(user) + offset;
          return MICA_OK;
        },
        nullptr};
    EXPECT_EQ(mica_weights_load(w, &source), MICA_OK);
    graph = make_graph(context);
    const mica_tensor all = mica_weight(graph.get(), w, "w");
    const int64_t part[] = {512, 32}, start[] = {0, 9, 0, 0};
    const mica_tensor lower = mica_view(graph.get(), all, 2, part, start);
    mica_output(graph.get(), mica_matmul(graph.get(), lower, input(graph.get(), "x", {512, 1})),
                "y");
  }
  std::vector<float> run(const std::vector<mica_device*>& fallback) {
    const Session session = make_session(device, nullptr, false, fallback);
    mica_plan* plan = ready(context, session, graph);
    if (plan == nullptr) return {};
    set(session, "x", randoms(512, 2));
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context.get());
    return read(plan, "y", 32);
  }
  Context context = make_context();
  Device device, cpu, ref;
  Weights weights;
  Graph graph;
};

TEST_F(FallbackViewTest, GoesToADeviceWithPlainRows) {
  const std::vector<float> want = run({});
  borrowed.refused_op = "matmul";
  EXPECT_EQ(run({ref.get()}), want);
  EXPECT_EQ(run({cpu.get(), ref.get()}), want);
}

TEST_F(FallbackViewTest, IsRefusedByAPackedLayout) {
  borrowed.refused_op = "matmul";
  const Session session = make_session(device, nullptr, false, {cpu.get()});
  mica_graph* const graphs[] = {graph.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_UNSUPPORTED);
  EXPECT_TRUE(has(mica_context_error(context.get()),
                  "cpu cannot run it: it reads a view of weight 'w', which the device keeps in a "
                  "layout of its own"))
      << mica_context_error(context.get());
}

}  // namespace
