// What a device has free is asked before memory is taken; and weights that a device makes itself.
#include <set>

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/plan/tiny_session.h"

namespace {

using namespace mica::test;

// ref, seen as a device with memory of its own that fills weights with a pattern.
struct SmallState {
  uint64_t free_bytes = 0, taken_bytes = 0;
  bool is_cpu = false;
  std::vector<uint64_t> seeds;
  mica_status random_status = MICA_OK;
  uint64_t reserve_once = 0, reserve_plan = 0;
};
SmallState small;

const mica_backend* small_backend() {
  static mica_backend table;
  table = *mica_backend_ref();
  small = {};
  table.name = "small";
  table.device_state = [](mica_b_device* device, mica_device_info* out) {
    const mica_status status = mica_backend_ref()->device_state(device, out);
    out->is_cpu = small.is_cpu ? 1 : 0;
    out->free_bytes = small.free_bytes;
    return status;
  };
  table.buffer_create = [](mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
    small.taken_bytes += bytes;
    return mica_backend_ref()->buffer_create(device, bytes, out);
  };
  table.weight_random = [](mica_b_device* device, const mica_b_value* w, mica_b_buffer* buffer,
                           uint64_t seed) {
    small.seeds.push_back(seed);
    if (small.random_status != MICA_OK) return small.random_status;
    const auto rows = static_cast<uint64_t>(w->dim[1] * w->dim[2] * w->dim[3]);
    const std::vector<float> ones(static_cast<size_t>(w->dim[0]) * rows, 1.0f);
    return mica_backend_ref()->weight_pack(device, w, buffer, ones.data(), 0, rows);
  };
  table.reserve = [](mica_b_device*, const mica_b_partition* partition) {
    return partition == nullptr ? small.reserve_once : small.reserve_plan;
  };
  return &table;
}

class DeviceMemory : public testing::Test {
 protected:
  DeviceMemory() {
    EXPECT_EQ(mica_context_add_backend(context.get(), small_backend()), MICA_OK);
    device = open_device(context, "small");
  }
  std::string error() const { return mica_context_error(context.get()); }
  Weights described() {
    mica_weights* w = nullptr;
    EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
    const int64_t matrix[] = {64, 32}, vector[] = {64};
    EXPECT_EQ(mica_weights_describe(w, "a", MICA_F32, 2, matrix), MICA_OK);
    EXPECT_EQ(mica_weights_describe(w, "norm", MICA_F32, 1, vector), MICA_OK);
    EXPECT_EQ(mica_weights_describe(w, "b", MICA_F32, 2, matrix), MICA_OK);
    return Weights(w);
  }
  std::vector<float> first_of(const Weights& w, const char* name, size_t n) {
    std::vector<float> v(n);
    EXPECT_EQ(mica_weights_read(w.get(), name, v.data(), n * 4), MICA_OK) << error();
    return v;
  }
  // Everything is 7.
  struct Sevens {
    std::set<uint32_t> read;
    std::vector<float> data = std::vector<float>(64 * 32, 7.0f);
    uint64_t done = 0, total = 0;
    mica_weight_source source = {
        this,
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          auto* s = static_cast<Sevens*>(user);
          s->read.insert(i);
          *out = reinterpret_cast<const char*>(s->data.data()) + offset;
          return MICA_OK;
        },
        [](void* user, uint64_t n_done, uint64_t n_total) {
          auto* s = static_cast<Sevens*>(user);
          s->done = n_done;
          s->total = n_total;
          return 0;
        }};
  };
  Context context = make_context();
  Device device;
};

TEST_F(DeviceMemory, InfoIsAsOfNow) {
  mica_device_info info{};
  small.free_bytes = 1000;
  ASSERT_EQ(mica_device_get_info(device.get(), &info), MICA_OK);
  EXPECT_EQ(info.free_bytes, 1000u);
  EXPECT_STREQ(info.backend, "small");
  small.free_bytes = 10;
  ASSERT_EQ(mica_device_get_info(device.get(), &info), MICA_OK);
  EXPECT_EQ(info.free_bytes, 10u);
}

TEST_F(DeviceMemory, WeightsThatDoNotFitAreRefusedFirst) {
  const Weights w = described();
  Sevens sevens;
  small.free_bytes = mica_weights_bytes(w.get()) - 1;
  EXPECT_EQ(mica_weights_load(w.get(), &sevens.source), MICA_OVER_BUDGET);
  EXPECT_EQ(error(),
            "the weights need 16.3 KiB, small has 16.2 KiB free; take a smaller model, or one of "
            "fewer bits");
  EXPECT_EQ(small.taken_bytes, 0u);
  EXPECT_TRUE(sevens.read.empty());
  small.free_bytes += 1;
  EXPECT_EQ(mica_weights_load(w.get(), &sevens.source), MICA_OK) << error();
}

