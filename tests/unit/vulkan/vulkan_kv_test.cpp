// KV pages of the Vulkan backend on a device (Mesa's lavapipe in CI; skipped where there is none):
// packing, appending against the reference encoders bit by bit, attention over tables of any
// content, and sampling as the reference does where the first candidates do not suffice.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backends/vulkan/kv.h"
#include "core/base/dtype.h"
#include "core/base/vec.h"
#include "mica/device.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/sample.h"
#include "tests/unit/plan/odd_value.h"
#include "tests/unit/world.h"

namespace {

using namespace mica;

constexpr mica_dtype kTypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                 MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1};
constexpr uint32_t kPages = 3;

// One device for all tests: opening one takes long there.
struct Gpu {
  Gpu() {
    host.struct_size = sizeof host;
    host.user = this;
    host.allocator = &default_allocator();
    host.set_error = [](void* user, mica_status, const char* text) {
      static_cast<Gpu*>(user)->error = text;
    };
    if (backend != nullptr) (void)backend->device_open(&host, "llvmpipe", &device);
  }
  ~Gpu() {
    if (device != nullptr) backend->device_close(device);
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const mica_backend* backend = mica_backend_vulkan();
  mica_host host{};
  std::string error;
  mica_b_device* device = nullptr;
};

class VulkanKv : public testing::Test {
 protected:
  static void SetUpTestSuite() { gpu_ = new Gpu; }
  static void TearDownTestSuite() {
    delete gpu_;
    gpu_ = nullptr;
  }
  void SetUp() override {
    if (gpu_->device == nullptr) GTEST_SKIP() << "no such device: " << gpu_->error;
  }
  static Gpu* gpu_;
};
Gpu* VulkanKv::gpu_ = nullptr;

// Device bytes with a mirror of them on the host.
struct Memory {
  Memory(Gpu& g, size_t n) : gpu(g), bytes(n) {
    EXPECT_EQ(g.backend->buffer_create(g.device, n, &buffer), MICA_OK) << g.error;
  }
  ~Memory() { gpu.backend->buffer_free(buffer); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void up() {
    ASSERT_EQ(gpu.backend->buffer_write(buffer, 0, bytes.data(), bytes.size()), MICA_OK);
  }
  void down() {
    ASSERT_EQ(gpu.backend->buffer_read(buffer, 0, bytes.data(), bytes.size()), MICA_OK);
  }
  void scramble(std::mt19937& random) {
    for (char& c : bytes) c = static_cast<char>(random());
  }
  Gpu& gpu;
  std::vector<char> bytes;
  mica_b_buffer* buffer = nullptr;
};

// One layer's K or V on the device.
struct State {
  State(Gpu& g, mica_dtype dtype, uint32_t head_dim, uint32_t n_kv_heads, bool is_v)
      : gpu(g), desc{dtype, head_dim, n_kv_heads, is_v ? 1u : 0u} {
    EXPECT_EQ(g.backend->kv_layout(g.device, &desc, &layout, &page_bytes), MICA_OK);
  }
  uint32_t block() const { return find_dtype(desc.dtype)->info.block_elems; }
  size_t row_bytes() const {
    return (desc.head_dim + block() - 1) / block() * find_dtype(desc.dtype)->info.block_bytes;
  }
  size_t rows_bytes() const { return row_bytes() * desc.n_kv_heads * vulkan::kPageCells; }
  std::vector<char> encode(const float* x) const {
    std::vector<float> padded((desc.head_dim + block() - 1) / block() * block(), 0.0f);
    std::copy(x, x + desc.head_dim, padded.begin());
    std::vector<char> row(row_bytes());
    find_dtype(desc.dtype)->encode(padded.data(), row.data(), padded.size());
    return row;
  }
  void pack(Memory& m, uint32_t page, const std::vector<char>& rows) {
    ASSERT_EQ(gpu.backend->kv_pack(gpu.device, &desc, m.buffer, page * page_bytes, rows.data()),
              MICA_OK);
  }
  std::vector<char> unpack(Memory& m, uint32_t page) {
    std::vector<char> rows(rows_bytes());
    EXPECT_EQ(gpu.backend->kv_unpack(gpu.device, &desc, m.buffer, page * page_bytes, rows.data()),
              MICA_OK);
    return rows;
  }
  Gpu& gpu;
  mica_b_kv_desc desc;
  uint32_t layout = 0;
  uint64_t page_bytes = 0;
};

// A plan of one node over values at given places.
class OneNode {
 public:
  explicit OneNode(Gpu& g, const char* variant = nullptr) : gpu_(g) { part_.variant = variant; }
  ~OneNode() {
    if (plan_ != nullptr) gpu_.backend->plan_release(plan_);
    if (arena_ != nullptr) gpu_.backend->buffer_free(arena_);
  }
  OneNode(const OneNode&) = delete;
  OneNode& operator=(const OneNode&) = delete;

