// The CUDA backend on the fake runtime: contexts, devices, and a small session on it.
#pragma once
#include "tests/unit/world.h"
// behind gtest
#include "tests/unit/cuda/cuda_fake.h"

namespace mica::test {

class CudaBackend : public testing::Test {
 protected:
  CudaBackend() { fake = FakeCuda{}; }
  ~CudaBackend() override {
    if (fake.fault.empty() && fake.fail_call < 0) expect_all_returned();
  }
  static void expect_all_returned() {
    EXPECT_TRUE(fake.memory.empty()) << fake.memory.size();
    EXPECT_TRUE(fake.pinned.empty()) << fake.pinned.size();
    EXPECT_TRUE(fake.handles.empty()) << fake.handles.size();
  }
  static Context make(const volatile int32_t* cancel = nullptr, uint64_t budget_bytes = 0) {
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.cancel = cancel;
    params.memory_budget_bytes = budget_bytes;
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
struct CudaWorld {
  CudaWorld(Context c, Device d) : context(std::move(c)), device(std::move(d)) {
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

}  // namespace mica::test
