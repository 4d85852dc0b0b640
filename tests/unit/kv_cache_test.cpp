// The paged KV cache against a naive model: simulated pages hold a unique value a cell, and every
// sequence must find exactly its own values through its tables, whatever happened before.
#include "core/kv_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/device.h"

namespace {

using mica::KvEntry;
using mica::KvGroup;

uint32_t fake_count(const mica_host*) { return 1; }
mica_status fake_info(const mica_host*, uint32_t, mica_device_info* info) {
  *info = {};
  return MICA_OK;
}
mica_status fake_open(const mica_host*, const char*, mica_b_device** out) {
  static char handle;
  *out = reinterpret_cast<mica_b_device*>(&handle);
  return MICA_OK;
}
void fake_close(mica_b_device*) {}
mica_status fake_kv_layout(mica_b_device*, const mica_b_kv_desc* d, uint32_t* layout,
                           uint64_t* bytes) {
  if (d->dtype == MICA_Q4_1) return MICA_UNSUPPORTED;
  *layout = 7 + d->is_v;
  *bytes = uint64_t{64} * d->n_kv_heads * d->head_dim * 2 + d->is_v;
  return MICA_OK;
}

mica_backend fake_backend() {
  mica_backend b{};
  b.struct_size = sizeof b;
  b.abi = MICA_BACKEND_ABI;
  b.name = "fake";
  b.device_count = fake_count;
  b.device_info = fake_info;
  b.device_open = fake_open;
  b.device_close = fake_close;
  b.kv_layout = fake_kv_layout;
  return b;
}

class Fixture : public testing::Test {
 protected:
  Fixture() {
    EXPECT_EQ(mica_context_create(nullptr, &context), MICA_OK);
    EXPECT_EQ(mica_context_add_backend(context, &backend), MICA_OK);
    EXPECT_EQ(mica_device_open(context, "fake", &device), MICA_OK);
  }
  ~Fixture() override {
    mica_kv_cache_release(cache);
    mica_device_release(device);
    mica_context_release(context);
  }
  static mica_kv_layer layer(uint32_t window = 0, uint32_t n_first = 0) {
    mica_kv_layer l = MICA_KV_LAYER_INIT;
    l.n_kv_heads = 2;
    l.head_dim_k = 64;
    l.head_dim_v = 32;
    l.window = window;
    l.n_first = n_first;
    return l;
  }
  mica_status make(const std::vector<mica_kv_layer>& layers, uint32_t n_cells, uint32_t max_seqs,
                   uint32_t max_step_tokens, uint32_t max_entries = 0) {
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = static_cast<uint32_t>(layers.size());
    p.layers = layers.data();
    p.n_cells = n_cells;
    p.max_seqs = max_seqs;
    p.max_step_tokens = max_step_tokens;
    p.max_entries = max_entries;
    mica_kv_cache_release(cache);
    return mica_kv_cache_create(device, &p, &cache);
  }
  mica_status reserve(std::vector<mica_kv_span> spans) {
    return mica_kv_reserve(cache, static_cast<uint32_t>(spans.size()), spans.data());
  }
  void step(std::vector<mica_kv_span> spans) {
    ASSERT_EQ(reserve(std::move(spans)), MICA_OK) << mica_context_error(context);
    ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
  }
  uint64_t pages_used() const {
    mica_kv_usage u;
    EXPECT_EQ(mica_kv_cache_usage(cache, &u), MICA_OK);
    return u.n_pages - u.n_pages_free;
  }

