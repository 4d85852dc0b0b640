// What a shift step leaves in a cache is the same bits, whether a kernel rotates many cells at once
// or one by one, with every instruction set, and those of the reference.
#include "ops/kv_shift.h"

#include <cmath>

#include "tests/unit/world.h"

namespace {

using namespace mica::test;
using Bytes = std::vector<uint8_t>;

constexpr int64_t kTokens = 150;
constexpr uint32_t kDim = 40, kHeads = 2;
constexpr mica_dtype kTypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                 MICA_Q5_1, MICA_Q5_0, MICA_Q4_1, MICA_Q4_0};

// A cache with a layer of each type, and the plans that fill it and rotate its cells.
struct Shifted {
  explicit Shifted(const char* backend)
      : context(make_context()), device(open_device(context, backend)) {
    if (device == nullptr) return;
    std::vector<mica_kv_layer> layers;
    for (const mica_dtype type : kTypes) {
      mica_kv_layer l = MICA_KV_LAYER_INIT;
      l.n_kv_heads = kHeads;
      l.head_dim_k = l.head_dim_v = kDim;
      l.dtype_k = type;
      layers.push_back(l);
    }
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = static_cast<uint32_t>(layers.size());
    p.layers = layers.data();
    p.n_cells = 512;
    p.max_step_tokens = kTokens;
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(mica_kv_cache_create(device.get(), &p, &c), MICA_OK);
    cache.reset(c);
    session = make_session(device, c);
    fill_plan = plan_of(false);
    shift_plan = plan_of(true);
  }

  mica_plan* plan_of(bool shift) {
    const Graph g = make_graph(context);
    const mica_extent n = mica_graph_extent(g.get(), "n_tokens", kTokens);
    const mica_tensor x = input(g.get(), "x", {kDim, kHeads, kTokens}, n);
    for (uint32_t i = 0; i < std::size(kTypes); ++i) {
      mica_kv kv = mica_graph_kv(g.get(), cache.get(), i, n);
      mica_rope_params rope = MICA_ROPE_PARAMS_INIT;
      rope.pairing = i % 2 == 0 ? MICA_ROPE_HALF_SPLIT : MICA_ROPE_ADJACENT;
      rope.n_rot = 28;
      rope.offset = i < 4 ? 0 : 5;
      if (shift)
        mica_kv_shift(g.get(), &kv, &rope);
      else
        mica_kv_append(g.get(), &kv, x, x);
    }
    if (!shift) mica_output(g.get(), mica_copy(g.get(), x), "y");
    return ready(context, session, g);
  }

  void fill() {
    std::vector<float> x = randoms(kTokens * kHeads * kDim, 3);
    for (size_t i = 0; i < x.size(); i += 97) x[i] *= 1e-7f;
    for (size_t i = 5; i < x.size(); i += 211) x[i] *= 3e4f;
    for (size_t i = 9; i < x.size(); i += 1013) x[i] = i % 2 == 0 ? NAN : INFINITY;
    for (size_t i = 0; i < kDim; ++i) x[kDim * kHeads * 20 + i] = 0;
    set(session, "x", x);
    const mica_kv_span span = {0, kTokens};
    ASSERT_EQ(mica_kv_reserve(cache.get(), 1, &span), MICA_OK) << error();
    ASSERT_EQ(mica_plan_run(fill_plan), MICA_OK) << error();
  }
  void move(int64_t p0, int64_t p1, int64_t by) {
    ASSERT_EQ(mica_kv_seq_add(cache.get(), 0, p0, p1, by), MICA_OK) << error();
    uint64_t n = 0;
    ASSERT_EQ(mica_kv_reserve_shift(cache.get(), 0, &n), MICA_OK) << error();
    ASSERT_EQ(mica_plan_run(shift_plan), MICA_OK) << error();
    ASSERT_EQ(mica_kv_seq_rm(cache.get(), 0, 0, 0), MICA_OK);  // makes one of pieces
  }
  Bytes save() {
    Bytes out;
    const mica_kv_writer writer = {[](void* user, const void* data, uint64_t n) {
                                     const auto* p = static_cast<const uint8_t*>(data);
                                     auto& to = *static_cast<Bytes*>(user);
                                     to.insert(to.end(), p, p + n);
                                     return MICA_OK;
                                   },
                                   &out};
    EXPECT_EQ(mica_kv_save_to(session.get(), 0, 7, &writer), MICA_OK) << error();
    return out;
  }
  std::string error() const { return mica_context_error(context.get()); }

  Context context;
  Device device;
  Cache cache;
  Session session;
  mica_plan *fill_plan = nullptr, *shift_plan = nullptr;
};

Bytes whole(const char* backend) {
  Shifted s(backend);
  if (s.device == nullptr) return {};
  s.fill();
  s.move(0, -1, 1000);
  s.move(0, -1, -777);
  return s.save();
}

TEST(KvShift, LeavesTheSameBitsInPieces) {
  for (const char* backend : {"cpu", "cpu:avx2", "cpu:plain"}) {
    const Bytes expected = whole(backend);
    if (expected.empty()) continue;
    for (const int64_t piece : {1, 13, 16, 50}) {
      Shifted s(backend);
      s.fill();
      for (int64_t p = kTokens; p > 0; p -= piece) s.move(std::max<int64_t>(p - piece, 0), p, 1000);
      for (int64_t p = 0; p < kTokens; p += piece)
        s.move(1000 + p, std::min(1000 + p + piece, 1000 + kTokens), -777);
      if (HasFatalFailure()) return;
      EXPECT_EQ(s.save(), expected) << backend << ", pieces of " << piece;
    }
  }
}

TEST(KvShift, LeavesTheBitsOfTheReference) {
  const Bytes expected = whole("ref");
  for (const char* backend : {"cpu", "cpu:avx2", "cpu:plain"}) {
    const Bytes got = whole(backend);
    EXPECT_TRUE(got.empty() || got == expected) << backend;
  }
}

}  // namespace
