// Weights that one context loaded and others use, each in a thread of its own, with fallback: what
// is immutable is shared, the loading context's device is not. Under tsan this is the check that
// nothing but weights is.
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "core/base/device.h"
#include "core/graph/op.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

// What a GPU's device has for unpacking (a stream, staging memory) is for one thread at a time.
// This stands in for it: each device's counter is found under a lock and counted up without one.
std::mutex mutex;
std::map<mica_b_device*, int> n_unpacks;
int& unpacks_of(mica_b_device* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  return n_unpacks[device];
}

// cpu without matmul, under another name; counts what its devices unpack.
const mica_backend* lacking_backend() {
  static const mica_backend table = [] {
    mica_backend b = *mica_backend_cpu();
    b.name = "lacking";
    b.supports = [](mica_b_device* device, const mica_b_partition* p, uint32_t node, char* reason,
                    size_t capacity) {
      if (p->nodes[node].op != MICA_OP_matmul)
        return mica_backend_cpu()->supports(device, p, node, reason, capacity);
      mica::Writer(reason, capacity).put("it has no matmul");
      return MICA_UNSUPPORTED;
    };
    b.claims = [](mica_b_device*, const mica_b_partition*, uint32_t, char* reason, size_t n) {
      mica::Writer(reason, n).put("it claims nothing");
      return MICA_UNSUPPORTED;
    };
    b.weight_unpack = [](mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                         void* rows, uint64_t first, uint64_t n) {
      ++unpacks_of(device);
      return mica_backend_cpu()->weight_unpack(device, weight, buffer, rows, first, n);
    };
    b.device_close = [](mica_b_device* device) {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        n_unpacks.erase(device);
      }
      mica_backend_cpu()->device_close(device);
    };
    return b;
  }();
  return &table;
}

// Rows enough that two threads share the unpacking.
constexpr int64_t kIn = 512, kOut = 2048;

struct World {
  World() {
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.n_threads = 2;
    context = make_context(&params);
    EXPECT_EQ(mica_context_add_backend(context.get(), lacking_backend()), MICA_OK);
    device = open_device(context, "lacking");
    backup = open_device(context, "cpu");
  }
  // What a plan of this context with matmul on the fallback device makes of x.
  std::vector<float> run(mica_weights* weights, const std::vector<float>& x) const {
    const Graph g = make_graph(context);
    const mica_tensor in = input(g.get(), "x", {kIn, 2});
    const mica_tensor h = mica_matmul(g.get(), mica_weight(g.get(), weights, "w"), in);
    mica_output(g.get(), mica_silu(g.get(), h), "y");
    const Session session = make_session(device, nullptr, false, {backup.get()});
    mica_plan* plan = ready(context, session, g);
    if (plan == nullptr) return {};
    set(session, "x", x);
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context.get());
    return read(plan, "y", kOut * 2);
  }
  Context context;
  Device device, backup;
};

class SharedWeightsTest : public testing::Test {
 protected:
  SharedWeightsTest() : rows_(kIn / 32 * 18 * kOut), back_(rows_.size()) {
    const int64_t dim[] = {kIn, kOut};
    const std::vector<float> values = randoms(kIn * kOut, 1);
    EXPECT_EQ(mica_dtype_encode(MICA_Q4_0, values.data(), rows_.data(), values.size()), MICA_OK);
    mica_weights* w = nullptr;
    EXPECT_EQ(mica_weights_create(loader_.device.get(), &w), MICA_OK);
    weights_.reset(w);
    EXPECT_EQ(mica_weights_describe(w, "w", MICA_Q4_0, 2, dim), MICA_OK);
    const mica_weight_source source = {
        rows_.data(),
        [](void* user, uint32_t, uint64_t offset, uint64_t, void*, const void** out) {
          *out = static_cast<unsigned char*>(user) + offset;
          return MICA_OK;
        },
        nullptr};
    EXPECT_EQ(mica_weights_load(w, &source), MICA_OK);
  }
  World loader_;
  std::vector<unsigned char> rows_, back_;
  Weights weights_;
};

TEST_F(SharedWeightsTest, FallbackUnpacksThroughTheSessionsDevice) {
  const World other;
  EXPECT_FALSE(other.run(weights_.get(), randoms(kIn * 2, 2)).empty());
  EXPECT_EQ(unpacks_of(loader_.device->handle), 0);
  EXPECT_GT(unpacks_of(other.device->handle), 0);
}

TEST_F(SharedWeightsTest, ContextsInThreadsDoNotMeet) {
  const std::vector<float> x = randoms(kIn * 2, 3);
  const std::vector<float> want = loader_.run(weights_.get(), x);
  ASSERT_EQ(want.size(), size_t{kOut * 2});
  std::atomic<int> n_wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      const World own;
      for (int round = 0; round < 3; ++round) n_wrong += own.run(weights_.get(), x) != want;
    });
  // The loading context is at work all the while.
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(mica_weights_read(weights_.get(), "w", back_.data(), back_.size()), MICA_OK);
    EXPECT_EQ(back_, rows_);
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(n_wrong, 0);
}

}  // namespace
