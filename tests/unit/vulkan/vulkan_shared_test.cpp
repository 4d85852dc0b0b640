// Weights that contexts share: each device counts its own submissions, and nobody else's.
#include "backends/vulkan/device.h"
#include "core/base/device.h"
#include "core/graph/weights.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

Context vulkan_context() {
  Context context = make_context();
  EXPECT_EQ(mica_context_add_backend(context.get(), mica_backend_vulkan()), MICA_OK);
  return context;
}

Device llvmpipe(const Context& context) {
  mica_device* d = nullptr;
  mica_device_open(context.get(), "vulkan:llvmpipe", &d);
  return Device(d);
}

TEST(VulkanShared, StepsOfAnotherContextAreNotCountedForTheWeightsDevice) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers see llvmpipe's compiler and threads more than mica";
#endif
  const Context owners = vulkan_context(), users = vulkan_context();
  const Device owner = llvmpipe(owners), user = llvmpipe(users);
  if (owner == nullptr || user == nullptr) GTEST_SKIP() << mica_context_error(owners.get());
  mica_weights* raw = nullptr;
  ASSERT_EQ(mica_weights_create(owner.get(), &raw), MICA_OK);
  const Weights weights(raw);
  const int64_t dim[] = {8};
  ASSERT_EQ(mica_weights_describe(raw, "w", MICA_F32, 1, dim), MICA_OK);
  static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  const mica_weight_source source = {
      nullptr,
      [](void*, uint32_t, uint64_t offset, uint64_t, void*, const void** out) {
        *out = reinterpret_cast<const char*>(ones) + offset;
        return MICA_OK;
      },
      nullptr};
  ASSERT_EQ(mica_weights_load(raw, &source), MICA_OK) << mica_context_error(owners.get());

  const Graph g = make_graph(users);
  mica_output(g.get(), mica_add(g.get(), input(g.get(), "x", {8}), mica_weight(g.get(), raw, "w")),
              "y");
  const Session session = make_session(user);
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  ASSERT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK)
      << mica_context_error(users.get());
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
  const vulkan::Buffer& buffer = vulkan::of(raw->buffer.handle());
  ASSERT_EQ(buffer.device, &vulkan::of(owner->handle));
  const uint64_t before = buffer.last_use;
  for (int i = 0; i < 5; ++i) {
    set(session, "x", std::vector<float>(8, static_cast<float>(i)));
    ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(users.get());
    EXPECT_EQ(read(plan, "y", 8), std::vector<float>(8, static_cast<float>(i + 1)));
  }
  EXPECT_EQ(buffer.last_use, before);
}

}  // namespace
}  // namespace mica::test
