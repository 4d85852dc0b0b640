// Functions of the backend boundary that no plan calls: imported buffers, and KV pages as plain
// rows.
#include <gtest/gtest.h>

#include "core/kv/kv_cache.h"
#include "core/plan/session.h"
#include "tests/unit/world.h"

namespace {

using namespace mica::test;

class BoundaryTest : public testing::TestWithParam<const char*> {
 protected:
  Context context = make_context();
  Device device = open_device(context, GetParam());
  const mica_backend& backend() const { return *device->backend; }
};

TEST_P(BoundaryTest, ImportedBuffersAreTheCallersMemory) {
  std::vector<unsigned char> memory(1000, 7);
  mica_b_buffer *imported = nullptr, *own = nullptr;
  ASSERT_EQ(backend().buffer_import(device->handle, memory.data(), 1000, &imported), MICA_OK);
  ASSERT_EQ(backend().buffer_create(device->handle, 100, &own), MICA_OK);
  EXPECT_EQ(backend().buffer_map(imported), memory.data());
  const unsigned char text[] = "written";
  EXPECT_EQ(backend().buffer_write(imported, 10, text, sizeof text), MICA_OK);
  EXPECT_EQ(std::memcmp(memory.data() + 10, text, sizeof text), 0);
  EXPECT_EQ(backend().buffer_copy(own, 5, imported, 10, sizeof text), MICA_OK);
  unsigned char back[sizeof text] = {};
  EXPECT_EQ(backend().buffer_read(own, 5, back, sizeof back), MICA_OK);
  EXPECT_EQ(std::memcmp(back, text, sizeof text), 0);
  backend().buffer_free(own);
  backend().buffer_free(imported);
  EXPECT_EQ(memory[10], 'w');  // still the caller's
  EXPECT_EQ(memory[9], 7);
}

TEST_P(BoundaryTest, PagesUnpackToTheBytesThatWerePacked) {
  std::mt19937_64 rng(3);
  for (const mica_dtype dtype : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q8_0, MICA_Q4_0})
    for (const uint32_t head_dim : {32u, 40u, 64u})
      for (const uint32_t is_v : {0u, 1u}) {
        const mica_b_kv_desc desc = {dtype, head_dim, 3, is_v};
        uint32_t layout = 0;
        uint64_t page_bytes = 0;
        ASSERT_EQ(backend().kv_layout(device->handle, &desc, &layout, &page_bytes), MICA_OK);
        const mica_dtype_info* info = mica_dtype_get(dtype);
        const size_t row =
            (head_dim + info->block_elems - 1) / info->block_elems * info->block_bytes;
        std::vector<unsigned char> rows(64 * 3 * row), back(rows.size(), 0);
        for (unsigned char& b : rows) b = static_cast<unsigned char>(rng());
        mica_b_buffer* buffer = nullptr;
        ASSERT_EQ(backend().buffer_create(device->handle, 3 * page_bytes, &buffer), MICA_OK);
        EXPECT_EQ(backend().kv_pack(device->handle, &desc, buffer, page_bytes, rows.data()),
                  MICA_OK);
        EXPECT_EQ(backend().kv_unpack(device->handle, &desc, buffer, page_bytes, back.data()),
                  MICA_OK);
        EXPECT_EQ(rows, back) << info->name << " " << head_dim << " " << is_v;
        // The pages beside it are as they were.
        const auto* bytes = static_cast<const unsigned char*>(backend().buffer_map(buffer));
        for (uint64_t i = 0; i < page_bytes; ++i)
          ASSERT_EQ(bytes[i] | bytes[2 * page_bytes + i], 0);
        backend().buffer_free(buffer);
      }
}

// What kv_append stored comes back as the rows it was given, encoded.
TEST_P(BoundaryTest, UnpackGivesTheAppendedRows) {
  for (const mica_dtype dtype : {MICA_F16, MICA_Q8_0, MICA_Q4_0}) {
    constexpr uint32_t kHeads = 2, kHeadDim = 32, kTokens = 5;
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = kHeads;
    layer.head_dim_k = layer.head_dim_v = kHeadDim;
    layer.dtype_k = layer.dtype_v = dtype;
    mica_kv_params params = MICA_KV_PARAMS_INIT;
    params.n_layers = 1;
    params.layers = &layer;
    params.n_cells = 128;
    params.max_seqs = 1;
    params.max_step_tokens = kTokens;
    mica_kv_cache* raw = nullptr;
    ASSERT_EQ(mica_kv_cache_create(device.get(), &params, &raw), MICA_OK);
    const Cache cache(raw);
    const Graph g = make_graph(context);
    const mica_extent n = mica_graph_extent(g.get(), "n_tokens", kTokens);
    const mica_kv kv = mica_graph_kv(g.get(), raw, 0, n);
    mica_kv_append(g.get(), &kv, input(g.get(), "k", {kHeadDim, kHeads, kTokens}, n),
                   input(g.get(), "v", {kHeadDim, kHeads, kTokens}, n));
    const Session s = make_session(device, raw);
    mica_plan* plan = ready(context, s, g);
    ASSERT_NE(plan, nullptr);
    const std::vector<float> k = randoms(kHeadDim * kHeads * kTokens, 1), v = randoms(k.size(), 2);
    const mica_kv_span span = {0, kTokens};
    ASSERT_EQ(mica_kv_reserve(raw, 1, &span), MICA_OK);
    uint32_t n_slots = 0;
    const int32_t* slots = mica::kv_step_data(raw, mica::kv_slots_of(0), &n_slots);
    const std::vector<int32_t> cells(slots, slots + n_slots);
    set(s, "k", k);
    set(s, "v", v);
    ASSERT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context.get());
    const mica_dtype_info* info = mica_dtype_get(dtype);
    const size_t row = kHeadDim / info->block_elems * info->block_bytes;
    const mica::KvPlace& place = mica::kv_place(raw, 0);
    for (const uint32_t is_v : {0u, 1u}) {
      const mica_b_kv_desc desc = {dtype, kHeadDim, kHeads, is_v};
      std::vector<unsigned char> rows(64 * kHeads * row), want(kHeads * row);
      for (uint32_t token = 0; token < kTokens; ++token) {
        const auto page = static_cast<uint64_t>(cells[token] / 64);
        const auto cell = static_cast<uint64_t>(cells[token] % 64);
        const uint64_t at = is_v != 0 ? place.v_offset + page * place.v_page_bytes
                                      : place.k_offset + page * place.k_page_bytes;
        ASSERT_EQ(backend().kv_unpack(device->handle, &desc, s->kv.handle(), at, rows.data()),
                  MICA_OK);
        const float* from = (is_v != 0 ? v : k).data() + size_t{token} * kHeadDim * kHeads;
        ASSERT_EQ(mica_dtype_encode(dtype, from, want.data(), kHeadDim * kHeads), MICA_OK);
        EXPECT_EQ(std::memcmp(rows.data() + cell * want.size(), want.data(), want.size()), 0)
            << info->name << " token " << token << " is_v " << is_v;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, BoundaryTest, testing::Values("ref", "cpu"));

}  // namespace
