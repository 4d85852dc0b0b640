// The paths of a Vulkan device: each is tried when it is opened, one that fails is not used and
// said to be so. And guard pages are out of bounds. On llvmpipe; skipped where there is none.
#include <csignal>
#include <cstdlib>

#include "backends/vulkan/self_test.h"
#include "core/base/device.h"
#include "ops/dtypes/q8_0.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

class VulkanPaths : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers see llvmpipe's compiler and threads more than mica";
#endif
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    const mica_logger logger = {&log_, [](void* user, mica_log_level, const char* text) {
                                  *static_cast<std::string*>(user) += text;
                                }};
    params.logger = &logger;
    mica_context* c = nullptr;
    ASSERT_EQ(mica_context_create(&params, &c), MICA_OK);
    context_.reset(c);
    ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
    if (!open()) GTEST_SKIP() << mica_context_error(c);
    setenv("MICA_VULKAN_FORCE_DOT", "1", 1);  // llvmpipe has it, but not as something fast
  }
  void TearDown() override {
    unsetenv("MICA_VULKAN_FORCE_DOT");
    unsetenv("MICA_VULKAN_FAIL");
    unsetenv("MICA_VULKAN_GUARD");
  }
  Device open() {
    mica_device* d = nullptr;
    status_ = mica_device_open(context_.get(), "vulkan:llvmpipe", &d);
    return Device(d);
  }
  static std::string name_of(const Device& device) {
    mica_device_info info{};
    EXPECT_EQ(mica_device_get_info(device.get(), &info), MICA_OK);
    return info.name;
  }
  // The sum of a row of ones with x, by matmul of a Q8_0 weight.
  void expect_product(const Device& device) {
    static mica_block_q8_0 rows[16][2];
    for (auto& row : rows)
      for (mica_block_q8_0& block : row) {
        block.d = 0x3c00;
        for (int8_t& q : block.qs) q = 1;
      }
    mica_weights* raw = nullptr;
    ASSERT_EQ(mica_weights_create(device.get(), &raw), MICA_OK);
    const Weights weights(raw);
    const int64_t dim[] = {64, 16};
    ASSERT_EQ(mica_weights_describe(raw, "w", MICA_Q8_0, 2, dim), MICA_OK);
    const mica_weight_source source = {
        nullptr,
        [](void*, uint32_t, uint64_t offset, uint64_t, void*, const void** out) {
          *out = reinterpret_cast<const char*>(rows) + offset;
          return MICA_OK;
        },
        nullptr};
    ASSERT_EQ(mica_weights_load(raw, &source), MICA_OK) << mica_context_error(context_.get());
    const Graph g = make_graph(context_);
    const mica_tensor w = mica_weight(g.get(), raw, "w");
    mica_output(g.get(), mica_matmul(g.get(), w, input(g.get(), "x", {64, 1})), "y");
    const Session session = make_session(device);
    mica_plan* plan = ready(context_, session, g);
    ASSERT_NE(plan, nullptr);
    explained_ = explain(plan);
    set(session, "x", std::vector<float>(64, 127));
    ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context_.get());
    EXPECT_EQ(read(plan, "y", 16), std::vector<float>(16, 64 * 127));
  }

  Context context_;
  mica_status status_ = MICA_OK;
  std::string log_, explained_;
};

TEST_F(VulkanPaths, AreTriedAndNamed) {
  const Device device = open();
  ASSERT_EQ(status_, MICA_OK) << mica_context_error(context_.get());
  const vulkan::Device& d = vulkan::of(device->handle);
  if (!d.caps.dot) GTEST_SKIP() << "this llvmpipe has no integer dot product";
  EXPECT_TRUE(has(name_of(device), ", dot")) << name_of(device);
  EXPECT_EQ(d.failed_paths, 0u);
  EXPECT_EQ(log_, "");
  expect_product(device);
}

TEST_F(VulkanPaths, OneThatFailsIsNotUsed) {
  {
    const Device device = open();
    if (!vulkan::of(device->handle).caps.dot) GTEST_SKIP() << "no integer dot product here";
  }
  setenv("MICA_VULKAN_FAIL", "coopmat,dot", 1);
  const Device device = open();
  ASSERT_EQ(status_, MICA_OK) << mica_context_error(context_.get());
  const vulkan::Device& d = vulkan::of(device->handle);
  EXPECT_FALSE(d.caps.dot);
  EXPECT_EQ(d.failed_paths, 1u << vulkan::kDot);
  EXPECT_TRUE(has(name_of(device), "; dot failed its self-test")) << name_of(device);
  EXPECT_TRUE(has(log_, "the path dot is not used: its self-test gave a wrong product")) << log_;
  expect_product(device);
  EXPECT_TRUE(has(explained_, "dot failed its self-test")) << explained_;
}

TEST_F(VulkanPaths, WithoutThePlainOneThereIsNoDevice) {
  setenv("MICA_VULKAN_FAIL", "plain", 1);
  const Device device = open();
  EXPECT_EQ(status_, MICA_NO_DEVICE);
  EXPECT_TRUE(has(mica_context_error(context_.get()), "its self-test gave a wrong product"))
      << mica_context_error(context_.get());
}

// Staging ring, code, tables: what a session's need has beside buffers.
TEST_F(VulkanPaths, WhatTheDriverTakesIsStated) {
  const Device device = open();
  ASSERT_EQ(status_, MICA_OK) << mica_context_error(context_.get());
  const Graph g = make_graph(context_);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {64})), "y");
  const Session session = make_session(device);
  mica_memory memory{};
  ASSERT_EQ(mica_session_memory(session.get(), &memory), MICA_OK);
  EXPECT_EQ(memory.reserve_bytes, 0u);
  ASSERT_NE(ready(context_, session, g), nullptr);
  ASSERT_EQ(mica_session_memory(session.get(), &memory), MICA_OK);
  EXPECT_EQ(memory.reserve_bytes, (64u << 20) + (256u << 10) + 4096u);  // one unit
  EXPECT_EQ(memory.total_bytes, memory.activations_bytes + memory.step_bytes +
                                    memory.reserve_bytes + memory.weights_bytes + memory.kv_bytes);
}

// A shader that writes beyond a buffer: random weights, more than it has room for.
TEST_F(VulkanPaths, GuardPagesAreOutOfBounds) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto write = [&](const char* guard, int64_t first_row, int64_t n_rows) {
    setenv("MICA_VULKAN_GUARD", guard, 1);
    const Device device = open();
    mica_b_buffer* buffer = nullptr;
    if (vulkan::buffer_create(device->handle, 1024 * 4, &buffer) != MICA_OK) std::exit(2);
    mica_b_value w{};
    w.dtype = MICA_F32;
    w.rank = 2;
    w.dim[0] = 256, w.dim[1] = n_rows, w.dim[2] = w.dim[3] = 1;
    w.offset = static_cast<uint64_t>(first_row * 1024);
    const mica_status status = mica_backend_vulkan()->weight_random(device->handle, &w, buffer, 1);
    vulkan::buffer_free(buffer);
    std::exit(status == MICA_OK ? 0 : 1);
  };
  EXPECT_EXIT(write("end", 0, 4), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(write("end", 0, 5), testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(write("start", 0, 4), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(write("start", -1, 2), testing::KilledBySignal(SIGSEGV), "");
}

}  // namespace
}  // namespace mica::test