  mica_backend backend = fake_backend();
  mica_context* context = nullptr;
  mica_device* device = nullptr;
  mica_kv_cache* cache = nullptr;
};

using KvCache = Fixture;

TEST_F(KvCache, PlacesLayersWithoutOverlap) {
  mica_kv_layer shared = layer();
  shared.source = 0;
  mica_kv_layer chained = layer();
  chained.source = 2;
  ASSERT_EQ(make({layer(), layer(100, 4), shared, chained}, 130, 2, 8), MICA_OK);
  EXPECT_EQ(mica::kv_n_groups(cache), 2u);
  EXPECT_EQ(mica::kv_group_of(cache, 1), 1u);
  EXPECT_EQ(mica::kv_group_of(cache, 3), 0u);
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
  refused("layer 0: a cache cannot keep this dtype");
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
  const int32_t* t = mica::kv_table(cache, 0, &n);
  const std::vector<int32_t> words(t, t + n);
  const int32_t tail = cache->groups[0].of(2)[0].page;
  const int32_t e0 = words[9];
  const int32_t e1 = words[19];
  const int32_t e2 = words[24];
  EXPECT_EQ(words, (std::vector<int32_t>{2, 0, 3, 73, 73,            // spans
                                         0, 1, 4, 4,                 // starts
                                         e0, 0, 3, 0, 1,             // sequence 0
                                         tail, 0, 64, 0, 1,          // sequence 2
                                         e1, 0, 64, 64, 1, e2, 0, 2, 128, 1}));
  const int32_t* slots = mica::kv_slots(cache, 0, &n);
  ASSERT_EQ(n, 73u);
  EXPECT_EQ(slots[2], e0 * 64 + 2);
  EXPECT_EQ(slots[3], tail * 64 + 60);
  EXPECT_EQ(slots[7], e1 * 64);
  EXPECT_EQ(slots[72], e2 * 64 + 1);
  const int32_t* positions = mica::kv_positions(cache, &n);
  ASSERT_EQ(n, 73u);
  EXPECT_EQ(positions[2], 2);
  EXPECT_EQ(positions[3], 60);
  EXPECT_EQ(positions[72], 129);
  mica_kv_abandon(cache);
  (void)mica::kv_table(cache, 0, &n);
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
      EXPECT_EQ(mica::kv_n_pages(cache, 0), 2 * pages);
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
               "positions 0 to 511");
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

// What the model knows of one sequence: its values by position.
using Line = std::map<int64_t, int64_t>;

struct KvCacheRandom : Fixture {
  // Everything that a call that fails must leave as it was.
  using Bytes = std::vector<int64_t>;
  Bytes snapshot() const {
    Bytes b;
    for (const KvGroup& g : cache->groups) {
      for (uint32_t p = 0; p < g.n_pages; ++p) {
        b.push_back(g.page_refs[p]);
        b.push_back(g.page_end[p]);
      }
      for (const int32_t p : g.free_pages) b.push_back(p);
      for (uint32_t s = 0; s < cache->max_seqs; ++s) {
        b.push_back(g.seqs[s].n_entries);
        b.push_back(g.seqs[s].lost_from);
        b.push_back(g.seqs[s].lost_to);
        for (uint32_t i = 0; i < g.seqs[s].n_entries; ++i) {
          const KvEntry& e = g.of(s)[i];
          for (const int32_t v : {e.page, e.first_cell, e.n_cells, e.base, e.div}) b.push_back(v);
        }
      }
    }
    for (uint32_t s = 0; s < cache->max_seqs; ++s) b.push_back(cache->next[s]);
    return b;
  }

  static bool visible(const KvGroup& g, int64_t position, int64_t query) {
    return g.window == 0 || position > query - g.window || position < g.n_first;
  }

  // Through `entries`, the sequence sees its values, all that a query at `query` may need.
  void check_entries(uint32_t group, const KvEntry* e, uint32_t n, const Line& line, int64_t query) {
    const KvGroup& g = cache->groups[group];
    std::map<int64_t, int64_t> seen;
    int64_t before = -1;
    for (uint32_t i = 0; i < n; ++i) {
      ASSERT_GE(e[i].first_cell, 0);
      ASSERT_GT(e[i].n_cells, 0);
      ASSERT_LE(e[i].first_cell + e[i].n_cells, 64);
      ASSERT_LT(static_cast<uint32_t>(e[i].page), g.n_pages);
      ASSERT_GT(e[i].base, before);
      before = e[i].base + e[i].n_cells - 1;
      for (int32_t k = 0; k < e[i].n_cells; ++k)
        seen[e[i].base + k] = store[group][static_cast<size_t>(e[i].page * 64 + e[i].first_cell + k)];
    }
    for (const auto& [position, value] : seen) {
      const auto it = line.find(position);
      ASSERT_TRUE(it != line.end()) << "position " << position << " is not of the sequence";
      ASSERT_EQ(it->second, value) << "group " << group << " position " << position;
    }
    for (const auto& [position, value] : line) {
      if (!visible(g, position, query)) continue;
      ASSERT_EQ(seen.count(position), 1u) << "group " << group << " lacks position " << position;
    }
  }

