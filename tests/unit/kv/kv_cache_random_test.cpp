// The paged KV cache against a naive model: simulated pages hold a unique value a cell, and every
// sequence must find exactly its own values through its tables, whatever happened before.
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/unit/kv/kv_cache_fixture.h"

namespace {

using mica::KvEntry;
using mica::KvGroup;

// What the model knows of one sequence: its values by position.
using Line = std::map<int64_t, int64_t>;

struct KvCacheRandom : mica::kv_test::KvFixture {
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
  void check_entries(uint32_t group, const KvEntry* e, uint32_t n, const Line& line,
                     int64_t query) {
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
        seen[e[i].base + k] = store[group][static_cast<size_t>(e[i].page) * 64 +
                                           static_cast<size_t>(e[i].first_cell + k)];
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
        store[copies[i].group][copies[i].dst * 64 + k] =
            store[copies[i].group][copies[i].src * 64 + k];
    }
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      const int32_t* slots = mica::kv_step_data(cache, mica::kv_slots_of(gi), &n);
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
    const int32_t* t = mica::kv_step_data(cache, mica::kv_table_of(gi), &n_words);
    const uint32_t max_seqs = cache->max_seqs;
    ASSERT_EQ(t[0], static_cast<int32_t>(spans.size()));
    const int32_t* starts = t + MICA_KV_TABLE_STARTS(max_seqs);
    const int32_t* words = t + MICA_KV_TABLE_ENTRIES(max_seqs);
    const auto n_entries = static_cast<uint32_t>(starts[spans.size()]);
    ASSERT_EQ(n_words, MICA_KV_TABLE_WORDS(max_seqs, n_entries));
    std::vector<KvEntry> entries;
    for (uint32_t i = 0; i < n_entries; ++i, words += MICA_KV_ENTRY_WORDS)
      entries.push_back({words[0], words[1], words[2], words[3], words[4], words[3], words[4]});
    ASSERT_LE(static_cast<uint32_t>(starts[spans.size()]), cache->groups[gi].max_entries);
    // After the step: which sequences hold a page, those of the step by its table.
    std::map<int32_t, std::set<uint32_t>> holders;
    std::set<uint32_t> in_step;
    for (size_t i = 0; i < spans.size(); ++i) {
      in_step.insert(spans[i].seq);
      for (int32_t e = starts[i]; e < starts[i + 1]; ++e)
        holders[entries[static_cast<size_t>(e)].page].insert(spans[i].seq);
      check_entries(gi, entries.data() + starts[i],
                    static_cast<uint32_t>(starts[i + 1] - starts[i]), after[spans[i].seq],
                    mica_kv_seq_next(cache, spans[i].seq));
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
      ASSERT_FALSE(cache->pending);
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
    const std::string error = mica_context_error(context);
    ASSERT_TRUE(error.find("has released") != std::string::npos ||
                (lossy && error.find("held positions") != std::string::npos))
        << error;
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
      line.erase(line.lower_bound(from),
                 to < 0 ? line.end() : line.lower_bound(std::max(to, from)));
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
      bool taken = false;
      for (const auto& [position, value] : lines[seq])
        if (position >= from && (p1 < 0 || position < p1))
          taken |= !after[dst].insert({position, value}).second;
      if (taken) {
        ASSERT_TRUE(mica_kv_seq_cp(cache, seq, dst, from, p1) != MICA_OK || lossy);
        ASSERT_EQ(snapshot(), now);
        return;
      }
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
