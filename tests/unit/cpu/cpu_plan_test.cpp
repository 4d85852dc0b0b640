// The CPU backend through its table of functions, with partitions made by hand: stages and
// barriers, live extents, several plans in flight, cancelling, and no allocation while running.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "mica/backend.h"
#include "ops/unary_args.h"

namespace {

std::atomic<int64_t> g_allocations{0};

void* counted_alloc(void*, size_t bytes, size_t align) {
  g_allocations.fetch_add(1);
  void* p = nullptr;
  if (posix_memalign(&p, align < 16 ? 16 : align, bytes) != 0) return nullptr;
  std::memset(p, 0xff, bytes);  // buffers must be zeroed by the backend
  return p;
}
void counted_free(void*, void* p, size_t) { std::free(p); }
const mica_allocator kAllocator = {nullptr, counted_alloc, counted_free};

struct Device {
  explicit Device(uint32_t n_threads, const char* option = "") {
    host.struct_size = sizeof host;
    host.user = this;
    host.allocator = &kAllocator;
    host.n_threads = n_threads;
    host.cancel = &cancel;
    host.set_error = [](void* user, mica_status, const char* text) {
      static_cast<Device*>(user)->error = text;
    };
    status = backend->device_open(&host, option, &device);
  }
  ~Device() { backend->device_close(device); }

  const mica_backend* backend = mica_backend_cpu();
  mica_host host{};
  volatile int32_t cancel = 0;
  std::string error;
  mica_status status = MICA_OK;
  mica_b_device* device = nullptr;
};

// n_steps times: x = x * 1 + 1, with a second, independent chain beside it when `wide`.
class Chain {
 public:
  Chain(Device& d, int64_t n_columns, int64_t n_rows, uint32_t n_steps, bool wide)
      : device_(d), columns_(n_columns), rows_(n_rows) {
    const uint64_t bytes = static_cast<uint64_t>(n_columns * n_rows) * 4;
    const uint32_t lanes = wide ? 2 : 1;
    extent_.push_back({n_rows, 0});
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      for (uint32_t i = 0; i <= n_steps; ++i) add_value((lane * 2 + i % 2) * bytes, bytes);
    }
    for (uint32_t i = 0; i < n_steps; ++i) {
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        mica_b_node node{};
        node.op = MICA_OP_scale;
        node.n_inputs = 1;
        node.input[0] = lane * (n_steps + 1) + i;
        node.output = node.input[0] + 1;
        node.args_size = sizeof args_;
        node.args = &args_;
        node.name = "chain";
        mica_b_unit unit{};
        unit.node = static_cast<uint32_t>(nodes_.size());
        unit.region = MICA_B_NONE;
        unit.barrier = lane == 0 ? 1 : 0;
        nodes_.push_back(node);
        units_.push_back(unit);
      }
    }
    partition_.struct_size = sizeof partition_;
    partition_.n_values = static_cast<uint32_t>(values_.size());
    partition_.values = values_.data();
    partition_.n_nodes = static_cast<uint32_t>(nodes_.size());
    partition_.nodes = nodes_.data();
    partition_.n_units = static_cast<uint32_t>(units_.size());
    partition_.units = units_.data();
    partition_.n_extents = 1;
    partition_.extents = extent_.data();
    partition_.n_buffers = 2;
    EXPECT_EQ(d.backend->buffer_create(d.device, 4 * bytes, &buffers_[0]), MICA_OK);
    EXPECT_EQ(d.backend->buffer_create(d.device, 64, &buffers_[1]), MICA_OK);
    EXPECT_EQ(d.backend->compile(d.device, &partition_, buffers_, &plan_), MICA_OK) << d.error;
    result_ = (n_steps % 2) * bytes;
    other_ = 2 * bytes + result_;
    set_live(static_cast<int32_t>(n_rows));
  }
  ~Chain() {
    device_.backend->plan_release(plan_);
    device_.backend->buffer_free(buffers_[0]);
    device_.backend->buffer_free(buffers_[1]);
  }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  void set_live(int32_t n) {
    ASSERT_EQ(device_.backend->buffer_write(buffers_[1], 0, &n, sizeof n), MICA_OK);
  }
  float* data() { return static_cast<float*>(device_.backend->buffer_map(buffers_[0])); }
  float* result() { return data() + result_ / 4; }
  float* other_result() { return data() + other_ / 4; }
  mica_status submit() { return device_.backend->submit(plan_); }
  mica_status wait() { return device_.backend->wait(plan_); }
  mica_status run() {
    const mica_status status = submit();
    return status == MICA_OK ? wait() : status;
  }
  int64_t elements(int64_t n_rows) const { return columns_ * n_rows; }

 private:
  void add_value(uint64_t offset, uint64_t bytes) {
    mica_b_value v{};
    v.dtype = MICA_F32;
    v.rank = 2;
    v.dim[0] = columns_;
    v.dim[1] = rows_;
    v.dim[2] = v.dim[3] = 1;
    v.stride[0] = 4;
    v.stride[1] = 4 * columns_;
    v.stride[2] = v.stride[3] = v.stride[1] * rows_;
    v.storage = MICA_B_TEMP;
    v.offset = offset;
    v.bytes = bytes;
    values_.push_back(v);
  }

  Device& device_;
  int64_t columns_, rows_;
  mica_scale_args args_ = {1.0f, 1.0f};
  std::vector<mica_b_value> values_;
  std::vector<mica_b_node> nodes_;
  std::vector<mica_b_unit> units_;
  std::vector<mica_b_extent> extent_;
  mica_b_partition partition_{};
  mica_b_buffer* buffers_[2] = {};
  mica_b_plan* plan_ = nullptr;
  uint64_t result_ = 0, other_ = 0;
};