  void check_all() {
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      const KvGroup& g = cache->groups[gi];
      std::vector<uint32_t> refs(g.n_pages, 0);
      for (uint32_t s = 0; s < cache->max_seqs; ++s) {
        ASSERT_LE(g.seqs[s].n_entries, g.max_seq_entries);
        for (uint32_t i = 0; i < g.seqs[s].n_entries; ++i)
          ++refs[static_cast<size_t>(g.of(s)[i].page)];
        check_entries(gi, g.of(s), g.seqs[s].n_entries, lines[s], mica_kv_seq_next(cache, s));
        if (HasFatalFailure()) return;
      }
      std::set<int32_t> free(g.free_pages.begin(), g.free_pages.end());
      ASSERT_EQ(free.size(), g.free_pages.size()) << "a page is free twice";
      for (uint32_t p = 0; p < g.n_pages; ++p) {
        ASSERT_EQ(g.page_refs[p], refs[p]) << "group " << gi << " page " << p;
        ASSERT_EQ(free.count(static_cast<int32_t>(p)) == 1, refs[p] == 0) << "leaked page " << p;
      }
    }
    for (uint32_t s = 0; s < cache->max_seqs; ++s) {
      const int64_t next = lines[s].empty() ? 0 : lines[s].rbegin()->first + 1;
      ASSERT_GE(mica_kv_seq_next(cache, s), next);
      ASSERT_TRUE(lossy || mica_kv_seq_next(cache, s) == next);
    }
  }

