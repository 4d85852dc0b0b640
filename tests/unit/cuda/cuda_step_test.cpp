// Steps on the CUDA backend: how work is cut into parts, cancelling between two of them, and what a
// cancelled step leaves behind.
#include "core/base/device.h"
#include "tests/unit/cuda/cuda_world.h"
#include "tests/unit/plan/tiny_session.h"

namespace {

using namespace mica;
using namespace mica::test;

class CudaStep : public CudaBackend {
 protected:
  // From now on every unit is a part of its own.
  static void cut_everywhere(const Device& d) {
    static_cast<cuda::Device*>(d->handle)->part_work = 1;
  }
};

// Six products of 2048 x 2048 with n rows, one after the other: 2^22 multiplications a row each.
struct Products {
  Products(const Context& c, const Device& d, int64_t n) : graph(make_graph(c)) {
    mica_graph* g = graph.get();
    const mica_tensor w = input(g, "w", {2048, 2048}, {}, MICA_F16);
    mica_tensor x = input(g, "x", {2048, n});
    for (int i = 0; i < 6; ++i) x = mica_matmul(g, w, x);
    mica_output(g, x, "y");
    session = make_session(d);
    plan = ready(c, session, graph);
  }
  Graph graph;
  Session session;
  mica_plan* plan;
};

// What a step is launched as; a multiprocessor's share is 8e9 multiplications, the fake has one.
TEST_F(CudaStep, IsCutWhereItCanBeCancelled) {
  volatile int32_t cancel = 0;
  fake.n_sms = 1;
  const auto launches = [](const volatile int32_t* flag, int64_t n) {
    const Context c = make(flag);
    const Device d = open(c);
    const Products p(c, d, n);
    const int64_t instantiated = fake.n_instantiated;
    int64_t n_first = 0;
    for (int i = 0; i < 2; ++i) {  // the same each time
      const int64_t before = fake.n_launches;
      EXPECT_EQ(mica_plan_run(p.plan), MICA_OK) << mica_context_error(c.get());
      if (i == 0) n_first = fake.n_launches - before;
      EXPECT_EQ(fake.n_launches - before, n_first);
    }
    EXPECT_EQ(fake.n_instantiated, instantiated);
    return n_first;
  };
  EXPECT_EQ(launches(&cancel, 1024), 6);  // 4.3e9 each: no two fit
  EXPECT_EQ(launches(&cancel, 512), 3);   // two fit
  EXPECT_EQ(launches(&cancel, 8), 1);     // a token costs one launch
  EXPECT_EQ(launches(nullptr, 1024), 1);
  fake.n_sms = 132;
  EXPECT_EQ(launches(&cancel, 1024), 1);
}

TEST_F(CudaStep, StopsBetweenTwoParts) {
  volatile int32_t cancel = 0;
  const Context c = make(&cancel);
  const Device d = open(c);
  cut_everywhere(d);
  const Products p(c, d, 4);
  const int64_t before = fake.n_launches;
  ASSERT_EQ(mica_plan_submit(p.plan), MICA_OK);
  EXPECT_EQ(fake.n_launches, before + 2);  // the third waits for the first
  fake.pending_queries = 50;
  cancel = 1;
  EXPECT_EQ(mica_plan_wait(p.plan), MICA_CANCELLED);
  EXPECT_EQ(fake.n_launches, before + 2);
  EXPECT_EQ(fake.pending_queries, 0);  // the device is done with what was begun
  float y = 0;
  EXPECT_EQ(mica_plan_read(p.plan, "y", 0, &y, 4), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_plan_run(p.plan), MICA_CANCELLED);
  EXPECT_EQ(fake.n_launches, before + 2);
  cancel = 0;
  EXPECT_EQ(mica_plan_run(p.plan), MICA_OK) << mica_context_error(c.get());
  EXPECT_EQ(fake.n_launches, before + 2 + 6);
  EXPECT_EQ(mica_plan_read(p.plan, "y", 0, &y, 4), MICA_OK);
}

// The flag is set while a part is waited for: no other begins.
TEST_F(CudaStep, SeesTheFlagWhileItWaits) {
  volatile int32_t cancel = 0;
  const Context c = make(&cancel);
  const Device d = open(c);
  cut_everywhere(d);
  const Products p(c, d, 4);
  const int64_t before = fake.n_launches;
  ASSERT_EQ(mica_plan_submit(p.plan), MICA_OK);
  fake.pending_queries = 1000;
  fake.on_pending = [&](int64_t left) { cancel = left < 900 ? 1 : 0; };
  EXPECT_EQ(mica_plan_wait(p.plan), MICA_CANCELLED);
  EXPECT_EQ(fake.n_launches, before + 2);
  EXPECT_EQ(fake.pending_queries, 0);
}

// A part that cannot be launched ends the step; what was launched before is waited for.
TEST_F(CudaStep, EndsWithAPartThatFails) {
  volatile int32_t cancel = 0;
  const Context c = make(&cancel);
  const Device d = open(c);
  cut_everywhere(d);
  const Products p(c, d, 4);
  const int64_t before = fake.n_launches, n_syncs = fake.n_syncs;
  ASSERT_EQ(mica_plan_submit(p.plan), MICA_OK);
  fake.launch_error = cudaErrorLaunchOutOfResources;
  EXPECT_EQ(mica_plan_wait(p.plan), MICA_INTERNAL);
  EXPECT_TRUE(has(mica_context_error(c.get()), "launch a step")) << mica_context_error(c.get());
  EXPECT_EQ(fake.n_syncs, n_syncs + 1);
  EXPECT_EQ(mica_plan_run(p.plan), MICA_INTERNAL);
  EXPECT_EQ(fake.n_launches, before + 2);
  fake.launch_error = cudaSuccess;
  EXPECT_EQ(mica_plan_run(p.plan), MICA_OK) << mica_context_error(c.get());
  EXPECT_EQ(fake.n_launches, before + 2 + 6);
}

TEST_F(CudaStep, LeavesTheCacheAsItWas) {
  volatile int32_t cancel = 0;
  const Context c = make(&cancel);
  const Device d = open(c);
  cut_everywhere(d);
  const TinyModel model({});
  const Weights weights = load_tiny(c, d, model);
  TinySession s(c, d, model, weights.get(), {8});
  s.step(0, {1, 2, 3});
  const int64_t whole = fake.n_launches;
  s.step(0, {4, 5});
  const int64_t n_parts = fake.n_launches - whole;
  EXPECT_GT(n_parts, 10);
  const uint64_t n_cells = mica_kv_seq_cells(s.cache(), 0);
  ASSERT_EQ(s.prepare({6, 7, 8}), MICA_OK);
  ASSERT_EQ(mica_plan_submit(s.plan()), MICA_OK);
  const int64_t before = fake.n_launches;
  cancel = 1;
  EXPECT_EQ(mica_plan_wait(s.plan()), MICA_CANCELLED);
  EXPECT_EQ(fake.n_launches, before);
  cancel = 0;
  EXPECT_EQ(mica_kv_seq_cells(s.cache(), 0), n_cells);
  EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 5);
  s.step(0, {6, 7, 8});  // nothing is pending
  EXPECT_EQ(fake.n_launches, before + n_parts);
  EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 8);
}

TEST_F(CudaStep, ThatIsOnePartIsWaitedFor) {
  volatile int32_t cancel = 0;
  Context c = make(&cancel);
  Device d = open(c);
  CudaWorld w(std::move(c), std::move(d));
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

}  // namespace
