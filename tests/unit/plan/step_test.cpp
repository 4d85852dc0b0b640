// Steps: one compile serves every length, cancelling from another thread, and sequences side by
// side.
#include <chrono>
#include <cmath>
#include <thread>

#include "tests/unit/plan/tiny_session.h"

namespace {

using namespace mica::test;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSlowBuild = true;
#else
constexpr bool kSlowBuild = false;
#endif

void expect_near(const std::vector<float>& got, const std::vector<float>& want, float tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::fabs(want[i]))) << "at " << i;
}

class StepsOn : public testing::TestWithParam<const char*> {
 protected:
  bool is_ref() const { return std::string(GetParam()) == "ref"; }
  // ref computes in double, one unit after another: bit-equal. cpu: other tiles, other sums.
  float tolerance() const { return is_ref() ? 0.0f : 2e-4f; }
  Context context = make_context();
  Device device = open_device(context, GetParam());
};

// Prompts of 1 … 512 tokens and 200 steps of one token on two plans compiled once, against graphs
// compiled for exactly the size.
TEST_P(StepsOn, OneCompileServesEveryLength) {
  TinyShape shape;
  shape.window = 40;  // of the second layer
  const TinyModel model(shape);
  const Weights weights = load_tiny(context, device, model);
  TinySession one(context, device, model, weights.get(), {1, 512});
  const std::vector<int32_t> ids = token_ids(shape, 512);
  const auto first = [&](int64_t n) { return std::vector<int32_t>(ids.begin(), ids.begin() + n); };
  const size_t vocab = static_cast<size_t>(shape.n_vocab);
  for (int64_t n = 1; n <= 512 && !HasFailure(); ++n) {
    const bool edge = n % 64 < 2 || n % 64 == 63 || n <= 4 || n == 200;
    if (!edge && (is_ref() || kSlowBuild) && n % 97 != 0) continue;
    SCOPED_TRACE(std::to_string(n) + " tokens");
    TinySession exact(context, device, model, weights.get(), {n});
    one.forget();
    expect_near(one.step(1, first(n)), exact.step(0, first(n)), tolerance());
  }
  TinySession exact(context, device, model, weights.get(), {200});
  const std::vector<float> prompt = exact.step(0, first(200));
  one.forget();
  for (size_t t = 0; t < 200 && !HasFailure(); ++t) {
    SCOPED_TRACE("token " + std::to_string(t));
    const std::vector<float> want(prompt.begin() + static_cast<std::ptrdiff_t>(t * vocab),
                                  prompt.begin() + static_cast<std::ptrdiff_t>((t + 1) * vocab));
    expect_near(one.step(0, {ids[t]}), want, is_ref() ? 1e-5f : 5e-4f);
  }
  EXPECT_EQ(mica_kv_seq_next(one.cache(), 0), 200);
}

// A prompt in pieces of any size gives what it gives in one.
TEST_P(StepsOn, PromptsMayComeInPieces) {
  const TinyModel model({});
  const Weights weights = load_tiny(context, device, model);
  TinySession s(context, device, model, weights.get(), {1, 64});
  const std::vector<int32_t> ids = token_ids(model.shape(), 64);
  const std::vector<float> whole = s.step(1, ids, 1);
  for (const size_t piece : {size_t{3}, size_t{31}, size_t{63}}) {
    s.forget();
    std::vector<float> last;
    for (size_t at = 0; at < ids.size(); at += piece) {
      const size_t end = std::min(at + piece, ids.size());
      last = s.step(1,
                    {ids.begin() + static_cast<std::ptrdiff_t>(at),
                     ids.begin() + static_cast<std::ptrdiff_t>(end)},
                    1);
    }
    expect_near(last, whole, is_ref() ? 1e-5f : 5e-4f);
  }
}

TEST_P(StepsOn, SequencesDoNotSeeEachOther) {
  const TinyModel model({});
  const Weights weights = load_tiny(context, device, model);
  TinySession s(context, device, model, weights.get(), {16});
  TinySession alone(context, device, model, weights.get(), {16});
  (void)s.step(0, {1, 2, 3}, 1, 0);
  (void)s.step(0, {9, 8, 7, 6}, 1, 1);
  (void)alone.step(0, {1, 2, 3}, 1, 0);
  expect_near(s.step(0, {4}, 1, 0), alone.step(0, {4}, 1, 0), tolerance());
}

INSTANTIATE_TEST_SUITE_P(Devices, StepsOn, testing::Values("ref", "cpu"),
                         [](const auto& p) { return std::string(p.param); });

