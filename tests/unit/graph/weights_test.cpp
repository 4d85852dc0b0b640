// Weights: described, streamed in and repacked, read back bit by bit; and what fails on the way.
#include "mica/weights.h"

#include <algorithm>

#include "tests/unit/world.h"

namespace {

using namespace mica::test;

struct Spec {
  std::string name;
  mica_dtype dtype;
  Dims dim;
  std::vector<unsigned char> bytes;  // any bits: layouts move them, whatever they mean
};

Spec make_spec(std::string name, mica_dtype dtype, Dims dim, uint64_t seed) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  int64_t n = 1;
  for (const int64_t d : dim) n *= d;
  Spec s{std::move(name), dtype, std::move(dim), {}};
  s.bytes.resize(static_cast<size_t>(n) / info->block_elems * info->block_bytes);
  std::mt19937_64 rng(seed);
  for (unsigned char& b : s.bytes) b = static_cast<unsigned char>(rng());
  return s;
}

class Source {
 public:
  explicit Source(const std::vector<Spec>& specs, bool staged = false)
      : specs_(specs), staged_(staged) {}
  const mica_weight_source* get() const { return &table_; }
  mica_status fail_with = MICA_OK;
  bool give_nothing = false;
  int64_t fail_after = 0;     // reads that work before
  int64_t cancel_after = -1;  // progress calls
  volatile int32_t* cancel = nullptr;
  int64_t n_reads = 0, n_progress = 0;
  uint64_t done = 0, total = 0;

 private:
  mica_status read(uint32_t i, uint64_t offset, uint64_t bytes, void* staging, const void** out) {
    const Spec& s = specs_[i];
    EXPECT_LE(offset + bytes, s.bytes.size());
    if (n_reads++ >= fail_after) {
      if (give_nothing) return MICA_OK;
      if (fail_with != MICA_OK) return fail_with;
      if (cancel != nullptr) *cancel = 1;
    }
    if (staged_) std::memcpy(staging, s.bytes.data() + offset, bytes);
    *out = staged_ ? staging : s.bytes.data() + offset;
    return MICA_OK;
  }
  const std::vector<Spec>& specs_;
  bool staged_;
  mica_weight_source table_ = {
      this,
      [](void* user, uint32_t i, uint64_t offset, uint64_t bytes, void* staging, const void** out) {
        return static_cast<Source*>(user)->read(i, offset, bytes, staging, out);
      },
      [](void* user, uint64_t n_done, uint64_t n_total) {
        auto* s = static_cast<Source*>(user);
        EXPECT_GT(n_done, s->done);
        s->done = n_done;
        s->total = n_total;
        return s->n_progress++ == s->cancel_after ? 1 : 0;
      }};
};

Weights describe(const Context& context, const Device& device, const std::vector<Spec>& specs) {
  mica_weights* w = nullptr;
  EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
  for (const Spec& s : specs)
    EXPECT_EQ(mica_weights_describe(w, s.name.c_str(), s.dtype, static_cast<uint32_t>(s.dim.size()),
                                    s.dim.data()),
              MICA_OK)
        << s.name << ": " << mica_context_error(context.get());
  return Weights(w);
}

void expect_same(const Context& context, const Weights& w, const Spec& s) {
  std::vector<unsigned char> back(s.bytes.size() + 16, 0x5a);
  ASSERT_EQ(mica_weights_read(w.get(), s.name.c_str(), back.data(), s.bytes.size()), MICA_OK)
      << s.name << ": " << mica_context_error(context.get());
  EXPECT_TRUE(std::equal(s.bytes.begin(), s.bytes.end(), back.begin())) << s.name;
  EXPECT_EQ(
      std::count(back.begin() + static_cast<std::ptrdiff_t>(s.bytes.size()), back.end(), 0x5a), 16);
}

class WeightsOn : public testing::TestWithParam<const char*> {};