  uint32_t value(mica_dtype dtype, std::vector<int64_t> dim, Memory& m,
                 mica_b_storage storage = MICA_B_STEP, uint32_t layout = 0) {
    mica_b_value v{};
    v.dtype = dtype;
    v.rank = static_cast<uint32_t>(dim.size());
    const mica_dtype_info& info = find_dtype(dtype)->info;
    for (size_t i = 0; i < 4; ++i) v.dim[i] = i < dim.size() ? dim[i] : 1;
    v.stride[0] = info.block_bytes;
    v.stride[1] = v.dim[0] / info.block_elems * info.block_bytes;
    for (size_t i = 2; i < 4; ++i) v.stride[i] = v.stride[i - 1] * v.dim[i - 1];
    v.extent = MICA_B_NONE;
    v.storage = storage;
    v.layout = layout;
    v.buffer = static_cast<uint32_t>(buffers_.size());
    v.bytes = m.bytes.size();
    buffers_.push_back(m.buffer);
    values_.push_back(v);
    return static_cast<uint32_t>(values_.size() - 1);
  }
  void run(mica_op_id op, const std::vector<uint32_t>& inputs, uint32_t output, const void* args,
           uint32_t args_size) {
    node_.op = op;
    node_.n_inputs = static_cast<uint32_t>(inputs.size());
    std::copy(inputs.begin(), inputs.end(), node_.input);
    node_.output = output;
    node_.args = args;
    node_.args_size = args_size;
    node_.name = "";
    unit_.region = MICA_B_NONE;
    unit_.barrier = 1;
    part_.struct_size = sizeof part_;
    part_.n_values = static_cast<uint32_t>(values_.size());
    part_.values = values_.data();
    part_.n_nodes = part_.n_units = 1;
    part_.nodes = &node_;
    part_.units = &unit_;
    part_.n_buffers = static_cast<uint32_t>(buffers_.size());
    char reason[200] = "";
    ASSERT_EQ(gpu_.backend->supports(gpu_.device, &part_, 0, reason, sizeof reason), MICA_OK)
        << reason;
    mica_b_need need{};
    need.struct_size = sizeof need;
    ASSERT_EQ(gpu_.backend->query(gpu_.device, &part_, 0, &need), MICA_OK);
    unit_.numerics = need.numerics;
    unit_.workspace_bytes = need.workspace_bytes;
    ASSERT_EQ(gpu_.backend->buffer_create(gpu_.device, need.workspace_bytes + 256, &arena_),
              MICA_OK);
    buffers_[0] = arena_;
    ASSERT_EQ(gpu_.backend->compile(gpu_.device, &part_, buffers_.data(), &plan_), MICA_OK)
        << gpu_.error;
    ASSERT_EQ(gpu_.backend->submit(plan_), MICA_OK) << gpu_.error;
    ASSERT_EQ(gpu_.backend->wait(plan_), MICA_OK) << gpu_.error;
  }