TEST_F(DeviceMemory, SessionsThatDoNotFitAreRefusedFirst) {
  const TinyModel model({});
  const Weights weights = load_tiny(context, device, model);
  mica_kv_cache* c = nullptr;
  ASSERT_EQ(model.make_cache(device.get(), &c), MICA_OK);
  const Cache cache(c);
  const Session session = make_session(device, c);
  const Graph g = make_graph(context);
  model.build(g.get(), weights.get(), c, 8);
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  ASSERT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK) << error();
  mica_memory need{};
  ASSERT_EQ(mica_session_memory(session.get(), &need), MICA_OK);
  const uint64_t before = small.taken_bytes;
  const uint64_t more = need.kv_bytes + need.activations_bytes + need.step_bytes;
  small.free_bytes = more - 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OVER_BUDGET);
  EXPECT_TRUE(has(error(), "the session needs ") && has(error(), " beside the weights (weights ") &&
              has(error(), ", small has ") &&
              has(error(), " free; lower the context, the batch or the KV dtype"))
      << error();
  EXPECT_EQ(small.taken_bytes, before);
  small.is_cpu = true;  // there, the system lends more than is free
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
  EXPECT_EQ(small.taken_bytes, before + more);
  // Another plan needs what it adds: no cache again.
  small.is_cpu = false;
  const Graph larger = make_graph(context);
  model.build(larger.get(), weights.get(), c, 16);
  mica_graph* const more_graphs[] = {larger.get()};
  ASSERT_EQ(mica_session_compile(session.get(), 1, more_graphs, &plan), MICA_OK) << error();
  mica_memory now{};
  ASSERT_EQ(mica_session_memory(session.get(), &now), MICA_OK);
  small.free_bytes = now.activations_bytes - need.activations_bytes + now.step_bytes;
  small.free_bytes -= 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OVER_BUDGET);
  small.free_bytes += 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
}

// What the driver takes beside buffers: a part once, a part for each plan, anew at each allocate.
TEST_F(DeviceMemory, TheDriversShareIsCounted) {
  small.reserve_once = 5000, small.reserve_plan = 300;
  const Session session = make_session(device);
  mica_memory need{};
  ASSERT_EQ(mica_session_memory(session.get(), &need), MICA_OK);
  EXPECT_EQ(need.reserve_bytes, 0u);
  std::vector<Graph> graphs;
  mica_plan* plan = nullptr;
  const auto add_plan = [&](const char* name) {
    graphs.push_back(make_graph(context));
    mica_graph* g = graphs.back().get();
    mica_output(g, mica_silu(g, input(g, name, {32, 4})), "y");
    EXPECT_EQ(mica_session_compile(session.get(), 1, &g, &plan), MICA_OK) << error();
    EXPECT_EQ(mica_session_memory(session.get(), &need), MICA_OK);
  };
  add_plan("a");
  add_plan("b");
  EXPECT_EQ(need.reserve_bytes, 5600u);
  EXPECT_EQ(need.total_bytes, need.activations_bytes + need.step_bytes + 5600);
  small.free_bytes = need.total_bytes - 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OVER_BUDGET);
  EXPECT_TRUE(has(error(), ", reserve 5.5 KiB)")) << error();
  small.free_bytes += 1;
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
  const uint64_t before = need.activations_bytes;
  add_plan("c");
  EXPECT_EQ(need.reserve_bytes, 5900u);
  small.free_bytes = need.activations_bytes - before + need.step_bytes + 900 - 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OVER_BUDGET);
  small.free_bytes += 1;
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
}

TEST_F(DeviceMemory, MatricesAreMadeByTheDevice) {
  const Weights w = described();
  Sevens sevens;
  ASSERT_EQ(mica_weights_load_random(w.get(), &sevens.source, 50), MICA_OK) << error();
  EXPECT_EQ(small.seeds, (std::vector<uint64_t>{50, 52}));
  EXPECT_EQ(sevens.read, std::set<uint32_t>{1});
  EXPECT_EQ(sevens.done, sevens.total);
  EXPECT_EQ(first_of(w, "a", 64 * 32), std::vector<float>(64 * 32, 1.0f));
  EXPECT_EQ(first_of(w, "norm", 64), std::vector<float>(64, 7.0f));
  EXPECT_EQ(mica_weights_load_random(w.get(), &sevens.source, 50), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_load_random(w.get(), nullptr, 50), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_load_random(nullptr, &sevens.source, 50), MICA_INVALID_ARGUMENT);
}

TEST_F(DeviceMemory, WhatTheDeviceCannotMakeIsRead) {
  Sevens sevens;
  small.random_status = MICA_UNSUPPORTED;
  const Weights w = described();
  ASSERT_EQ(mica_weights_load_random(w.get(), &sevens.source, 1), MICA_OK) << error();
  EXPECT_EQ(first_of(w, "b", 64 * 32), std::vector<float>(64 * 32, 7.0f));
  small.random_status = MICA_DEVICE_LOST;
  const Weights lost = described();
  EXPECT_EQ(mica_weights_load_random(lost.get(), &sevens.source, 1), MICA_DEVICE_LOST);
  EXPECT_EQ(mica_weights_is_loaded(lost.get()), 0);
  device = open_device(context, "ref");  // has no such function
  const Weights plain = described();
  sevens.read.clear();
  ASSERT_EQ(mica_weights_load_random(plain.get(), &sevens.source, 1), MICA_OK) << error();
  EXPECT_EQ(sevens.read.size(), 3u);
  mica_weight_source none{};
  EXPECT_EQ(mica_weights_load_random(described().get(), &none, 1), MICA_INVALID_ARGUMENT);
}

}  // namespace