TEST_P(WeightsOn, EveryDtypeComesBackBitByBit) {
  const Context context = make_context();
  const Device device = open_device(context, GetParam());
  if (device == nullptr) GTEST_SKIP() << mica_context_error(context.get());
  std::vector<Spec> specs;
  const mica_dtype_info* info = nullptr;
  for (uint32_t i = 0; (info = mica_dtype_at(i)) != nullptr; ++i) {
    const int64_t block = info->block_elems, k = block == 1 ? 32 : block;
    const std::string name = info->name;
    const auto add = [&](const char* what, Dims dim) {
      specs.push_back(make_spec(name + what, info->dtype, std::move(dim), i * 31 + specs.size()));
    };
    add(".vector", {k});
    add(".row", {3 * k, 1});
    add(".odd_rows", {2 * k, 37});
    add(".few_rows", {k, 7});
    add(".batch", {k, 19, 3, 2});
    if (block == 1) add(".odd_row", {77, 33});
  }
  specs.push_back(make_spec("chunks.f32", MICA_F32, {1024, 2500}, 1));  // 10 MiB: several reads
  specs.push_back(make_spec("chunks.q4_0", MICA_Q4_0, {4096, 3001}, 2));
  specs.push_back(make_spec("long_row.q8_0", MICA_Q8_0, {32 * 200000, 2}, 3));  // > 4 MiB a row
  for (const bool staged : {false, true}) {
    const Weights w = describe(context, device, specs);
    EXPECT_EQ(mica_weights_count(w.get()), specs.size());
    EXPECT_EQ(mica_weights_is_loaded(w.get()), 0);
    Source source(specs, staged);
    ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK)
        << mica_context_error(context.get());
    EXPECT_EQ(mica_weights_is_loaded(w.get()), 1);
    EXPECT_EQ(source.done, source.total);
    EXPECT_GE(mica_weights_bytes(w.get()), source.total);
    for (const Spec& s : specs) expect_same(context, w, s);
  }
}

