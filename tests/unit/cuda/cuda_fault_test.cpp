// Faults of every kind at every call that the CUDA backend makes, from opening the device to the
// last read: a status with a text each time, nothing is kept, what can go on does, and other
// devices live.
#include <functional>

#include "core/base/device.h"
#include "tests/unit/cuda/cuda_world.h"
#include "tests/unit/tiny_model.h"

namespace {

using namespace mica;
using namespace mica::test;

// A model's life on a device: weights read, made and read back, prompt and decode steps in parts,
// a shared page copied, a session enlarged. A stage that failed may be run again.
class CudaLife {
 public:
  static constexpr int kStages = 6;
  explicit CudaLife(const char* device) : name_(device), model_(shape()) {
    mica_context* c = nullptr;
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    params.cancel = &cancel_;
    EXPECT_EQ(mica_context_create(&params, &c), MICA_OK);
    EXPECT_EQ(mica_context_add_backend(c, fake_cuda_backend()), MICA_OK);
    context_.reset(c);
  }
  mica_status stage(int i) {
    switch (i) {
      case 0:
        return open();
      case 1:
        return load();
      case 2:
        return load_random();
      case 3:
        return session();
      case 4:
        return steps();
      default:
        return enlarge();
    }
  }
  std::string error() const { return mica_context_error(context_.get()); }

 private:
  static TinyShape shape() {
    TinyShape s;
    s.n_layers = 1;
    s.kv = MICA_Q8_0;
    s.head_dim = 32;
    return s;
  }
  mica_status open() {
    mica_device* d = nullptr;
    const mica_status status = mica_device_open(context_.get(), name_, &d);
    if (status != MICA_OK) return status;
    device_.reset(d);
    static_cast<cuda::Device*>(d->handle)->part_work = 1;
    return MICA_OK;
  }
  mica_status load() {
    mica_weights* w = nullptr;
    mica_status status = mica_weights_create(device_.get(), &w);
    weights_.reset(w);
    if (status == MICA_OK) status = model_.describe(w);
    return status == MICA_OK ? model_.load(w) : status;
  }
  mica_status load_random() {
    mica_weights* w = nullptr;
    mica_status status = mica_weights_create(device_.get(), &w);
    const Weights owner(w);
    const int64_t dim[] = {256, 24};
    for (const char* name : {"a", "b", "c"})  // matrices are made, a vector is read
      if (status == MICA_OK)
        status = mica_weights_describe(w, name, name[0] == 'b' ? MICA_F16 : MICA_Q4_K,
                                       name[0] == 'c' ? 1 : 2, dim);
    const mica_weight_source source = {
        nullptr,
        [](void*, uint32_t, uint64_t, uint64_t bytes, void* staging, const void** out) {
          std::memset(staging, 0, bytes);
          *out = staging;
          return MICA_OK;
        },
        nullptr};
    if (status == MICA_OK) status = mica_weights_load_random(w, &source, 1);
    char rows[24 * 512];
    if (status == MICA_OK) status = mica_weights_read(w, "a", rows, 24 * 144);
    if (status == MICA_OK) status = mica_weights_read(w, "c", rows, 144);
    return status == MICA_OK ? mica_weights_read(w, "b", rows, 24 * 512) : status;
  }
  mica_status session() {
    session_.reset();
    mica_kv_cache* c = nullptr;
    mica_status status = model_.make_cache(device_.get(), &c);
    cache_.reset(c);
    if (status != MICA_OK) return status;
    mica_session_params params = MICA_SESSION_PARAMS_INIT;
    params.cache = c;
    mica_session* s = nullptr;
    status = mica_session_create(device_.get(), &params, &s);
    session_.reset(s);
    if (status == MICA_OK) status = compile(4, 0);
    return status == MICA_OK ? mica_session_allocate(s) : status;
  }
  mica_status compile(int64_t n, int i) {
    graphs_[i] = make_graph(context_);
    model_.build(graphs_[i].get(), weights_.get(), cache_.get(), n);
    mica_graph* const graphs[] = {graphs_[i].get()};
    return mica_session_compile(session_.get(), 1, graphs, &plans_[i]);
  }
  mica_status step(int i_plan, uint32_t seq, uint32_t n) {
    const mica_kv_span span = {seq, n};
    mica_status status = mica_kv_reserve(cache_.get(), 1, &span);
    if (status != MICA_OK) return status;
    const int32_t ids[4] = {1, 2, 3, 4};
    status = mica_session_set(session_.get(), "ids", 0, ids, sizeof ids);
    if (status == MICA_OK) status = mica_plan_run(plans_[i_plan]);
    if (status != MICA_OK) mica_kv_abandon(cache_.get());
    float y[32];
    return status == MICA_OK ? mica_plan_read(plans_[i_plan], "logits", 0, y, sizeof y) : status;
  }
  mica_status steps() {
    mica_status status = mica_kv_seq_rm(cache_.get(), MICA_KV_ALL_SEQS, 0, -1);
    if (status == MICA_OK) status = step(0, 0, 4);
    if (status == MICA_OK) status = mica_kv_seq_cp(cache_.get(), 0, 1, 0, -1);
    if (status == MICA_OK) status = step(0, 1, 2);  // its page is shared: copied
    return status == MICA_OK ? step(0, 0, 1) : status;
  }
  mica_status enlarge() {
    mica_status status = plans_[1] == nullptr ? compile(8, 1) : MICA_OK;
    if (status == MICA_OK) status = mica_session_allocate(session_.get());
    if (status == MICA_OK) status = step(1, 0, 3);
    return status == MICA_OK ? step(0, 0, 1) : status;
  }