  // Does what a session does: copies pages, appends the step's values, reads through the tables.
  void run_step(const std::vector<mica_kv_span>& spans, std::vector<Line>& after) {
    after = lines;
    std::vector<int64_t> values;
    for (const mica_kv_span& s : spans) {
      const int64_t next = mica_kv_seq_next(cache, s.seq);
      for (uint32_t i = 0; i < s.n_tokens; ++i) {
        values.push_back(++last_value);
        after[s.seq][next + i] = last_value;
      }
    }
    uint32_t n = 0;
    const mica::PageCopy* copies = mica::kv_copies(cache, &n);
    n_copies += n;
    for (uint32_t i = 0; i < n; ++i) {
      const KvGroup& g = cache->groups[copies[i].group];
      ASSERT_EQ(g.page_refs[copies[i].dst], 0u) << "a copy writes a page in use";
      ASSERT_GT(g.page_refs[copies[i].src], 1u) << "a page that is not shared is copied";
      for (uint32_t k = 0; k < 64; ++k)
        store[copies[i].group][copies[i].dst * 64 + k] = store[copies[i].group][copies[i].src * 64 + k];
    }
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      const int32_t* slots = mica::kv_slots(cache, gi, &n);
      ASSERT_EQ(n, values.size());
      ASSERT_EQ(std::set<int32_t>(slots, slots + n).size(), n) << "two tokens in one cell";
      for (uint32_t i = 0; i < n; ++i) store[gi][static_cast<size_t>(slots[i])] = values[i];
      check_tables(gi, spans, slots, after);
      if (HasFatalFailure()) return;
    }
  }

  void check_tables(uint32_t gi, const std::vector<mica_kv_span>& spans, const int32_t* slots,
                    const std::vector<Line>& after) {
    uint32_t n_words = 0;
    const int32_t* t = mica::kv_table(cache, gi, &n_words);
    const uint32_t max_seqs = cache->max_seqs;
    ASSERT_EQ(t[0], static_cast<int32_t>(spans.size()));
    const int32_t* starts = t + MICA_KV_TABLE_STARTS(max_seqs);
    const auto* entries = reinterpret_cast<const KvEntry*>(t + MICA_KV_TABLE_ENTRIES(max_seqs));
    ASSERT_EQ(n_words, MICA_KV_TABLE_ENTRIES(max_seqs) + 5u * static_cast<uint32_t>(starts[spans.size()]));
    ASSERT_LE(static_cast<uint32_t>(starts[spans.size()]), mica::kv_max_entries(cache, gi));
    // After the step: which sequences hold a page, those of the step by its table.
    std::map<int32_t, std::set<uint32_t>> holders;
    std::set<uint32_t> in_step;
    for (size_t i = 0; i < spans.size(); ++i) {
      in_step.insert(spans[i].seq);
      for (int32_t e = starts[i]; e < starts[i + 1]; ++e) holders[entries[e].page].insert(spans[i].seq);
      check_entries(gi, entries + starts[i], static_cast<uint32_t>(starts[i + 1] - starts[i]),
                    after[spans[i].seq], mica_kv_seq_next(cache, spans[i].seq));
      if (HasFatalFailure()) return;
    }
    const KvGroup& g = cache->groups[gi];
    for (uint32_t s = 0; s < max_seqs; ++s)
      for (uint32_t i = 0; in_step.count(s) == 0 && i < g.seqs[s].n_entries; ++i)
        holders[g.of(s)[i].page].insert(s);
    for (int32_t i = 0; i < t[1 + spans.size()]; ++i)
      ASSERT_EQ(holders[slots[i] / 64].size(), 1u) << "a shared page is appended to";
  }

  void random_step() {
    std::vector<mica_kv_span> spans;
    std::set<uint32_t> used;
    uint32_t left = cache->max_step_tokens;
    for (uint32_t k = 1 + pick(cache->max_seqs); k > 0 && left > 0; --k) {
      const uint32_t seq = pick(cache->max_seqs);
      if (!used.insert(seq).second) continue;
      const uint32_t n = 1 + pick(pick(3) == 0 ? left : std::min(left, 4u));
      spans.push_back({seq, n});
      left -= n;
    }
    const Bytes before = snapshot();
    const mica_status status = reserve(spans);
    ASSERT_EQ(snapshot(), before) << "reserve changed what is committed";
    if (status == MICA_CACHE_FULL) {
      ++n_full;
      ASSERT_FALSE(mica::kv_pending(cache));
      return;
    }
    ASSERT_EQ(status, MICA_OK) << mica_context_error(context);
    std::vector<Line> after;
    run_step(spans, after);
    if (HasFatalFailure()) return;
    if (pick(5) == 0) {
      mica_kv_abandon(cache);
      ASSERT_EQ(snapshot(), before);
    } else {
      ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
      lines = std::move(after);
    }
  }

  void accept(mica_status status, const Bytes& before, const std::vector<Line>& after) {
    if (status == MICA_OK) {
      lines = after;
      return;
    }
    ASSERT_EQ(snapshot(), before);
    if (status == MICA_CACHE_FULL) return;
    ASSERT_EQ(status, MICA_INVALID_ARGUMENT);
    ASSERT_NE(std::string(mica_context_error(context)).find("has released"), std::string::npos)
        << mica_context_error(context);
    ++n_refused;
  }

  void random_edit() {
    const Bytes before = snapshot();
    std::vector<Line> after = lines;
    const uint32_t seq = pick(cache->max_seqs);
    const int64_t next = mica_kv_seq_next(cache, seq);
    const int64_t p0 = pick(static_cast<uint32_t>(next) + 2);
    const int64_t p1 = pick(2) == 0 ? -1 : p0 + pick(static_cast<uint32_t>(next) + 2);
    const auto cut = [&](Line& line, int64_t from, int64_t to) {
      line.erase(line.lower_bound(from), to < 0 ? line.end() : line.lower_bound(std::max(to, from)));
    };
    const uint32_t kind = pick(12);
    if (kind < 4) {
      cut(after[seq], p0, p1);
      accept(mica_kv_seq_rm(cache, seq, p0, p1), before, after);
    } else if (kind < 5) {
      const int64_t from = pick(4) == 0 ? 0 : p0;
      for (Line& line : after) cut(line, from, p1);
      accept(mica_kv_seq_rm(cache, MICA_KV_ALL_SEQS, from, p1), before, after);
    } else if (kind < 11) {
      const uint32_t dst = (seq + 1 + pick(cache->max_seqs - 1)) % cache->max_seqs;
      const int64_t from = pick(2) == 0 ? 0 : p0;
      if (pick(2) == 0) {
        ASSERT_EQ(mica_kv_seq_rm(cache, dst, 0, -1), MICA_OK);
        after[dst].clear();
        lines[dst].clear();
      }
      const Bytes now = snapshot();
      if (!after[dst].empty() && after[dst].rbegin()->first >= from) {
        const mica_status status = mica_kv_seq_cp(cache, seq, dst, from, p1);
        const auto first = lines[seq].lower_bound(from);
        const bool nothing = first == lines[seq].end() || (p1 >= 0 && first->first >= p1);
        ASSERT_TRUE(status != MICA_OK || nothing || lossy);
        ASSERT_EQ(snapshot(), now);
        return;
      }
      for (const auto& [position, value] : lines[seq])
        if (position >= from && (p1 < 0 || position < p1)) after[dst][position] = value;
      accept(mica_kv_seq_cp(cache, seq, dst, from, p1), now, after);
    } else if (pick(10) == 0) {
      for (uint32_t s = 0; s < cache->max_seqs; ++s)
        if (s != seq) after[s].clear();
      accept(mica_kv_seq_keep(cache, seq), before, after);
    }
  }

  void play(uint32_t seed, int n_rounds) {
    random.seed(seed);
    store.clear();
    for (const KvGroup& g : cache->groups) store.emplace_back(size_t{g.n_pages} * 64, -1);
    lines.assign(cache->max_seqs, {});
    lossy = true;
    for (const KvGroup& g : cache->groups) lossy &= g.window != 0;
    for (int round = 0; round < n_rounds; ++round) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " round " + std::to_string(round));
      pick(3) == 0 ? random_edit() : random_step();
      if (HasFatalFailure()) return;
      check_all();
      if (HasFatalFailure()) return;
    }
  }

  uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random() % n); }

  std::mt19937 random;
  std::vector<std::vector<int64_t>> store;  // [group][page * 64 + cell]
  std::vector<Line> lines;                  // [seq]
  int64_t last_value = 0;
  bool lossy = false;  // every group has a window: the model knows more than the cache
  uint64_t n_copies = 0, n_full = 0, n_refused = 0;
};

TEST_F(KvCacheRandom, OneGroup) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 14, 4, 90), MICA_OK);
    play(seed, 1500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 100u);
  EXPECT_GT(n_full, 100u);
  EXPECT_EQ(n_refused, 0u);
}

TEST_F(KvCacheRandom, WindowedBesideFull) {
  for (uint32_t seed = 11; seed <= 16; ++seed) {
    ASSERT_EQ(make({layer(), layer(40), layer(100, 70), layer(1)}, 64 * 20, 3, 130), MICA_OK);
    play(seed, 1000);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 100u);
  EXPECT_GT(n_refused, 10u);
}

TEST_F(KvCacheRandom, WindowedOnly) {
  for (uint32_t seed = 21; seed <= 24; ++seed) {
    ASSERT_EQ(make({layer(150), layer(10, 5)}, 0, 5, 80), MICA_OK);
    play(seed, 800);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 50u);
}

TEST_F(KvCacheRandom, FewEntries) {
  for (uint32_t seed = 31; seed <= 34; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 12, 4, 90, 14), MICA_OK);
    play(seed, 800);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_full, 50u);
}

}  // namespace