// A view of a weight that the device keeps in its own way is refused, never read wrongly.
TEST_P(WeightsOn, ViewsAreRightOrRefused) {
  const Context context = make_context();
  const Device device = open_device(context, GetParam());
  if (device == nullptr) GTEST_SKIP() << mica_context_error(context.get());
  for (const mica_dtype dtype : {MICA_Q4_1, MICA_Q8_0, MICA_Q6_K, MICA_F16}) {
    const mica_dtype_info* info = mica_dtype_get(dtype);
    Spec spec{"w", dtype, {256, 64}, std::vector<unsigned char>(size_t{256} * 64 * 4)};
    mica_dtype_encode(dtype, randoms(256 * 64, 7).data(), spec.bytes.data(), 256 * 64);
    spec.bytes.resize(size_t{256} * 64 / info->block_elems * info->block_bytes);
    std::vector<float> want(256 * 16);
    mica_dtype_decode(dtype, spec.bytes.data() + spec.bytes.size() / 8, want.data(), want.size());
    const std::vector<Spec> specs = {spec};
    const Weights w = describe(context, device, specs);
    Source source(specs);
    ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
    int n_right = 0;
    for (const bool copied : {false, true}) {
      const Graph g = make_graph(context);
      const int64_t dim[] = {256, 16}, start[] = {0, 8, 0, 0};
      mica_tensor x = mica_weight(g.get(), w.get(), "w");
      if (copied) x = mica_copy(g.get(), x);
      x = mica_view(g.get(), x, 2, dim, start);
      mica_output(g.get(), mica_cast(g.get(), x, MICA_F32), "y");
      const Session session = make_session(device);
      mica_graph* const graphs[] = {g.get()};
      mica_plan* plan = nullptr;
      const mica_status status = mica_session_compile(session.get(), 1, graphs, &plan);
      if (status == MICA_OK) {
        ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK);
        ASSERT_EQ(mica_plan_run(plan), MICA_OK);
        EXPECT_EQ(read(plan, "y", want.size()), want) << info->name << copied;
        ++n_right;
      } else {
        EXPECT_FALSE(copied) << info->name;
        EXPECT_TRUE(
            has(mica_context_error(context.get()), "a view of weight 'w', which the device"))
            << mica_context_error(context.get());
      }
    }
    EXPECT_GE(n_right, 1) << info->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, WeightsOn,
                         testing::Values("ref", "cpu:plain", "cpu:avx2", "cpu:avx512"),
                         [](const auto& p) {
                           std::string name = p.param;
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

class WeightsTest : public testing::Test {
 protected:
  std::string error() const { return mica_context_error(context.get()); }
  mica_status describe_one(const char* name, int dtype, uint32_t rank, const int64_t* dim) {
    return mica_weights_describe(w.get(), name, static_cast<mica_dtype>(dtype), rank, dim);
  }
  volatile int32_t cancel = 0;
  mica_context_params params = [this] {
    mica_context_params p = MICA_CONTEXT_PARAMS_INIT;
    p.cancel = &cancel;
    return p;
  }();
  Context context = make_context(&params);
  Device device = open_device(context, "cpu");
  std::vector<Spec> specs = {make_spec("a", MICA_F32, {64, 3}, 1),
                             make_spec("b", MICA_Q4_1, {64, 20}, 2),
                             make_spec("c", MICA_F16, {8}, 3)};
  Weights w = describe(context, device, specs);
};

TEST_F(WeightsTest, DescriptionsAreChecked) {
  const int64_t dim[] = {64, 3}, zero[] = {0}, part[] = {33}, huge[] = {int64_t{1} << 62, 64};
  EXPECT_EQ(describe_one("a", MICA_F32, 2, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "weight 'a': described twice");
  EXPECT_EQ(describe_one(nullptr, MICA_F32, 2, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("", MICA_F32, 2, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", MICA_F32, 2, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", 999, 2, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "weight 'x': no such dtype");
  EXPECT_EQ(describe_one("x", MICA_F32, 0, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", MICA_F32, 5, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", MICA_F32, 1, zero), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", MICA_Q8_0, 1, part), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(describe_one("x", MICA_F32, 2, huge), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error().find("weight 'x': "), 0u);
  EXPECT_EQ(mica_weights_count(w.get()), 3u);
}

TEST_F(WeightsTest, SizesInAllAreChecked) {
  const int64_t big[] = {32, int64_t{1} << 55};  // 2^62 bytes
  mica_status status = MICA_OK;
  for (int i = 0; i < 20 && status == MICA_OK; ++i)
    status = describe_one(("big" + std::to_string(i)).c_str(), MICA_F32, 2, big);
  EXPECT_EQ(status, MICA_INVALID_ARGUMENT);
  Source source(specs);
  EXPECT_EQ(mica_weights_load(w.get(), source.get()), MICA_OUT_OF_MEMORY);
  EXPECT_EQ(source.n_reads, 0);
}

TEST_F(WeightsTest, AreFoundByName) {
  mica_tensor_info info;
  ASSERT_EQ(mica_weights_info(w.get(), "b", &info), MICA_OK);
  EXPECT_EQ(info.dtype, MICA_Q4_1);
  EXPECT_EQ(info.rank, 2u);
  EXPECT_EQ(info.dim[1], 20);
  EXPECT_STREQ(mica_weights_name(w.get(), 1), "b");
  EXPECT_EQ(mica_weights_name(w.get(), 3), nullptr);
  EXPECT_EQ(mica_weights_info(w.get(), "nope", &info), MICA_NOT_FOUND);
  EXPECT_EQ(error(), "weight 'nope' is not there");
}

TEST_F(WeightsTest, AreLoadedOnceAndThenFixed) {
  std::vector<unsigned char> back(specs[0].bytes.size());
  EXPECT_EQ(mica_weights_read(w.get(), "a", back.data(), back.size()), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "weight 'a': the weights are not loaded");
  Source source(specs);
  ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
  EXPECT_EQ(mica_weights_load(w.get(), source.get()), MICA_INVALID_ARGUMENT);
  const int64_t dim[] = {4};
  EXPECT_EQ(describe_one("late", MICA_F32, 1, dim), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_read(w.get(), "a", back.data(), back.size() - 1), MICA_INVALID_ARGUMENT);
  EXPECT_TRUE(has(error(), "has 768 bytes, not 767")) << error();
  EXPECT_EQ(mica_weights_read(w.get(), "z", back.data(), back.size()), MICA_NOT_FOUND);
  expect_same(context, w, specs[0]);
}

TEST_F(WeightsTest, FailuresOfTheSourceKeepNothingAndMayBeRetried) {
  for (int64_t after = 0; after < 3; ++after) {
    Source broken(specs);
    broken.fail_with = MICA_IO;
    broken.fail_after = after;
    EXPECT_EQ(mica_weights_load(w.get(), broken.get()), MICA_IO);
    EXPECT_EQ(error(),
              "the source has no data of weight '" + specs[static_cast<size_t>(after)].name + "'");
    EXPECT_EQ(mica_weights_is_loaded(w.get()), 0);
    Source empty(specs);
    empty.give_nothing = true;
    empty.fail_after = after;
    EXPECT_EQ(mica_weights_load(w.get(), empty.get()), MICA_IO);
  }
  const int64_t dim[] = {5};
  Spec more = make_spec("more", MICA_F32, {5}, 9);
  ASSERT_EQ(describe_one("more", MICA_F32, 1, dim), MICA_OK);  // nothing was kept
  specs.push_back(more);
  Source source(specs);
  ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
  for (const Spec& s : specs) expect_same(context, w, s);
}

TEST_F(WeightsTest, LoadingCanBeCancelled) {
  for (int64_t at = 0; at < 3; ++at) {
    Source source(specs);
    source.cancel_after = at;
    EXPECT_EQ(mica_weights_load(w.get(), source.get()), MICA_CANCELLED);
    EXPECT_EQ(source.n_progress, at + 1);
    EXPECT_EQ(error(), "loading was cancelled");
  }
  Source flagged(specs);
  flagged.cancel = &cancel;
  flagged.fail_after = 1;
  EXPECT_EQ(mica_weights_load(w.get(), flagged.get()), MICA_CANCELLED);
  EXPECT_EQ(flagged.n_reads, 2);
  EXPECT_EQ(mica_weights_is_loaded(w.get()), 0);
  cancel = 0;
  Source source(specs);
  ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
  for (const Spec& s : specs) expect_same(context, w, s);
}

TEST_F(WeightsTest, NullIsNeverFatal) {
  mica_weights* out = nullptr;
  mica_tensor_info info;
  EXPECT_EQ(mica_weights_create(nullptr, &out), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_create(device.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_describe(nullptr, "x", MICA_F32, 1, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_describe_gguf(w.get(), nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_info(nullptr, "a", &info), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_load(nullptr, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_load(w.get(), nullptr), MICA_INVALID_ARGUMENT);
  const mica_weight_source no_read = {nullptr, nullptr, nullptr};
  EXPECT_EQ(mica_weights_load(w.get(), &no_read), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_load_gguf(w.get(), nullptr, nullptr, nullptr), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_read(w.get(), "a", nullptr, 4), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_weights_bytes(nullptr), 0u);
  EXPECT_EQ(mica_weights_count(nullptr), 0u);
  EXPECT_EQ(mica_weights_is_loaded(nullptr), 0);
  mica_weights_retain(nullptr);
  mica_weights_release(nullptr);
}

// One set of weights, two contexts on the same device; the first may go.
TEST_F(WeightsTest, AreSharedByContexts) {
  Source source(specs);
  ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
  const Context other = make_context();
  const Device same = open_device(other, "cpu");
  const Session session = make_session(same);
  const Graph g = make_graph(other);
  mica_output(
      g.get(),
      mica_matmul(g.get(), mica_weight(g.get(), w.get(), "a"), input(g.get(), "x", {64, 1})), "y");
  w.reset();
  device.reset();
  context.reset();
  mica_plan* plan = ready(other, session, g);
  ASSERT_NE(plan, nullptr);
  set(session, "x", std::vector<float>(64, 0));
  EXPECT_EQ(mica_plan_run(plan), MICA_OK);

  const Device ref = open_device(other, "ref");
  const Session elsewhere = make_session(ref);
  mica_graph* const graphs[] = {g.get()};
  EXPECT_EQ(mica_session_compile(elsewhere.get(), 1, graphs, &plan), MICA_INVALID_ARGUMENT);
  EXPECT_STREQ(mica_context_error(other.get()), "the graph's weights are on another device");
}

TEST_F(WeightsTest, PlansNeedLoadedWeights) {
  const Session session = make_session(device);
  const Graph g = make_graph(context);
  mica_output(
      g.get(),
      mica_matmul(g.get(), mica_weight(g.get(), w.get(), "a"), input(g.get(), "x", {64, 1})), "y");
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  ASSERT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK);
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "load the weights before allocating");
  Source source(specs);
  ASSERT_EQ(mica_weights_load(w.get(), source.get()), MICA_OK);
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OK);
}

}  // namespace
