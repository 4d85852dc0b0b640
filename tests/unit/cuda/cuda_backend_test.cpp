// The CUDA backend's host side on a runtime of the test's own: what it asks the device to do; and,
// on the real one, a machine without a driver.
#include <thread>

#include "core/base/device.h"
#include "tests/unit/cuda/cuda_world.h"

namespace {

using namespace mica;
using namespace mica::test;

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
  EXPECT_EQ(info.free_bytes, 512u << 20);
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
  CudaWorld w(std::move(c), std::move(d));
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

// Code and recordings are no buffers; the check before allocating counts them.
TEST_F(CudaBackend, ReservesWhatTheDriverTakes) {
  Context c = make();
  Device d = open(c);
  CudaWorld w(std::move(c), std::move(d));
  ASSERT_EQ(mica_session_allocate(w.session.get()), MICA_OK);
  mica_graph* const graphs[] = {w.graph.get()};
  ASSERT_EQ(mica_session_compile(w.session.get(), 1, graphs, &w.plan), MICA_OK) << w.error();
  mica_memory need{};
  ASSERT_EQ(mica_session_memory(w.session.get(), &need), MICA_OK);
  EXPECT_GT(need.reserve_bytes, 32u << 20);
  EXPECT_EQ(need.total_bytes, need.activations_bytes + need.step_bytes + need.reserve_bytes);
  const int64_t n_malloc = fake.n_malloc;
  fake.free_bytes = need.total_bytes - 1;
  EXPECT_EQ(mica_session_allocate(w.session.get()), MICA_OVER_BUDGET);
  EXPECT_TRUE(has(w.error(), ", reserve ") && has(w.error(), ", cuda has ")) << w.error();
  EXPECT_EQ(fake.n_malloc, n_malloc);
  fake.free_bytes = need.total_bytes;
  EXPECT_EQ(mica_session_allocate(w.session.get()), MICA_OK) << w.error();
}

TEST_F(CudaBackend, OutOfMemoryEndsNothing) {
  Context c = make();
  Device d = open(c);
  CudaWorld w(std::move(c), std::move(d));
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

// Small writes are told to be done before the device has them.
TEST_F(CudaBackend, WhatWaitsSurvivesAFailure) {
  Context c = make();
  Device d = open(c);
  CudaWorld w(std::move(c), std::move(d));
  ASSERT_EQ(w.compile(), MICA_OK) << w.error();
  ASSERT_EQ(w.step(1), MICA_OK) << w.error();
  ASSERT_EQ(mica_session_set(w.session.get(), "x", 0, std::vector<float>(32, 5).data(), 128),
            MICA_OK);
  fake.fail_call = fake.calls;
  fake.fail_with = cudaErrorMemoryAllocation;
  EXPECT_EQ(mica_plan_run(w.plan), MICA_OUT_OF_MEMORY);
  EXPECT_TRUE(has(w.error(), "write inputs")) << w.error();
  fake.fail_call = -1;
  ASSERT_EQ(mica_plan_run(w.plan), MICA_OK) << w.error();
  EXPECT_EQ(get(w.session, "x", 32)[5], 5.0f);
}

TEST_F(CudaBackend, WhatWaitsForAFreedBufferIsDropped) {
  const Context c = make();
  const Device d = open(c);
  const mica_backend& b = *fake_cuda_backend();
  mica_b_buffer *freed = nullptr, *kept = nullptr;
  ASSERT_EQ(b.buffer_create(d->handle, 64, &freed), MICA_OK);
  ASSERT_EQ(b.buffer_create(d->handle, 64, &kept), MICA_OK);
  const float value = 3;
  float out = 0;
  ASSERT_EQ(b.buffer_write(freed, 0, &value, 4), MICA_OK);
  b.buffer_free(freed);
  EXPECT_EQ(fake.n_scatter, 0);
  ASSERT_EQ(b.buffer_read(kept, 0, &out, 4), MICA_OK);
  EXPECT_EQ(fake.n_scatter, 0);  // nothing waits
  ASSERT_EQ(b.buffer_create(d->handle, 64, &freed), MICA_OK);
  ASSERT_EQ(b.buffer_write(kept, 0, &value, 4), MICA_OK);
  ASSERT_EQ(b.buffer_write(freed, 0, &value, 4), MICA_OK);
  b.buffer_free(freed);
  ASSERT_EQ(b.buffer_read(kept, 0, &out, 4), MICA_OK);
  EXPECT_EQ(fake.n_scatter, 1);
  EXPECT_EQ(out, 3);
  b.buffer_free(kept);
}

TEST_F(CudaBackend, AFaultLosesItsDeviceOnly) {
  for (const cudaError_t e : {cudaErrorIllegalAddress, cudaErrorLaunchFailure,
                              cudaErrorECCUncorrectable, cudaErrorUnknown}) {
    fake = FakeCuda{};
    Context c0 = make(), c1 = make();
    Device d0 = open(c0, "cuda:0"), d1 = open(c1, "cuda:1");
    CudaWorld lost(std::move(c0), std::move(d0)), other(std::move(c1), std::move(d1));
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

// Through a device of its own, behind what the loading context's stream still writes.
TEST_F(CudaBackend, UnpacksWhatAnotherContextLoaded) {
  const Context c0 = make(), c1 = make();
  const Device owner = open(c0), other = open(c1);
  const mica_backend& b = *owner->backend;
  mica_b_value w{MICA_F32, 2, {8, 4, 1, 1}, {4, 32, 128, 128}, MICA_B_NONE, MICA_B_WEIGHT, 0, 0,
                 0,        0};
  uint32_t granule = 0;
  ASSERT_EQ(b.weight_layout(owner->handle, &w, &w.layout, &w.bytes, &granule), MICA_OK);
  mica_b_buffer* buffer = nullptr;
  ASSERT_EQ(b.buffer_create(owner->handle, w.bytes, &buffer), MICA_OK);
  const std::vector<float> rows = randoms(32, 1);
  ASSERT_EQ(b.weight_pack(owner->handle, &w, buffer, rows.data(), 0, 4), MICA_OK);
  int64_t n_syncs[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t before = fake.n_syncs;
    std::vector<float> back(32);
    mica_b_device* device = i == 0 ? owner->handle : other->handle;
    ASSERT_EQ(b.weight_unpack(device, &w, buffer, back.data(), 0, 4), MICA_OK);
    EXPECT_EQ(back, rows);
    n_syncs[i] = fake.n_syncs - before;
  }
  EXPECT_EQ(n_syncs[1], n_syncs[0] + 1);
  b.buffer_free(buffer);
}

}  // namespace
