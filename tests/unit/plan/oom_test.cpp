// Running out of memory at every single request, once and for ever, from the first object to the
// last step: a status each time, nothing leaks, and the same call works when there is memory again.
#include <functional>

#include "tests/unit/tiny_model.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

// One life of a model in stages. A stage that fails leaves what the earlier ones made, and may be
// run again.
class Life {
 public:
  Life(const mica_allocator* allocator, const char* device, const TinyModel& model)
      : allocator_(allocator), name_(device), model_(model) {}

  static constexpr int kStages = 11;
  mica_status stage(int i) {
    switch (i) {
      case 0:
        return make_context();
      case 1:
        return mica_device_open(context_.get(), name_, to(device_));
      case 2:
        return mica_weights_create(device_.get(), to(weights_));
      case 3:
        return describe();
      case 4:
        return model_.load(weights_.get());
      case 5:
        return model_.make_cache(device_.get(), to(cache_));
      case 6:
        return make_session();
      case 7:
        return build();
      case 8:
        return compile();
      case 9:
        return mica_session_allocate(session_.get());
      default:
        return run();
    }
  }
  std::vector<float> logits() const { return logits_; }
  // Of the context, or of the graph that was being built.
  std::string error() const {
    for (const Graph& g : graphs_)
      if (mica_graph_status(g.get(), nullptr) == MICA_OUT_OF_MEMORY) return graph_error(g);
    return mica_context_error(context_.get());
  }

 private:
  template <class T, class D>
  struct To {  // an out-parameter that fills its owner
    explicit To(std::unique_ptr<T, D>& o) : owner(o) {}
    ~To() {
      if (raw != nullptr) owner.reset(raw);
    }
    operator T**() { return &raw; }
    std::unique_ptr<T, D>& owner;
    T* raw = nullptr;
  };
  template <class T, class D>
  static To<T, D> to(std::unique_ptr<T, D>& owner) {
    owner.reset();
    return To<T, D>(owner);
  }
  mica_status make_context() {
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.allocator = allocator_;
    params.n_threads = 2;
    mica_status status = mica_context_create(&params, to(context_));
    if (status == MICA_OK) status = mica_context_add_backend(context_.get(), mica_backend_ref());
    if (status == MICA_OK) status = mica_context_add_backend(context_.get(), mica_backend_cpu());
    return status;
  }
  mica_status describe() {
    if (mica_weights_count(weights_.get()) != 0) {  // a retry begins with none
      const mica_status status = mica_weights_create(device_.get(), to(weights_));
      if (status != MICA_OK) return status;
    }
    return model_.describe(weights_.get());
  }
  mica_status make_session() {
    mica_session_params params = MICA_SESSION_PARAMS_INIT;
    params.cache = cache_.get();
    params.variant = "naive";
    return mica_session_create(device_.get(), &params, to(session_));
  }
  mica_status build() {
    for (Graph& g : graphs_) {
      mica_status status = mica_graph_create(context_.get(), to(g));
      if (status != MICA_OK) return status;
      model_.build(g.get(), weights_.get(), cache_.get(), &g == &graphs_[0] ? 1 : 6);
      status = mica_graph_status(g.get(), nullptr);
      if (status != MICA_OK) return status;
    }
    return MICA_OK;
  }
  mica_status compile() {
    mica_graph* const raw[] = {graphs_[0].get(), graphs_[1].get()};
    return mica_session_compile(session_.get(), 2, raw, plans_);
  }
  mica_status run() {
    logits_.clear();
    mica_status status = mica_kv_seq_rm(cache_.get(), MICA_KV_ALL_SEQS, 0, -1);
    if (status == MICA_OK) status = step(1, {3, 1, 4, 1, 5});
    if (status == MICA_OK) status = step(0, {9});
    return status;
  }
  mica_status step(int i_plan, const std::vector<int32_t>& ids) {
    const mica_kv_span span = {0, static_cast<uint32_t>(ids.size())};
    mica_status status = mica_kv_reserve(cache_.get(), 1, &span);
    if (status != MICA_OK) return status;
    status = mica_session_set(session_.get(), "ids", 0, ids.data(), ids.size() * 4);
    if (status == MICA_OK) status = mica_plan_run(plans_[i_plan]);
    if (status != MICA_OK) return status;
    const size_t n = ids.size() * static_cast<size_t>(model_.shape().n_vocab);
    logits_.resize(logits_.size() + n);
    return mica_plan_read(plans_[i_plan], "logits", 0, &logits_[logits_.size() - n], n * 4);
  }

  const mica_allocator* allocator_;
  const char* name_;
  const TinyModel& model_;
  Context context_;
  Device device_;
  Weights weights_;
  Cache cache_;
  Session session_;
  Graph graphs_[2];
  mica_plan* plans_[2] = {};
  std::vector<float> logits_;
};

TinyShape small() {
  TinyShape s;
  s.window = 16;
  s.n_cells = 64;
  s.max_step_tokens = 8;
  return s;
}

class OutOfMemory : public testing::TestWithParam<const char*> {};

TEST_P(OutOfMemory, AtEveryRequest) {
  const TinyModel model(small());
  CountingAllocator allocator;
  std::vector<float> expected;
  int64_t n_requests = 0;
  {
    Life life(allocator.get(), GetParam(), model);
    for (int i = 0; i < Life::kStages; ++i)
      ASSERT_EQ(life.stage(i), MICA_OK) << i << ": " << life.error();
    expected = life.logits();
    n_requests = allocator.n_requests();
  }
  EXPECT_EQ(allocator.n_live(), 0);
  EXPECT_GT(n_requests, 50);
  for (const bool for_ever : {false, true}) {
    for (int64_t n = 0; n < n_requests && !HasFailure(); ++n) {
      SCOPED_TRACE("request " + std::to_string(n) + (for_ever ? " and all after it" : ""));
      {
        Life life(allocator.get(), GetParam(), model);
        allocator.fail_at(n, for_ever);
        for (int i = 0; i < Life::kStages && !HasFailure(); ++i) {
          const mica_status status = life.stage(i);
          if (status == MICA_OK) continue;
          ASSERT_EQ(status, MICA_OUT_OF_MEMORY) << "stage " << i << ": " << life.error();
          ASSERT_GT(allocator.n_failed(), 0);
          ASSERT_TRUE(i == 0 || !life.error().empty());
          allocator.never_fail();
          ASSERT_EQ(life.stage(i), MICA_OK) << "again, stage " << i << ": " << life.error();
        }
        allocator.never_fail();
        ASSERT_EQ(life.logits(), expected);
      }
      ASSERT_EQ(allocator.n_live(), 0);
      ASSERT_EQ(allocator.live_bytes(), 0);
      ASSERT_FALSE(allocator.wrong_size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, OutOfMemory, testing::Values("ref", "cpu"),
                         [](const auto& p) { return std::string(p.param); });

// A step of the cpu backend asks for nothing: with no memory left it goes on.
TEST(OutOfMemoryWhileRunning, StepsOnCpuNeedNone) {
  const TinyModel model(small());
  CountingAllocator allocator;
  Life life(allocator.get(), "cpu", model);
  for (int i = 0; i < Life::kStages; ++i) ASSERT_EQ(life.stage(i), MICA_OK) << life.error();
  const std::vector<float> expected = life.logits();
  const int64_t before = allocator.n_requests();
  allocator.fail_at(0, true);
  EXPECT_EQ(life.stage(Life::kStages - 1), MICA_OK) << life.error();
  EXPECT_EQ(life.logits(), expected);
  EXPECT_EQ(allocator.n_requests(), before);
  allocator.never_fail();
}

}  // namespace
