// The Vulkan backend when the driver fails: every failure becomes a status with a text, nothing
// leaks, and the device that is lost stays lost. Runs on llvmpipe; skipped where there is none.
#include <cstdlib>

#include "core/base/device.h"
#include "tests/unit/vulkan/vulkan_faults.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

class VulkanFaultTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers see llvmpipe's compiler and threads more than mica";
#endif
    const mica_backend* backend = faulty_vulkan();
    if (backend == nullptr) GTEST_SKIP() << "no libvulkan here";
    ASSERT_EQ(mica_context_create(nullptr, &raw_), MICA_OK);
    context_.reset(raw_);
    ASSERT_EQ(mica_context_add_backend(raw_, backend), MICA_OK);
    mica_device* probe = nullptr;
    if (mica_device_open(raw_, "vulkan:llvmpipe", &probe) != MICA_OK)
      GTEST_SKIP() << mica_context_error(raw_);
    mica_device_release(probe);
    EXPECT_EQ(faults.n_alive, 0) << "a device that is opened and closed leaks";
    faults.n_calls = 0;
  }
  std::string error() const { return mica_context_error(raw_); }
  Device open() {
    mica_device* d = nullptr;
    status_ = mica_device_open(raw_, "vulkan:llvmpipe", &d);
    return Device(d);
  }
  // y = x * x + x, run twice; the status of the first call that fails.
  mica_status run_all() {
    const Device device = open();
    if (status_ != MICA_OK) return status_;
    const Graph g = make_graph(context_);
    const mica_tensor x = input(g.get(), "x", {64, 4});
    mica_output(g.get(), mica_add(g.get(), mica_mul(g.get(), x, x), x), "y");
    const Session session = make_session(device);
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    mica_status status = mica_session_compile(session.get(), 1, graphs, &plan);
    if (status == MICA_OK) status = mica_session_allocate(session.get());
    std::vector<float> values(256), out(256);
    for (size_t step = 0; step < 2 && status == MICA_OK; ++step) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + step);
      status = mica_session_set(session.get(), "x", 0, values.data(), values.size() * 4);
      if (status == MICA_OK) status = mica_plan_run(plan);
      if (status == MICA_OK) status = mica_plan_read(plan, "y", 0, out.data(), out.size() * 4);
      if (status != MICA_OK) break;
      for (size_t i = 0; i < values.size(); ++i)
        EXPECT_EQ(out[i], values[i] * values[i] + values[i]);
    }
    return status;
  }

  void every_call_fails(const std::vector<VkResult>& results) {
    faults.blind_counter = true;  // waits as often each time
    ASSERT_EQ(run_all(), MICA_OK) << error();
    const uint64_t n = faults.n_calls;
    EXPECT_EQ(faults.n_alive, 0);
    EXPECT_GT(n, 20u);
    for (uint64_t i = 1; i <= n; ++i) {
      for (const VkResult result : results) {
        faults.n_calls = 0;
        faults.fail_call = i;
        faults.result = result;
        faults.n_failed = 0;
        const bool lost = result == VK_ERROR_DEVICE_LOST;
        EXPECT_EQ(run_all(), lost ? MICA_DEVICE_LOST : MICA_OUT_OF_MEMORY)
            << "call " << i << ": " << error();
        EXPECT_EQ(faults.n_failed, 1u) << i;
        EXPECT_NE(error(), "") << i;
        EXPECT_EQ(faults.n_alive, 0) << "call " << i << " leaks";
      }
    }
  }

  mica_context* raw_ = nullptr;
  Context context_;
  mica_status status_ = MICA_OK;
};

// Every call that can fail fails once, with each result: its status, a text, and no leak.
TEST_F(VulkanFaultTest, EveryCallMayFail) {
  every_call_fails(
      {VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_DEVICE_LOST});
}

// The same where the host cannot reach the device's memory: staging, and the plain path's
// self-test.
TEST_F(VulkanFaultTest, EveryCallMayFailOnADiscreteGpu) {
  faults.discrete = true;
  every_call_fails({VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_DEVICE_LOST});
}

