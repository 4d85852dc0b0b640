// The CUDA backend's host side on a runtime of the test's own: what it asks the device to do, and what
// becomes of every fault; and, on the real one, a machine without a driver.
#include <thread>

#include "tests/unit/world.h"
// behind gtest
#include "tests/unit/cuda_fake.h"

namespace {

using namespace mica;
using namespace mica::test;

class CudaBackend : public testing::Test {
 protected:
  CudaBackend() { fake = FakeCuda{}; }
  ~CudaBackend() override {
    if (fake.fault.empty() && fake.fail_call < 0) expect_all_returned();
  }
  void expect_all_returned() {
    EXPECT_TRUE(fake.memory.empty()) << fake.memory.size();
    EXPECT_TRUE(fake.pinned.empty()) << fake.pinned.size();
    EXPECT_TRUE(fake.handles.empty()) << fake.handles.size();
  }
  static Context make(const volatile int32_t* cancel = nullptr) {
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.cancel = cancel;
    mica_context* c = nullptr;
    EXPECT_EQ(mica_context_create(&params, &c), MICA_OK);
    EXPECT_EQ(mica_context_add_backend(c, fake_cuda_backend()), MICA_OK);
    return Context(c);
  }
  static Device open(const Context& c, const char* name = "cuda") {
    mica_device* d = nullptr;
    EXPECT_EQ(mica_device_open(c.get(), name, &d), MICA_OK) << mica_context_error(c.get());
    return Device(d);
  }
};

// y = x + b, twice; x has an extent.
struct World {
  explicit World(Context c, Device d) : context(std::move(c)), device(std::move(d)) {
    graph = make_graph(context);
    mica_graph* g = graph.get();
    const mica_extent n = mica_graph_extent(g, "n", 4);
    const mica_tensor x = input(g, "x", {8, 4}, n);
    const mica_tensor b = input(g, "b", {8});
    mica_output(g, mica_add(g, mica_add(g, x, b), b), "y");
    session = make_session(device);
  }
  mica_status compile() {
    mica_graph* const graphs[] = {graph.get()};
    const mica_status status = mica_session_compile(session.get(), 1, graphs, &plan);
    return status == MICA_OK ? mica_session_allocate(session.get()) : status;
  }
  mica_status step(float value) {
    const std::vector<float> x(32, value), b(8, 1);
    mica_status status = mica_session_set(session.get(), "x", 0, x.data(), 128);
    if (status == MICA_OK) status = mica_session_set(session.get(), "b", 0, b.data(), 32);
    if (status == MICA_OK) status = mica_session_set_extent(session.get(), "n", 3);
    return status == MICA_OK ? mica_plan_run(plan) : status;
  }
  std::string error() const { return mica_context_error(context.get()); }
  Context context;
  Device device;
  Graph graph;
  Session session;
  mica_plan* plan = nullptr;
};

TEST_F(CudaBackend, TellsTheMachineHasNoDevice) {
  Context context = make_context();
  ASSERT_EQ(mica_context_add_backend(context.get(), mica_backend_cuda()), MICA_OK);
  if (cuda::device_count(cuda::kRuntime) > 0) GTEST_SKIP() << "there is a device";
  uint32_t n = 0;
  EXPECT_EQ(mica_device_count(context.get(), &n), MICA_OK);
  mica_device* d = nullptr;
  EXPECT_EQ(mica_device_open(context.get(), "cuda", &d), MICA_NO_DEVICE);
  EXPECT_TRUE(has(mica_context_error(context.get()), "there is no CUDA device here"))
      << mica_context_error(context.get());
  EXPECT_NE(open_device(context, "cpu:plain"), nullptr);  // everything else goes on
}

TEST_F(CudaBackend, RefusesDevicesWithAReason) {
  const Context c = make();
  mica_device* d = nullptr;
  const auto text = [&] { return std::string(mica_context_error(c.get())); };
  for (const char* name : {"cuda:2", "cuda:x", "cuda:-1", "cuda:99999999999"}) {
    EXPECT_EQ(mica_device_open(c.get(), name, &d), MICA_NOT_FOUND) << name;
    EXPECT_TRUE(has(text(), "there are 0 to 1")) << text();
  }
  fake.major = 7, fake.minor = 5;
  EXPECT_EQ(mica_device_open(c.get(), "cuda:1", &d), MICA_NO_DEVICE);
  EXPECT_TRUE(has(text(), "Fake 1") && has(text(), "7.5")) << text();
  fake.count_error = cudaErrorInsufficientDriver;
  EXPECT_EQ(mica_device_open(c.get(), "cuda", &d), MICA_NO_DEVICE);
  EXPECT_TRUE(has(text(), "driver")) << text();
  uint32_t n = 7;
  EXPECT_EQ(mica_device_count(c.get(), &n), MICA_OK);
  EXPECT_EQ(n, 0u);
  EXPECT_EQ(fake.last_error, cudaSuccess);
}

TEST_F(CudaBackend, DescribesDevices) {
  const Context c = make();
  uint32_t n = 0;
  ASSERT_EQ(mica_device_count(c.get(), &n), MICA_OK);
  ASSERT_EQ(n, 2u);
  mica_device_info info;
  ASSERT_EQ(mica_device_describe(c.get(), 1, &info), MICA_OK);
  EXPECT_STREQ(info.name, "Fake 1, sm_90");
  EXPECT_STREQ(info.options, "0,1");
  const Device d = open(c, "cuda:1");
  ASSERT_EQ(mica_device_get_info(d.get(), &info), MICA_OK);
  EXPECT_EQ(info.memory_bytes, 1u << 30);
  EXPECT_EQ(info.free_bytes, 1u << 20);
}

// Any order of writes, reads and copies gives what plain memory gives.
TEST_F(CudaBackend, MovesBytesInOrder) {
  const Context context = make();
  const mica_backend& b = *fake_cuda_backend();
  mica_host host{};
  const mica_allocator allocator = default_allocator();
  host.struct_size = sizeof host;
  host.allocator = &allocator;
  mica_b_device* device = nullptr;
  ASSERT_EQ(b.device_open(&host, "", &device), MICA_OK);
  constexpr uint64_t kBytes = 6 << 20;
  mica_b_buffer* buffer = nullptr;
  ASSERT_EQ(b.buffer_create(device, kBytes, &buffer), MICA_OK);
  std::vector<unsigned char> model(kBytes, 0), data(kBytes), got(kBytes);
  std::mt19937 rng(5);
  for (unsigned char& c : data) c = static_cast<unsigned char>(rng());
  const auto bytes_up_to = [&](uint64_t most) { return 1 + rng() % most; };
  for (int i = 0; i < 4000; ++i) {
    const auto kind = rng() % 100;
    // Small ones meet each other often.
    const bool large = kind >= 97;
    const uint64_t n = large ? bytes_up_to(kBytes) : bytes_up_to(kind < 40 ? 16 : 20000);
    const uint64_t at = large ? rng() % (kBytes - n + 1) : rng() % 4096;
    if (kind % 4 < 2 || kind < 30) {
      const uint64_t from = rng() % (kBytes - n + 1);
      ASSERT_EQ(b.buffer_write(buffer, at, data.data() + from, n), MICA_OK);
      std::memcpy(model.data() + at, data.data() + from, n);
    } else if (kind % 4 == 2) {
      ASSERT_EQ(b.buffer_read(buffer, at, got.data(), n), MICA_OK);
      ASSERT_EQ(std::memcmp(got.data(), model.data() + at, n), 0) << i;
    } else if (at + 2 * n <= kBytes) {
      ASSERT_EQ(b.buffer_copy(buffer, at + n, buffer, at, n), MICA_OK);
      std::memcpy(model.data() + at + n, model.data() + at, n);
    }
  }
  ASSERT_EQ(b.buffer_read(buffer, 0, got.data(), kBytes), MICA_OK);
  EXPECT_EQ(got, model);
  EXPECT_EQ(b.buffer_write(buffer, kBytes - 1, data.data(), 2), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(b.buffer_read(buffer, UINT64_MAX, got.data(), 2), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(b.buffer_copy(buffer, 1, buffer, 0, 2), MICA_INVALID_ARGUMENT);
  b.buffer_free(buffer);
  b.device_close(device);
}

TEST_F(CudaBackend, CompilesOnceAndReplays) {
  Context c = make();
  Device d = open(c);
  World w(std::move(c), std::move(d));
  ASSERT_EQ(w.compile(), MICA_OK) << w.error();
  EXPECT_EQ(fake.n_instantiated, 1);
  EXPECT_EQ(fake.n_captured, 2);
  EXPECT_TRUE(has(explain(w.plan), "add.f32.sm_90")) << explain(w.plan);
  const FakeCuda before = fake;
  for (int i = 0; i < 300; ++i) ASSERT_EQ(w.step(static_cast<float>(i)), MICA_OK) << w.error();
  EXPECT_EQ(fake.n_instantiated, 1);
  EXPECT_EQ(fake.n_malloc, before.n_malloc);
  EXPECT_EQ(fake.n_host_alloc, before.n_host_alloc);
  EXPECT_EQ(fake.n_syncs, before.n_syncs);
  EXPECT_EQ(fake.n_launches, before.n_launches + 300);
  EXPECT_EQ(fake.n_scatter, before.n_scatter + 300);  // all inputs of a step at once
  EXPECT_EQ(fake.n_copies, before.n_copies);
  EXPECT_EQ(get(w.session, "x", 32)[5], 299.0f);
}

TEST_F(CudaBackend, OutOfMemoryEndsNothing) {
  Context c = make();
  Device d = open(c);
  World w(std::move(c), std::move(d));
  fake.alloc_error = cudaErrorMemoryAllocation;
  EXPECT_EQ(w.compile(), MICA_OUT_OF_MEMORY);
  EXPECT_TRUE(has(w.error(), "out of memory")) << w.error();
  EXPECT_EQ(fake.last_error, cudaSuccess);
  fake.alloc_error = cudaSuccess;
  ASSERT_EQ(mica_session_allocate(w.session.get()), MICA_OK) << w.error();
  ASSERT_EQ(w.step(1), MICA_OK) << w.error();
  fake.launch_error = cudaErrorMemoryAllocation;
  EXPECT_EQ(w.step(1), MICA_OUT_OF_MEMORY);
  EXPECT_TRUE(has(w.error(), "launch a step")) << w.error();
  fake.launch_error = cudaSuccess;
  EXPECT_EQ(w.step(1), MICA_OK) << w.error();
}

TEST_F(CudaBackend, AFaultLosesItsDeviceOnly) {
  for (const cudaError_t e : {cudaErrorIllegalAddress, cudaErrorLaunchFailure,
                              cudaErrorECCUncorrectable, cudaErrorUnknown}) {
    fake = FakeCuda{};
    Context c0 = make(), c1 = make();
    Device d0 = open(c0, "cuda:0"), d1 = open(c1, "cuda:1");
    World lost(std::move(c0), std::move(d0)), other(std::move(c1), std::move(d1));
    ASSERT_EQ(lost.compile(), MICA_OK);
    ASSERT_EQ(other.compile(), MICA_OK);
    fake.step_fault = e;
    EXPECT_EQ(lost.step(1), MICA_DEVICE_LOST);
    EXPECT_TRUE(has(lost.error(), "device 0 is lost") && has(lost.error(), cudaGetErrorString(e)))
        << lost.error();
    EXPECT_EQ(lost.step(1), MICA_DEVICE_LOST);
    EXPECT_EQ(other.step(1), MICA_OK) << other.error();
    mica_device* again = nullptr;
    Context c2 = make();
    EXPECT_NE(mica_device_open(c2.get(), "cuda:0", &again), MICA_OK);
    EXPECT_EQ(other.step(2), MICA_OK) << other.error();
  }
}

TEST_F(CudaBackend, CancelsASlowStep) {
  volatile int32_t cancel = 0;
  Context c = make(&cancel);
  Device d = open(c);
  World w(std::move(c), std::move(d));
  ASSERT_EQ(w.compile(), MICA_OK);
  fake.queries_until_done = 300;  // some ms: each one beyond the spinning yields
  ASSERT_EQ(w.step(1), MICA_OK) << w.error();
  const std::vector<float> x(32, 1);
  ASSERT_EQ(mica_session_set(w.session.get(), "x", 0, x.data(), 128), MICA_OK);
  ASSERT_EQ(mica_plan_submit(w.plan), MICA_OK);
  cancel = 1;
  EXPECT_EQ(mica_plan_wait(w.plan), MICA_CANCELLED);
  EXPECT_EQ(fake.pending_queries, 0);  // the device is done with it
  EXPECT_EQ(mica_plan_submit(w.plan), MICA_CANCELLED);
  cancel = 0;
  EXPECT_EQ(w.step(1), MICA_OK) << w.error();
}

// Call after call fails, in each of the ways that calls can: always a status with a text, never a
// crash, and nothing is kept.
TEST_F(CudaBackend, SurvivesEveryFailingCall) {
  const auto whole_run = [](std::string& text) {
    Context c = make();
    mica_device* d = nullptr;
    mica_status status = mica_device_open(c.get(), "cuda", &d);
    if (status != MICA_OK) {
      text = mica_context_error(c.get());
      return status;
    }
    World w(std::move(c), Device(d));
    status = w.compile();
    if (status == MICA_OK) status = w.step(1);
    float y[32];
    if (status == MICA_OK) status = mica_plan_read(w.plan, "y", 0, y, sizeof y);
    text = w.error();
    return status;
  };
  std::string text;
  ASSERT_EQ(whole_run(text), MICA_OK) << text;
  const int64_t n_calls = fake.calls;
  EXPECT_GT(n_calls, 20);
  for (const cudaError_t e :
       {cudaErrorMemoryAllocation, cudaErrorInvalidValue, cudaErrorIllegalAddress}) {
    int64_t n_failed = 0;
    for (int64_t i = 0; i < n_calls; ++i) {
      fake = FakeCuda{};
      fake.fail_with = e;
      fake.fail_call = i;
      const mica_status status = whole_run(text);
      if (status != MICA_OK) {
        ++n_failed;
        EXPECT_FALSE(text.empty()) << i;
      }
      EXPECT_EQ(fake.last_error, cudaSuccess) << i;
      expect_all_returned();
    }
    EXPECT_GT(n_failed, n_calls / 2);  // those that fail unnoticed give things back
  }
}

}  // namespace