TEST(CpuDevice, OpensEveryInstructionSetOrSaysWhy) {
  for (const char* isa : {"plain", "avx2", "avx512"}) {
    Device d(1, isa);
    if (d.status == MICA_OK) continue;
    EXPECT_EQ(d.status, MICA_NO_DEVICE);
    EXPECT_NE(d.error.find(isa), std::string::npos) << d.error;
  }
  Device unknown(1, "sse9");
  EXPECT_EQ(unknown.status, MICA_NOT_FOUND);
  EXPECT_NE(unknown.error.find("avx512"), std::string::npos) << unknown.error;
}

TEST(CpuDevice, EnvironmentForcesAnInstructionSet) {
  ::setenv("MICA_CPU_ISA", "sse9", 1);
  EXPECT_EQ(Device(1).status, MICA_NOT_FOUND);
  EXPECT_EQ(Device(1, "plain").status, MICA_OK);  // the option comes first
  ::setenv("MICA_CPU_ISA", "plain", 1);
  mica_device_info info{};
  Device d(1);
  ASSERT_EQ(d.status, MICA_OK);
  ASSERT_EQ(d.backend->device_info(&d.host, 0, &info), MICA_OK);
  ::unsetenv("MICA_CPU_ISA");
  EXPECT_NE(std::strstr(info.name, ", plain"), nullptr) << info.name;
}

TEST(CpuDevice, BuffersAreZeroedAndChecked) {
  Device d(1);
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{1000}, uint64_t{3} << 20}) {
    mica_b_buffer* buffer = nullptr;
    ASSERT_EQ(d.backend->buffer_create(d.device, bytes, &buffer), MICA_OK);
    const char* p = static_cast<const char*>(d.backend->buffer_map(buffer));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 256, 0u);
    EXPECT_TRUE(std::all_of(p, p + bytes, [](char c) { return c == 0; }));
    char x = 1;
    EXPECT_EQ(d.backend->buffer_write(buffer, bytes, &x, 1), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(d.backend->buffer_read(buffer, UINT64_MAX, &x, 1), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(d.backend->buffer_write(buffer, bytes - 1, &x, 1), MICA_OK);
    d.backend->buffer_free(buffer);
  }
  mica_b_buffer* none = nullptr;
  EXPECT_EQ(d.backend->buffer_create(d.device, UINT64_MAX, &none), MICA_OUT_OF_MEMORY);
}