 private:
  Gpu& gpu_;
  std::vector<mica_b_value> values_;
  // The arena; then, as the step block's place, the first value's own buffer.
  std::vector<mica_b_buffer*> buffers_ = {nullptr};
  mica_b_node node_{};
  mica_b_unit unit_{};
  mica_b_partition part_{};
  mica_b_plan* plan_ = nullptr;
  mica_b_buffer* arena_ = nullptr;
};

TEST_F(VulkanKv, SizesAndRefusals) {
  uint32_t layout = 0;
  uint64_t bytes = 0;
  const auto page_bytes = [&](mica_dtype dtype, uint32_t head_dim) {
    const mica_b_kv_desc desc = {dtype, head_dim, 3, 0};
    return vulkan::kv_layout(nullptr, &desc, &layout, &bytes) == MICA_OK ? bytes : 0;
  };
  EXPECT_EQ(page_bytes(MICA_F16, 64), 64u * 3 * 64 * 2);
  EXPECT_EQ(page_bytes(MICA_F32, 20), 64u * 3 * 24 * 4);  // padded to 8
  EXPECT_EQ(page_bytes(MICA_Q8_0, 80), 64u * 3 * 3 * 34);
  EXPECT_EQ(page_bytes(MICA_Q4_0, 80), 64u * 3 * 3 * 18);
  EXPECT_EQ(page_bytes(MICA_Q4_1, 80), 64u * 3 * 3 * 20);
  EXPECT_EQ(page_bytes(MICA_Q5_0, 80), 64u * 3 * 3 * 22);
  EXPECT_EQ(page_bytes(MICA_Q5_1, 80), 64u * 3 * 3 * 24);
  const mica_b_kv_desc wrong_type = {MICA_Q4_K, 256, 1, 0};
  EXPECT_EQ(vulkan::kv_layout(nullptr, &wrong_type, &layout, &bytes), MICA_UNSUPPORTED);
  const mica_b_kv_desc no_heads = {MICA_F16, 64, 0, 0};
  EXPECT_EQ(vulkan::kv_layout(nullptr, &no_heads, &layout, &bytes), MICA_INVALID_ARGUMENT);
}

TEST_F(VulkanKv, UnpackIsTheInverseOfPack) {
  std::mt19937 random(1);
  for (const mica_dtype dtype : kTypes) {
    for (const uint32_t head_dim : {1u, 33u, 64u, 80u}) {
      State s(*gpu_, dtype, head_dim, 2, false);
      Memory m(*gpu_, s.page_bytes * kPages);
      std::vector<std::vector<char>> pages(kPages, std::vector<char>(s.rows_bytes()));
      for (uint32_t i = kPages; i-- > 0;) {
        for (char& c : pages[i]) c = static_cast<char>(random());
        s.pack(m, i, pages[i]);
      }
      for (uint32_t i = 0; i < kPages; ++i) ASSERT_TRUE(s.unpack(m, i) == pages[i]);
    }
  }
}

// The addressed cells hold the reference encoder's bits, all others are as they were.
TEST_F(VulkanKv, AppendIsBitExact) {
  std::mt19937 random(2);
  for (int round = 0; round < 12; ++round) {
    for (const mica_dtype dtype : kTypes) {
      const mica_dtype from = kTypes[random() % 3];
      const auto head_dim = static_cast<uint32_t>(1 + random() % 140);
      const auto n_heads = static_cast<uint32_t>(1 + random() % 3);
      const int64_t n_tokens = 1 + random() % 20;
      State s(*gpu_, dtype, head_dim, n_heads, false);
      Memory state(*gpu_, s.page_bytes * kPages);
      state.scramble(random);
      state.up();
      std::vector<std::vector<char>> want;
      for (uint32_t i = 0; i < kPages; ++i) want.push_back(s.unpack(state, i));
      std::vector<float> x(static_cast<size_t>(n_tokens) * n_heads * head_dim);
      const float sigma = std::pow(10.0f, static_cast<float>(random() % 14) - 8);
      for (float& v : x) v = round % 7 == 0 ? 0.0f : odd_value(random, sigma);
      Memory rows(*gpu_, x.size() * find_dtype(from)->info.block_bytes);
      find_dtype(from)->encode(x.data(), rows.bytes.data(), x.size());
      find_dtype(from)->decode(rows.bytes.data(), x.data(), x.size());
      rows.up();
      Memory slots(*gpu_, static_cast<size_t>(n_tokens) * 4);
      std::vector<int32_t> slot(kPages * 64 + 20);
      for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int32_t>(i) - 10;
      std::shuffle(slot.begin(), slot.end(), random);
      std::memcpy(slots.bytes.data(), slot.data(), slots.bytes.size());
      slots.up();
      for (size_t t = 0; t < static_cast<size_t>(n_tokens); ++t) {
        if (slot[t] < 0 || slot[t] >= static_cast<int32_t>(kPages * 64)) continue;
        const auto page = static_cast<size_t>(slot[t]) / 64,
                   cell = static_cast<size_t>(slot[t]) % 64;
        for (uint32_t h = 0; h < n_heads; ++h) {
          const std::vector<char> row = s.encode(&x[(t * n_heads + h) * head_dim]);
          std::copy(
              row.begin(), row.end(),
              want[page].begin() + static_cast<std::ptrdiff_t>((cell * n_heads + h) * row.size()));
        }
      }
      OneNode node(*gpu_);
      const uint32_t in_rows = node.value(from, {head_dim, n_heads, n_tokens}, rows);
      const uint32_t in_slots = node.value(MICA_I32, {n_tokens}, slots);
      const uint32_t in_state =
          node.value(dtype, {head_dim, n_heads, kPages * 64}, state, MICA_B_STATE, s.layout);
      node.run(MICA_OP_kv_append, {in_state, in_rows, in_slots}, in_state, nullptr, 0);
      for (uint32_t i = 0; i < kPages; ++i) {
        ASSERT_TRUE(s.unpack(state, i) == want[i])
            << find_dtype(dtype)->info.name << " from " << find_dtype(from)->info.name
            << ", head_dim " << head_dim << ", page " << i;
      }
    }
  }
}

// Whatever the words of a table are, every result is written, nothing else is, and both variants
// agree. (Spans rise, so that no two sequences have one token; entries of sequences follow one
// another, so that the workspace, which is sized for that, has a place for each chunk.)
TEST_F(VulkanKv, AttentionOverAnyTable) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  struct Shape {
    uint32_t dim_k, dim_v, n_heads, n_kv_heads;
    mica_dtype dtype_k, dtype_v;
  };
  const Shape shapes[] = {{40, 24, 6, 2, MICA_Q8_0, MICA_Q4_0},
                          {40, 24, 6, 2, MICA_Q5_1, MICA_Q5_0},
                          {40, 24, 6, 2, MICA_Q5_0, MICA_Q4_1},
                          {256, 200, 16, 2, MICA_F16, MICA_F32},
                          {72, 128, 20, 1, MICA_BF16, MICA_F16}};
  constexpr int64_t kTokens = 12;
  const mica_attention_args args = {0.2f, 0.0f, 1, 50, 3, 4, 0, 0, 0, 0};
  const auto any = [&](int64_t most) {
    if (random() % 16 == 0) return static_cast<int32_t>(random());
    return static_cast<int32_t>(random() % static_cast<uint64_t>(most + 2)) - 1;
  };
  for (int round = 0; round < 40; ++round) {
    const Shape& shape = shapes[round % 5];
    const mica_dtype type_k = shape.dtype_k, type_v = shape.dtype_v;
    const int64_t n_heads = shape.n_heads, n_kv_heads = shape.n_kv_heads;
    const int64_t dim_k = shape.dim_k, dim_v = shape.dim_v;
    const auto q_bytes = static_cast<size_t>(dim_k * n_heads * kTokens) * 4;
    const auto y_bytes = static_cast<size_t>(dim_v * n_heads * kTokens) * 4;
    State k(*gpu_, type_k, shape.dim_k, shape.n_kv_heads, false);
    State v(*gpu_, type_v, shape.dim_v, shape.n_kv_heads, true);
    Memory k_pages(*gpu_, k.page_bytes * kPages), v_pages(*gpu_, v.page_bytes * kPages);
    const auto fill = [&](State& s, Memory& m) {
      for (uint32_t page = 0; page < kPages; ++page) {
        std::vector<char> rows;
        for (int i = 0; i < 64 * n_kv_heads; ++i) {
          std::vector<float> x(s.desc.head_dim);
          for (float& value : x) value = normal(random);
          const std::vector<char> row = s.encode(x.data());
          rows.insert(rows.end(), row.begin(), row.end());
        }
        s.pack(m, page, rows);
      }
    };
    fill(k, k_pages);
    fill(v, v_pages);
    Memory q(*gpu_, q_bytes), positions(*gpu_, kTokens * 4);
    for (size_t i = 0; i < q.bytes.size(); i += 4) {
      const float x = normal(random);
      std::memcpy(&q.bytes[i], &x, 4);
    }
    for (size_t i = 0; i < positions.bytes.size(); i += 4) {
      const int32_t x = any(200);
      std::memcpy(&positions.bytes[i], &x, 4);
    }
    std::vector<int32_t> table(MICA_KV_TABLE_WORDS(4, 12));
    table[0] = 1 + static_cast<int32_t>(random() % 4);
    for (size_t i = 1; i < 5; ++i)
      table[1 + i] = std::min<int32_t>(kTokens, table[i] + static_cast<int32_t>(random() % 8));
    for (size_t i = 0; i < 5; ++i)
      table[6 + i] = i == 0 ? 0 : table[5 + i] + static_cast<int32_t>(random() % 5);
    for (size_t i = 11; i < table.size(); ++i) table[i] = any((i - 11) % 5 == 0 ? 2 : 64);
    Memory words(*gpu_, table.size() * 4);
    std::memcpy(words.bytes.data(), table.data(), words.bytes.size());
    for (Memory* m : {&q, &positions, &words}) m->up();
    std::vector<float> out[2];
    for (const uint32_t variant : {0u, 1u}) {
      constexpr size_t kGuard = 256;
      Memory y(*gpu_, y_bytes + kGuard);
      std::memset(y.bytes.data(), 0xff, y.bytes.size());
      y.up();
      OneNode node(*gpu_, variant != 0 ? "naive" : nullptr);
      const uint32_t in[] = {
          node.value(MICA_F32, {dim_k, n_heads, kTokens}, q),
          node.value(type_k, {dim_k, n_kv_heads, kPages * 64}, k_pages, MICA_B_STATE, k.layout),
          node.value(type_v, {dim_v, n_kv_heads, kPages * 64}, v_pages, MICA_B_STATE, v.layout),
          node.value(MICA_I32, {kTokens}, positions),
          node.value(MICA_I32, {static_cast<int64_t>(table.size())}, words)};
      const uint32_t result = node.value(MICA_F32, {dim_v, n_heads, kTokens}, y);
      node.run(MICA_OP_attention, {in[0], in[1], in[2], in[3], in[4], MICA_B_NONE, MICA_B_NONE},
               result, &args, sizeof args);
      y.down();
      for (size_t i = y.bytes.size() - kGuard; i < y.bytes.size(); ++i)
        ASSERT_EQ(y.bytes[i], '\xff');
      out[variant].resize(y_bytes / 4);
      std::memcpy(out[variant].data(), y.bytes.data(), y.bytes.size() - kGuard);
    }
    for (size_t i = 0; i < out[0].size(); ++i)
      ASSERT_NEAR(out[0][i], out[1][i], 1e-4) << "round " << round << ", element " << i;
  }
}

// Flat distributions: the token is often not among the first candidates.
TEST_F(VulkanKv, SamplesBeyondTheFirstCandidates) {
  constexpr int64_t kVocab = 9000, kRows = 16;
  const test::Context context = test::make_context();
  ASSERT_EQ(mica_context_add_backend(context.get(), gpu_->backend), MICA_OK);
  const std::vector<float> logits = test::randoms(kVocab * kRows, 4);
  const std::vector<float> kinds = {5, 0, 1, 0, 1, 0, 0.97f, 0, 3, 3000, 1, 0, 2, 600, 0.9f, 1e-4f};
  std::vector<float> params;
  for (int64_t i = 0; i < kRows / 4; ++i) params.insert(params.end(), kinds.begin(), kinds.end());
  std::vector<int32_t> keys(4 * kRows);
  std::mt19937 random(5);
  for (int32_t& k : keys) k = static_cast<int32_t>(random());
  std::vector<int32_t> tokens[2];
  for (const size_t i : {size_t{0}, size_t{1}}) {
    const test::Device device = test::open_device(context, i == 0 ? "ref" : "vulkan:llvmpipe");
    const test::Graph graph = test::make_graph(context);
    mica_graph* g = graph.get();
    mica_output(g,
                mica_sample(g, test::input(g, "logits", {kVocab, kRows}),
                            test::input(g, "params", {4, kRows}),
                            test::input(g, "keys", {4, kRows}, {}, MICA_I32)),
                "tokens");
    const test::Session session = test::make_session(device);
    mica_plan* plan = test::ready(context, session, graph);
    ASSERT_NE(plan, nullptr);
    test::set(session, "logits", logits);
    test::set(session, "params", params);
    test::set(session, "keys", keys);
    ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context.get());
    tokens[i] = test::read<int32_t>(plan, "tokens", kRows);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
}

}  // namespace