// --- Cancelling ---------------------------------------------------------------------------------

struct Cancelled {
  mica_status status;
  double seconds;  // from setting the flag to the return of run
};

class CancelTest : public testing::Test {
 protected:
  // Runs the plan and sets the flag from another thread after `after_ms`.
  Cancelled run_and_cancel(mica_plan* plan, int after_ms) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point set_at;
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
      set_at = Clock::now();
      __atomic_store_n(&cancel, 1, __ATOMIC_SEQ_CST);
    });
    const mica_status status = mica_plan_run(plan);
    const Clock::time_point end = Clock::now();
    other.join();
    __atomic_store_n(&cancel, 0, __ATOMIC_SEQ_CST);
    return {status, std::chrono::duration<double>(end - set_at).count()};
  }
  int32_t cancel = 0;
  mica_context_params params = [this] {
    mica_context_params p = MICA_CONTEXT_PARAMS_INIT;
    p.cancel = &cancel;
    return p;
  }();
  Context context = make_context(&params);
};

TEST_F(CancelTest, BeforeTheStepLeavesTheCache) {
  for (const char* name : {"ref", "cpu"}) {
    const Device device = open_device(context, name);
    const TinyModel model({});
    const Weights weights = load_tiny(context, device, model);
    TinySession s(context, device, model, weights.get(), {8});
    (void)s.step(0, {1, 2});
    ASSERT_EQ(s.prepare({3}), MICA_OK);
    cancel = 1;
    EXPECT_EQ(mica_plan_run(s.plan()), MICA_CANCELLED) << name;
    EXPECT_STREQ(mica_context_error(context.get()), "the step was cancelled");
    cancel = 0;
    EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 2);
    const std::vector<float> after = s.step(0, {3});
    TinySession fresh(context, device, model, weights.get(), {8});
    (void)fresh.step(0, {1, 2});
    EXPECT_EQ(fresh.step(0, {3}), after) << name;
  }
}

// A prompt that takes long enough to be interrupted in its middle, with its cache half written.
TEST_F(CancelTest, FromAnotherThreadWithin50Milliseconds) {
  const Device device = open_device(context, "cpu");
  TinyShape shape;
  shape.n_layers = kSlowBuild ? 6 : 60;
  shape.n_heads = 4;
  shape.head_dim = 64;
  shape.n_ff = 1024;
  const TinyModel model(shape);
  const Weights weights = load_tiny(context, device, model);
  TinySession s(context, device, model, weights.get(), {1, 512});
  const std::vector<int32_t> ids = token_ids(shape, 512);
  const std::vector<int32_t> start(ids.begin(), ids.begin() + 70);
  (void)s.step(1, start, 1);
  double best = 1e9;
  int n_cancelled = 0;
  for (int i = 0; i < 6; ++i) {
    ASSERT_EQ(s.prepare(ids), MICA_OK);
    const Cancelled c = run_and_cancel(s.plan(1), 3 + 7 * i);
    if (c.status == MICA_OK) {  // it was quicker
      ASSERT_EQ(mica_kv_seq_rm(s.cache(), 0, 70, -1), MICA_OK);
      continue;
    }
    ASSERT_EQ(c.status, MICA_CANCELLED);
    ++n_cancelled;
    best = std::min(best, c.seconds);
    EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 70);
    EXPECT_EQ(mica_kv_seq_cells(s.cache(), 0), 70u);
  }
  EXPECT_GT(n_cancelled, 0);
  // The best of six: other programs may hold every core for a while.
  if (!kSlowBuild) {
    EXPECT_LT(best, 0.05);
  }
  // The cache is as it was: the sequence goes on as if nothing had happened.
  const std::vector<float> after = s.step(0, {5}, 1);
  TinySession fresh(context, device, model, weights.get(), {1, 512});
  (void)fresh.step(1, start, 1);
  EXPECT_EQ(fresh.step(0, {5}, 1), after);
}

TEST_F(CancelTest, OnRefBetweenUnits) {
  const Device device = open_device(context, "ref");
  TinyShape shape;
  shape.n_layers = 40;
  const TinyModel model(shape);
  const Weights weights = load_tiny(context, device, model);
  TinySession s(context, device, model, weights.get(), {128});
  ASSERT_EQ(s.prepare(token_ids(shape, 128)), MICA_OK);
  const Cancelled c = run_and_cancel(s.plan(), 2);
  EXPECT_TRUE(c.status == MICA_CANCELLED || c.status == MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), c.status == MICA_OK ? 128 : 0);
}

}  // namespace