TEST(CpuPlan, StagesRunInOrder) {
  for (const uint32_t n_threads : {1u, 2u, 5u}) {
    Device d(n_threads);
    Chain chain(d, 300, 40, 64, true);
    for (int step = 0; step < 50; ++step) {
      std::memset(chain.data(), 0, static_cast<size_t>(chain.elements(40)) * 16);
      ASSERT_EQ(chain.run(), MICA_OK);
      const int64_t n = chain.elements(40);
      ASSERT_EQ(std::count(chain.result(), chain.result() + n, 64.0f), n);
      ASSERT_EQ(std::count(chain.other_result(), chain.other_result() + n, 64.0f), n);
    }
  }
}

TEST(CpuPlan, OnlyLiveRowsAreWritten) {
  Device d(3);
  Chain chain(d, 70, 32, 9, false);
  for (const int32_t live : {1, 32, 0, 7, 31, 2}) {
    std::fill_n(chain.data(), chain.elements(32) * 2, -5.0f);
    chain.set_live(live);
    ASSERT_EQ(chain.run(), MICA_OK);
    for (int64_t i = 0; i < chain.elements(32); ++i) {
      ASSERT_EQ(chain.result()[i], i < chain.elements(live) ? 4.0f : -5.0f) << live << " " << i;
    }
  }
  chain.set_live(33);
  EXPECT_EQ(chain.run(), MICA_INVALID_ARGUMENT);
  chain.set_live(-1);
  EXPECT_EQ(chain.run(), MICA_INVALID_ARGUMENT);
  chain.set_live(3);
  EXPECT_EQ(chain.run(), MICA_OK);
}

// Steps of two plans in turn and interleaved; threads that come late belong to neither any more.
TEST(CpuPlan, PlansInterleave) {
  Device d(4);
  Chain a(d, 33, 8, 40, false), b(d, 500, 3, 31, true);
  for (int step = 0; step < 400; ++step) {
    a.data()[0] = b.data()[0] = static_cast<float>(step);
    ASSERT_EQ(a.submit(), MICA_OK);
    ASSERT_EQ(a.submit(), MICA_BUSY);
    ASSERT_EQ(b.submit(), MICA_OK);
    ASSERT_EQ(a.wait(), MICA_OK);
    ASSERT_EQ(b.wait(), MICA_OK);
    ASSERT_EQ(a.result()[0], static_cast<float>(step + 40));
    ASSERT_EQ(b.result()[0], static_cast<float>(step + 31));
  }
}

TEST(CpuPlan, ReleaseWhileThreadsLeave) {
  Device d(4);
  for (int round = 0; round < 200; ++round) {
    Chain chain(d, 64, 4, 3, false);
    ASSERT_EQ(chain.run(), MICA_OK);
  }
}

TEST(CpuPlan, RunningAllocatesNothing) {
  Device d(3);
  Chain chain(d, 300, 40, 16, true);
  ASSERT_EQ(chain.run(), MICA_OK);
  const int64_t before = g_allocations.load();
  for (int step = 0; step < 20; ++step) ASSERT_EQ(chain.run(), MICA_OK);
  EXPECT_EQ(g_allocations.load(), before);
}

TEST(CpuPlan, CancelReturnsSoon) {
  Device d(2);
  Chain chain(d, 100000, 16, 2000, false);  // seconds of work
  using Clock = std::chrono::steady_clock;
  Clock::time_point cancelled;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    cancelled = Clock::now();
    __atomic_store_n(&d.cancel, 1, __ATOMIC_RELAXED);
  });
  const mica_status status = chain.run();
  const auto returned = Clock::now();
  other.join();
  EXPECT_EQ(status, MICA_CANCELLED);
  EXPECT_LT(std::chrono::duration<double>(returned - cancelled).count(), 0.05);
  EXPECT_EQ(chain.run(), MICA_CANCELLED);  // the flag is still set
  d.cancel = 0;
  chain.set_live(1);
  chain.data()[0] = 1;
  EXPECT_EQ(chain.run(), MICA_OK);
  EXPECT_EQ(chain.result()[0], 2001.0f);
}

}  // namespace