  const char* name_;
  const TinyModel model_;
  volatile int32_t cancel_ = 0;
  Context context_;
  Device device_;
  Weights weights_;
  Cache cache_;
  Session session_;
  Graph graphs_[2];
  mica_plan* plans_[2] = {};
};

struct Outcome {
  mica_status status = MICA_OK;  // of the first stage that fails
  std::string text;
  mica_status after = MICA_OK;  // of that stage run again, and of all behind it
};

Outcome live() {
  Outcome out;
  CudaLife life("cuda");
  for (int i = 0; i < CudaLife::kStages; ++i) {
    mica_status status = life.stage(i);
    if (status == MICA_OK) continue;
    if (out.status == MICA_OK) {
      out.status = status;
      out.text = life.error();
      status = life.stage(i);
    }
    out.after = status;
    if (status != MICA_OK) break;
  }
  return out;
}

class CudaFault : public CudaBackend {
 protected:
  // fn(outcome, call) for a life in which that call fails.
  static void at_every_call(cudaError_t e, bool for_ever,
                            const std::function<void(const Outcome&, int64_t)>& fn) {
    fake = FakeCuda{};
    ASSERT_EQ(live().status, MICA_OK);
    const int64_t n_calls = fake.calls;
    EXPECT_GT(n_calls, 200);
    int64_t n_failed = 0;
    for (int64_t i = 0; i < n_calls; ++i) {
      fake = FakeCuda{};
      fake.fail_with = e;
      fake.fail_call = i;
      fake.fail_for_ever = for_ever;
      const Outcome o = live();
      n_failed += o.status != MICA_OK ? 1 : 0;
      if (o.status != MICA_OK) {
        EXPECT_FALSE(o.text.empty()) << i;
      }
      fn(o, i);
      expect_all_returned();
      if (HasFailure()) return;
    }
    EXPECT_GT(n_failed, n_calls / 2);  // those that fail unnoticed give things back
  }
};

// Any allocation, and whatever else may want memory: the call can be made again.
TEST_F(CudaFault, OutOfMemoryAtEveryCall) {
  at_every_call(cudaErrorMemoryAllocation, false, [](const Outcome& o, int64_t i) {
    if (o.status == MICA_OK) return;
    EXPECT_TRUE(o.status == MICA_OUT_OF_MEMORY || has(o.text, "cannot be opened") ||
                has(o.text, "no CUDA device"))
        << i << ": " << o.status << " " << o.text;
    EXPECT_TRUE(has(o.text, "memory")) << i << ": " << o.text;
    EXPECT_EQ(o.after, MICA_OK) << i << ": " << o.text;
    EXPECT_EQ(fake.last_error, cudaSuccess) << i;
  });
}

// A launch that the device refuses for one call's sake.
TEST_F(CudaFault, RefusedAtEveryCall) {
  for (const cudaError_t e : {cudaErrorLaunchOutOfResources, cudaErrorInvalidValue}) {
    at_every_call(e, false, [e](const Outcome& o, int64_t i) {
      EXPECT_EQ(o.after, MICA_OK) << i << ": " << o.text;
      if (o.status != MICA_OK) {
        EXPECT_TRUE(has(o.text, cudaGetErrorString(e))) << i << o.text;
      }
      EXPECT_EQ(fake.last_error, cudaSuccess) << i;
    });
  }
}

// Kernel faults and a device that is gone: every later call fails as well.
TEST_F(CudaFault, LostAtEveryCall) {
  for (const cudaError_t e : {cudaErrorLaunchFailure, cudaErrorIllegalAddress}) {
    at_every_call(e, true, [e](const Outcome& o, int64_t i) {
      if (o.status == MICA_OK) return;
      EXPECT_TRUE(o.status == MICA_DEVICE_LOST || o.status == MICA_NO_DEVICE) << i << o.status;
      EXPECT_EQ(o.after, o.status) << i << ": " << o.text;
      EXPECT_TRUE(has(o.text, cudaGetErrorString(e))) << i << ": " << o.text;
      if (i % 10 != 0) return;
      CudaLife other("cuda:1");
      for (int s = 0; s < CudaLife::kStages; ++s)
        EXPECT_EQ(other.stage(s), MICA_OK) << i << ": " << other.error();
    });
  }
}

}  // namespace