TEST_F(VulkanFaultTest, ALostDeviceStaysLostAndOthersLive) {
  const char* const names[] = {"vkQueueSubmit", "vkWaitSemaphores", "vkGetSemaphoreCounterValue"};
  for (const char* name : names) {
    faults.n_calls = faults.n_failed = 0;
    faults.fail_call = 1;
    faults.fail_name = name;
    faults.result = VK_ERROR_DEVICE_LOST;
    faults.blind_counter = std::strcmp(name, "vkWaitSemaphores") == 0;
    const Device device = open();
    ASSERT_EQ(status_, MICA_OK) << error();
    const Graph g = make_graph(context_);
    mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {64})), "y");
    const Session session = make_session(device);
    mica_plan* plan = ready(context_, session, g);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST) << name;
    EXPECT_NE(error().find("was lost in"), std::string::npos) << error();
    faults.fail_name = "nothing";
    float y[64];
    EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST) << name;
    EXPECT_NE(mica_plan_read(plan, "y", 0, y, sizeof y), MICA_OK) << name;
    faults.fail_name = nullptr;
    faults.fail_call = 0;
    faults.blind_counter = false;
    EXPECT_EQ(run_all(), MICA_OK) << "another device: " << error();
  }
  EXPECT_EQ(faults.n_alive, 0);
}

TEST_F(VulkanFaultTest, SlowStepsAreWaitedFor) {
  faults.blind_counter = true;
  faults.wait_timeouts = 5;
  EXPECT_EQ(run_all(), MICA_OK) << error();
  EXPECT_EQ(faults.wait_timeouts, 0u);
}

TEST_F(VulkanFaultTest, WithoutADriverThereIsASentence) {
  faults.fail_name = "vkCreateInstance";
  faults.fail_call = 1;
  faults.result = VK_ERROR_INCOMPATIBLE_DRIVER;
  open();
  EXPECT_EQ(status_, MICA_NO_DEVICE);
  EXPECT_NE(error().find("finds no driver"), std::string::npos) << error();
  EXPECT_EQ(faults.n_alive, 0);
}

// 300 steps: one compile, one recording, no allocation, one submission each.
TEST_F(VulkanFaultTest, AStepIsOneSubmission) {
  const Device device = open();
  ASSERT_EQ(status_, MICA_OK) << error();
  const Graph g = make_graph(context_);
  const mica_tensor x = input(g.get(), "x", {64});
  mica_output(g.get(), mica_add(g.get(), mica_relu(g.get(), x), x), "y");
  const Session session = make_session(device);
  mica_plan* plan = ready(context_, session, g);
  ASSERT_NE(plan, nullptr);
  const uint32_t recordings = faults.n_command_buffers, allocations = faults.n_allocations;
  const uint32_t pipelines = faults.n_pipelines, submits = faults.n_submits;
  for (int i = 0; i < 300; ++i) {
    const float first = static_cast<float>(i);
    float y = 0;
    ASSERT_EQ(mica_session_set(session.get(), "x", 0, &first, 4), MICA_OK);
    ASSERT_EQ(mica_plan_run(plan), MICA_OK);
    ASSERT_EQ(mica_plan_read(plan, "y", 0, &y, 4), MICA_OK);
    ASSERT_EQ(y, 2 * first);
  }
  EXPECT_EQ(faults.n_submits - submits, 300u);
  EXPECT_EQ(faults.n_command_buffers, recordings);
  EXPECT_EQ(faults.n_allocations, allocations);
  EXPECT_EQ(faults.n_pipelines, pipelines);
}

TEST_F(VulkanFaultTest, ACancelledStepIsNotTaken) {
  volatile int32_t cancel = 0;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(&params, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  const Device device = open_device(context, "vulkan:llvmpipe");
  const Graph g = make_graph(context);
  mica_output(g.get(), mica_relu(g.get(), input(g.get(), "x", {64})), "y");
  const Session session = make_session(device);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(mica_plan_submit(plan), MICA_OK);
  cancel = 1;
  EXPECT_EQ(mica_plan_wait(plan), MICA_CANCELLED);
  cancel = 0;
  EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(c);
}

// Of a step of several submissions those that are not begun when it is cancelled never are.
TEST_F(VulkanFaultTest, ACancelledStepStopsBetweenItsParts) {
  constexpr int64_t kN = 320;  // a product is more work than a part may hold on a CPU
  volatile int32_t cancel = 0;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(&params, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, faulty_vulkan()), MICA_OK);
  const Device device = open_device(context, "vulkan:llvmpipe");
  const Graph g = make_graph(context);
  const mica_tensor w = input(g.get(), "w", {kN, kN}, {}, MICA_F16);
  mica_tensor x = input(g.get(), "x", {kN, 2 * kN});
  for (int i = 0; i < 4; ++i) x = mica_matmul(g.get(), w, x);
  mica_output(g.get(), x, "y");
  const Session session = make_session(device);
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  uint32_t before = faults.n_submits;
  ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(c);
  const uint32_t n_parts = faults.n_submits - before;
  EXPECT_GE(n_parts, 4u);
  before = faults.n_submits;
  ASSERT_EQ(mica_plan_submit(plan), MICA_OK);
  cancel = 1;
  EXPECT_EQ(mica_plan_wait(plan), MICA_CANCELLED);
  EXPECT_EQ(faults.n_submits - before, 1u);
  cancel = 0;
  before = faults.n_submits;
  EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(c);
  EXPECT_EQ(faults.n_submits - before, n_parts);
}

