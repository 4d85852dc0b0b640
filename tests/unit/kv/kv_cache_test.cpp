// The paged KV cache: what it refuses, what its tables say, copies, windows, when it is full.
#include "tests/unit/kv/kv_cache_fixture.h"

namespace {

using KvCache = mica::kv_test::KvFixture;

TEST_F(KvCache, PlacesLayersWithoutOverlap) {
  mica_kv_layer shared = layer();
  shared.source = 0;
  mica_kv_layer chained = layer();
  chained.source = 2;
  ASSERT_EQ(make({layer(), layer(100, 4), shared, chained}, 130, 2, 8), MICA_OK);
  EXPECT_EQ(mica::kv_n_groups(cache), 2u);
  EXPECT_EQ(cache->layers[1].group, 1u);
  EXPECT_EQ(cache->layers[3].group, 0u);
  const mica::KvPlace& a = mica::kv_place(cache, 0);
  const mica::KvPlace& b = mica::kv_place(cache, 1);
  EXPECT_EQ(a.n_pages, 3u);
  EXPECT_EQ(a.k_layout, 7u);
  EXPECT_EQ(a.v_layout, 8u);
  EXPECT_EQ(a.k_page_bytes, 64u * 2 * 64 * 2);
  EXPECT_EQ(a.v_page_bytes, 64u * 2 * 32 * 2 + 1);
  EXPECT_GE(a.v_offset, a.k_offset + 3 * a.k_page_bytes);
  EXPECT_GE(b.k_offset, a.v_offset + 3 * a.v_page_bytes);
  EXPECT_EQ(b.v_offset % 256, 0u);
  EXPECT_EQ(mica::kv_place(cache, 3).k_offset, a.k_offset);
  EXPECT_EQ(mica::kv_layer(cache, 3).source, 0u);
  EXPECT_GE(mica_kv_cache_bytes(cache), b.v_offset + b.n_pages * b.v_page_bytes);
}

TEST_F(KvCache, RefusesWhatCannotBe) {
  const auto refused = [&](const std::string& text) {
    EXPECT_NE(std::string(mica_context_error(context)).find(text), std::string::npos)
        << mica_context_error(context);
    EXPECT_EQ(cache, nullptr);
  };
  EXPECT_EQ(make({}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  refused("no layers");
  EXPECT_EQ(make({layer()}, 0, 1, 1), MICA_INVALID_ARGUMENT);
  refused("n_cells is 0");
  EXPECT_EQ(make({layer()}, 64, 0, 1), MICA_INVALID_ARGUMENT);
  refused("max_seqs is 0");
  EXPECT_EQ(make({layer()}, 64, 1, 0), MICA_INVALID_ARGUMENT);
  refused("max_step_tokens is 0");
  mica_kv_layer bad = layer();
  bad.source = 1;
  EXPECT_EQ(make({layer(), bad}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  refused("layer 1: its source 1 is not an earlier layer");
  bad = layer(5);
  bad.source = 0;
  EXPECT_EQ(make({layer(), bad}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  refused("must be those of its source, layer 0");
  bad = layer();
  bad.dtype_v = MICA_I32;
  EXPECT_EQ(make({bad}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  refused("layer 0: a cache cannot keep V as dtype 26 (i32)");
  bad.dtype_v = MICA_Q4_1;
  EXPECT_EQ(make({bad}, 64, 1, 1), MICA_UNSUPPORTED);
  refused("cannot keep V as q4_1 with heads of 32");
  bad = layer();
  bad.n_kv_heads = 0;
  EXPECT_EQ(make({bad}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  bad = layer();
  bad.struct_size = 3;
  EXPECT_EQ(make({bad}, 64, 1, 1), MICA_INVALID_ARGUMENT);
  refused("struct_size is 3");
  EXPECT_EQ(mica_kv_cache_create(nullptr, nullptr, &cache), MICA_INVALID_ARGUMENT);
}

TEST_F(KvCache, VMayBeK) {
  mica_kv_layer one = layer();
  one.head_dim_v = one.head_dim_k;
  one.v_is_k = 1;
  mica_kv_layer reader = one;
  reader.source = 0;
  const auto refused = [&](const std::vector<mica_kv_layer>& layers, const std::string& text) {
    EXPECT_EQ(make(layers, 64, 1, 1), MICA_INVALID_ARGUMENT);
    EXPECT_NE(std::string(mica_context_error(context)).find(text), std::string::npos)
        << mica_context_error(context);
  };
  for (const auto rotated : {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE}) {
    keys = rotated;
    refused({one}, "layer 0: its V cannot be its K, which the cache's keys rotate");
  }
  for (const auto plain : {MICA_KV_KEYS_NONE, MICA_KV_KEYS_UNROTATED}) {
    keys = plain;
    ASSERT_EQ(make({one, reader}, 130, 2, 8), MICA_OK) << mica_context_error(context);
    const mica::KvPlace& place = mica::kv_place(cache, 0);
    EXPECT_EQ(place.v_offset, place.k_offset);
    EXPECT_EQ(place.v_layout, 7u) << "what the backend calls K";
    EXPECT_EQ(mica_kv_cache_bytes(cache), 3u * 64 * 2 * 64 * 2);
  }
  mica_kv_layer bad = one;
  bad.head_dim_v = 32;
  refused({bad}, "its V is its K, but head_dim or dtype of the two differ");
  bad = one;
  bad.dtype_v = MICA_Q8_0;
  refused({bad}, "its V is its K, but head_dim or dtype of the two differ");
  reader.v_is_k = 0;
  refused({one, reader}, "v_is_k must be those of its source, layer 0");
}

TEST_F(KvCache, RefusesWrongSteps) {
  ASSERT_EQ(make({layer()}, 256, 2, 10), MICA_OK);
  EXPECT_EQ(reserve({}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(reserve({{2, 1}}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(reserve({{0, 1}, {0, 1}}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(reserve({{0, 0}}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(reserve({{0, 6}, {1, 5}}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(reserve({{0, UINT32_MAX}, {1, 5}}), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_commit(cache), MICA_INVALID_ARGUMENT);
  mica_kv_abandon(cache);
  ASSERT_EQ(reserve({{1, 5}, {0, 5}}), MICA_OK);
  EXPECT_EQ(reserve({{0, 1}}), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 0, -1), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, -1), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_keep(cache, 0), MICA_BUSY);
  EXPECT_EQ(mica_kv_commit(cache), MICA_OK);
  EXPECT_EQ(mica_kv_seq_rm(cache, 2, 0, -1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 0, 0, -1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 1, 4, -1), MICA_INVALID_ARGUMENT);  // 1 holds 4 itself
  EXPECT_EQ(mica_kv_seq_keep(cache, 9), MICA_INVALID_ARGUMENT);
  int64_t low = 0;
  EXPECT_EQ(mica_kv_seq_range(cache, 9, &low, &low), MICA_INVALID_ARGUMENT);
}

TEST_F(KvCache, WritesTheTableOfAStep) {
  ASSERT_EQ(make({layer()}, 64 * 6, 3, 100), MICA_OK);
  step({{2, 60}});
  ASSERT_EQ(reserve({{0, 3}, {2, 70}}), MICA_OK);
  uint32_t n = 0;
  const int32_t* t = mica::kv_step_data(cache, mica::kv_table_of(0), &n);
  const std::vector<int32_t> words(t, t + n);
  const int32_t tail = cache->groups[0].of(2)[0].page;
  const int32_t e0 = words[9];
  const int32_t e1 = words[21];
  const int32_t e2 = words[27];
  EXPECT_EQ(words, (std::vector<int32_t>{2,    0, 3,  73,  73,     // spans
                                         0,    1, 4,  4,           // starts
                                         e0,   0, 3,  0,   1,  0,  // sequence 0
                                         tail, 0, 64, 0,   1,  0,  // sequence 2
                                         e1,   0, 64, 64,  1,  0,  //
                                         e2,   0, 2,  128, 1,  0}));
  const int32_t* slots = mica::kv_step_data(cache, mica::kv_slots_of(0), &n);
  ASSERT_EQ(n, 73u);
  EXPECT_EQ(slots[2], e0 * 64 + 2);
  EXPECT_EQ(slots[3], tail * 64 + 60);
  EXPECT_EQ(slots[7], e1 * 64);
  EXPECT_EQ(slots[72], e2 * 64 + 1);
  const int32_t* positions = mica::kv_step_data(cache, mica::kKvPositions, &n);
  ASSERT_EQ(n, 73u);
  EXPECT_EQ(positions[2], 2);
  EXPECT_EQ(positions[3], 60);
  EXPECT_EQ(positions[72], 129);
  mica_kv_abandon(cache);
  (void)mica::kv_step_data(cache, mica::kv_table_of(0), &n);
  EXPECT_EQ(n, 0u);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 0);
  EXPECT_EQ(mica_kv_seq_next(cache, 2), 60);
  EXPECT_EQ(pages_used(), 1u);
}

TEST_F(KvCache, CopiesASharedTailOnce) {
  ASSERT_EQ(make({layer()}, 64 * 8, 3, 100), MICA_OK);
  step({{0, 70}});
  ASSERT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, -1), MICA_OK);
  EXPECT_EQ(pages_used(), 2u);
  // Both go on: one copies the tail, the last holder keeps it.
  ASSERT_EQ(reserve({{0, 1}, {1, 1}}), MICA_OK);
  uint32_t n = 0;
  (void)mica::kv_copies(cache, &n);
  EXPECT_EQ(n, 1u);
  ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
  EXPECT_EQ(pages_used(), 3u);
  (void)mica::kv_copies(cache, &n);
  EXPECT_EQ(n, 0u);
  // A part that ends inside another holder's cells is always copied.
  ASSERT_EQ(mica_kv_seq_cp(cache, 0, 2, 0, 68), MICA_OK);
  ASSERT_EQ(reserve({{0, 1}, {2, 1}}), MICA_OK);
  (void)mica::kv_copies(cache, &n);
  EXPECT_EQ(n, 2u);
  mica_kv_abandon(cache);
  EXPECT_EQ(pages_used(), 3u);
  ASSERT_EQ(mica_kv_seq_rm(cache, MICA_KV_ALL_SEQS, 0, -1), MICA_OK);
  EXPECT_EQ(pages_used(), 0u);
}

TEST_F(KvCache, WindowedSequencesNeverFill) {
  for (const uint32_t window : {1u, 2u, 63u, 64u, 65u, 200u}) {
    for (const uint32_t tokens : {1u, 2u, 64u, 100u}) {
      ASSERT_EQ(make({layer(window, 70)}, 0, 2, tokens), MICA_OK);
      const uint32_t pages = (window + tokens - 2 + 63) / 64 + 1 + 2;
      EXPECT_EQ(cache->groups[0].n_pages, 2 * pages);
      for (uint32_t i = 0; i < 1500 / tokens; ++i) {
        const uint32_t n = 1 + (i * 7) % tokens;
        const uint32_t first = i % (tokens - n + 1);
        if (first > 0) step({{0, n}, {1, first}});
        if (first == 0) step({{0, n}});
      }
      while (mica_kv_seq_next(cache, 1) < 600) step({{1, tokens}});
      EXPECT_LE(mica_kv_seq_cells(cache, 1), uint64_t{pages} * 64);
    }
  }
}

TEST_F(KvCache, WindowRefusesToGoBackTooFar) {
  ASSERT_EQ(make({layer(), layer(100)}, 2000, 3, 64), MICA_OK);
  for (int i = 0; i < 10; ++i) step({{0, 64}});
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 620, -1), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 620);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 300, -1), MICA_INVALID_ARGUMENT);
  EXPECT_STREQ(mica_context_error(context),
               "kv cache: sequence 0 cannot go on at position 300: the window of 100 has released "
               "positions 0 to 511; mica_kv_seq_rewind says where to run it again from");
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 620);
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, 300), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, -1), MICA_OK);
  EXPECT_EQ(mica_kv_seq_rm(cache, 1, 400, -1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 0, -1), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 0);
  EXPECT_EQ(mica_kv_seq_keep(cache, 0), MICA_OK);
  EXPECT_EQ(pages_used(), 0u);
}

TEST_F(KvCache, SaysWhenItIsFull) {
  ASSERT_EQ(make({layer()}, 128, 2, 200), MICA_OK);
  EXPECT_EQ(reserve({{0, 129}}), MICA_CACHE_FULL);
  EXPECT_STREQ(mica_context_error(context),
               "the KV cache has no room: the step needs 3 pages, 2 of 2 are free");
  step({{0, 128}});
  EXPECT_EQ(reserve({{0, 1}}), MICA_CACHE_FULL);
  ASSERT_EQ(make({layer()}, 640, 1, 200, 3), MICA_OK);
  step({{0, 192}});
  EXPECT_EQ(reserve({{0, 1}}), MICA_CACHE_FULL);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 10, 20), MICA_CACHE_FULL);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 10, 64), MICA_OK);
  EXPECT_EQ(mica_kv_seq_cells(cache, 0), 138u);
}

}  // namespace