TEST(VulkanValidation, AMessageFailsTheCallItComesIn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP();
#endif
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  setenv("MICA_VULKAN_VALIDATE", "1", 1);
  mica_device* raw = nullptr;
  const mica_status status = mica_device_open(c, "vulkan:llvmpipe", &raw);
  unsetenv("MICA_VULKAN_VALIDATE");
  if (status != MICA_OK) GTEST_SKIP() << mica_context_error(c);
  const Device device(raw);
  vulkan::Device& d = vulkan::of(raw->handle);
  mica_b_buffer* buffer = nullptr;
  ASSERT_EQ(vulkan::buffer_create(raw->handle, 64, &buffer), MICA_OK) << mica_context_error(c);
  vulkan::buffer_free(buffer);
  EXPECT_EQ(d.n_messages, 0u);
  auto info = vulkan::structure<VkBufferCreateInfo>(VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO);
  VkBuffer empty = VK_NULL_HANDLE;  // no size, no usage
  if (d.api.vkCreateBuffer(d.device, &info, nullptr, &empty) == VK_SUCCESS)
    d.api.vkDestroyBuffer(d.device, empty, nullptr);
  EXPECT_GT(d.n_messages, 0u);
  EXPECT_EQ(vulkan::buffer_create(raw->handle, 64, &buffer), MICA_INTERNAL);
  EXPECT_NE(std::string(mica_context_error(c)).find("vulkan validation: "), std::string::npos);
  vulkan::buffer_free(buffer);
}

// Drivers with static TLS can be loaded a few times only.
TEST(VulkanDevices, TheDriverStaysLoaded) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP();
#endif
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  const auto loaded = [](const char* library) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle != nullptr) dlclose(handle);
    return handle != nullptr;
  };
  Dl_info driver{};
  for (int i = 0; i < 12; ++i) {
    mica_device* raw = nullptr;
    const mica_status status = mica_device_open(c, "vulkan:llvmpipe", &raw);
    if (i == 0 && status != MICA_OK) GTEST_SKIP() << mica_context_error(c);
    ASSERT_EQ(status, MICA_OK) << mica_context_error(c);
    vulkan::Device& d = vulkan::of(raw->handle);
    // Past libvulkan, which has no function of its own for this.
    const auto function = d.api.vkGetDeviceProcAddr(d.device, "vkCmdDispatch");
    ASSERT_NE(dladdr(reinterpret_cast<const void*>(function), &driver), 0);
    const std::string path = driver.dli_fname;
    EXPECT_TRUE(loaded(path.c_str()));
    mica_device_release(raw);
    EXPECT_TRUE(loaded(path.c_str())) << path;
  }
}

TEST(VulkanDevices, NamesThatMeanNothingAreRefusedWithAList) {
  mica_context* c = nullptr;
  ASSERT_EQ(mica_context_create(nullptr, &c), MICA_OK);
  const Context context(c);
  ASSERT_EQ(mica_context_add_backend(c, mica_backend_vulkan()), MICA_OK);
  mica_device* d = nullptr;
  const mica_status status = mica_device_open(c, "vulkan:no such thing", &d);
  EXPECT_TRUE(status == MICA_NOT_FOUND || status == MICA_NO_DEVICE);
  EXPECT_EQ(d, nullptr);
  EXPECT_NE(std::string(mica_context_error(c)), "");
}

}  // namespace
}  // namespace mica::test
