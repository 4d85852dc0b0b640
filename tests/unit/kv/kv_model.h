// The paged KV cache against a naive model: simulated pages hold, per cell, a unique value and the
// position that its K is rotated to, and every sequence must find exactly its own values through
// its tables, whatever happened before.
#pragma once
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/unit/kv/kv_cache_fixture.h"

namespace mica::kv_test {

// What the model knows of one sequence: (position, value); several cells may share a position.
using Line = std::multiset<std::pair<int64_t, int64_t>>;

struct Cell {
  int64_t value = -1, key = -1;
};

struct KvModel : KvFixture {
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
          for (const int32_t v :
               {e.page, e.first_cell, e.n_cells, e.base, e.div, e.key_base, e.key_div})
            b.push_back(v);
        }
      }
    }
    for (uint32_t s = 0; s < cache->max_seqs; ++s) {
      b.push_back(cache->next[s]);
      b.push_back(cache->next_key[s]);
      b.push_back(cache->again[s]);
    }
    return b;
  }

  // Must a group have the position for a sequence that goes on at `at`? While tokens are run again
  // up to `again`, a window has what was stored since, for the query at `again`.
  static bool is_needed(const KvGroup& g, int64_t position, int64_t at, int64_t again) {
    if (g.window == 0) return true;
    if (position >= at) return false;
    return position < g.n_first || position > std::max(at, again) - g.window;
  }

  Cell& cell(uint32_t group, int32_t page, int64_t i) {
    return store[group][static_cast<size_t>(page) * 64 + static_cast<size_t>(i)];
  }

  // Through `entries`, the sequence sees its values, all that it needs to go on at `next`. `turns`:
  // of each entry, by how much queries are rotated.
  void check_entries(uint32_t group, const std::vector<KvEntry>& entries, const Line& line,
                     int64_t at_next, int64_t again, const std::vector<int64_t>* turns) {
    const KvGroup& g = cache->groups[group];
    Line seen;
    int64_t before = -1;
    for (size_t k = 0; k < entries.size(); ++k) {
      const KvEntry& e = entries[k];
      ASSERT_GE(e.first_cell, 0);
      ASSERT_GT(e.n_cells, 0);
      ASSERT_LE(e.first_cell + e.n_cells, 64);
      ASSERT_LT(static_cast<uint32_t>(e.page), g.n_pages);
      ASSERT_GE(e.first(), before) << "entries do not rise";
      before = e.last();
      for (int64_t i = 0; i < e.n_cells; ++i) {
        const Cell& c = cell(group, e.page, e.first_cell + i);
        const int64_t position = (int64_t{e.base} + i) / e.div;
        seen.insert({position, c.value});
        if (cache->keys == MICA_KV_KEYS_NONE) continue;
        int64_t key = (int64_t{e.key_base} + i) / e.key_div;
        if (turns != nullptr)
          key = cache->keys == MICA_KV_KEYS_UNROTATED ? 0 : position + (*turns)[k];
        ASSERT_EQ(key, c.key) << "position " << position;
      }
    }
    for (const auto& at : seen)
      ASSERT_GE(line.count(at), seen.count(at))
          << "group " << group << " position " << at.first << " is not of the sequence";
    for (const auto& at : line) {
      if (!is_needed(g, at.first, at_next, again)) continue;
      ASSERT_EQ(seen.count(at), line.count(at))
          << "group " << group << " lacks position " << at.first << " before " << at_next;
    }
  }

  static std::vector<KvEntry> held(const KvGroup& g, uint32_t seq) {
    return {g.of(seq), g.of(seq) + g.seqs[seq].n_entries};
  }

  void check_usage() {
    uint64_t all = 0;
    uint64_t first = 0;
    for (const KvGroup& g : cache->groups) {
      std::set<int32_t> cells;
      for (uint32_t s = 0; s < cache->max_seqs; ++s)
        for (const KvEntry& e : held(g, s))
          for (int32_t i = 0; i < e.n_cells; ++i) cells.insert(e.page * 64 + e.first_cell + i);
      all += cells.size();
      if (&g == cache->groups.begin()) first = cells.size();
    }
    mica_kv_usage usage{};
    ASSERT_EQ(mica_kv_cache_usage(cache, &usage), MICA_OK);
    ASSERT_EQ(usage.n_cells_used, first);
    ASSERT_EQ(usage.n_cells_used_all, all);
  }

  void check_all() {
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      const KvGroup& g = cache->groups[gi];
      std::vector<uint32_t> refs(g.n_pages, 0);
      for (uint32_t s = 0; s < cache->max_seqs; ++s) {
        ASSERT_LE(g.seqs[s].n_entries, g.max_seq_entries);
        for (const KvEntry& e : held(g, s)) {
          ++refs[static_cast<size_t>(e.page)];
          ASSERT_LE(e.first_cell + e.n_cells, g.page_end[static_cast<size_t>(e.page)]);
        }
        check_entries(gi, held(g, s), lines[s], next[s], redo[s], nullptr);
        if (HasFatalFailure()) return;
      }
      std::set<int32_t> free(g.free_pages.begin(), g.free_pages.end());
      ASSERT_EQ(free.size(), g.free_pages.size()) << "a page is free twice";
      for (uint32_t p = 0; p < g.n_pages; ++p) {
        ASSERT_EQ(g.page_refs[p], refs[p]) << "group " << gi << " page " << p;
        ASSERT_EQ(free.count(static_cast<int32_t>(p)) == 1, refs[p] == 0) << "leaked page " << p;
      }
    }
    for (uint32_t s = 0; s < cache->max_seqs; ++s)
      ASSERT_EQ(mica_kv_seq_next(cache, s), next[s]) << "sequence " << s;
  }

  void copy_pages() {
    has_written = true;
    uint32_t n = 0;
    const PageCopy* copies = kv_copies(cache, &n);
    n_copies += n;
    for (uint32_t i = 0; i < n; ++i) {
      const KvGroup& g = cache->groups[copies[i].group];
      ASSERT_EQ(g.page_refs[copies[i].dst], 0u) << "a copy writes a page in use";
      ASSERT_GT(g.page_refs[copies[i].src], 1u) << "a page that is not shared is copied";
      for (uint32_t k = 0; k < 64; ++k)
        store[copies[i].group][copies[i].dst * 64 + k] =
            store[copies[i].group][copies[i].src * 64 + k];
    }
  }

  // Does what a session does: copies pages, appends the step's values, reads through the tables.
  // Tokens that are run again give the values that they gave.
  void run_step(const std::vector<mica_kv_span>& spans, std::vector<Line>& after) {
    after = lines;
    std::vector<int64_t> values;
    for (const mica_kv_span& s : spans)
      for (int64_t p = next[s.seq]; p < next[s.seq] + s.n_tokens; ++p) {
        const auto it = lines[s.seq].lower_bound({p, INT64_MIN});
        if (it != lines[s.seq].end() && it->first == p) {
          values.push_back(it->second);
        } else {
          values.push_back(++last_value);
          after[s.seq].insert({p, last_value});
        }
      }
    copy_pages();
    uint32_t n = 0;
    const int32_t* stored_as = kv_step_data(cache, kKvKeyPositions, &n);
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      const int32_t* slots = kv_step_data(cache, kv_slots_of(gi), &n);
      ASSERT_EQ(n, values.size());
      std::set<int32_t> used;
      for (uint32_t i = 0; i < n; ++i) {
        if (slots[i] < 0) continue;
        ASSERT_TRUE(used.insert(slots[i]).second) << "two tokens in one cell";
        store[gi][static_cast<size_t>(slots[i])] = {values[i], stored_as[i]};
      }
      (void)kv_step_data(cache, kv_shifts_of(gi), &n);
      ASSERT_EQ(n, 1u) << "a step with tokens shifts";
      ASSERT_EQ(cache->groups[gi].shifts[0], 0);
      check_tables(gi, spans, slots, after);
      if (HasFatalFailure()) return;
    }
  }

  void check_tables(uint32_t gi, const std::vector<mica_kv_span>& spans, const int32_t* slots,
                    const std::vector<Line>& after) {
    uint32_t n_words = 0;
    const int32_t* turns = kv_step_data(cache, kKvTurns, &n_words);
    const int32_t* t = kv_step_data(cache, kv_table_of(gi), &n_words);
    const uint32_t max_seqs = cache->max_seqs;
    ASSERT_EQ(t[0], static_cast<int32_t>(spans.size()));
    const int32_t* starts = t + MICA_KV_TABLE_STARTS(max_seqs);
    const int32_t* words = t + MICA_KV_TABLE_ENTRIES(max_seqs);
    ASSERT_EQ(n_words, MICA_KV_TABLE_WORDS(max_seqs, static_cast<uint32_t>(starts[spans.size()])));
    ASSERT_LE(static_cast<uint32_t>(starts[spans.size()]), cache->groups[gi].max_entries);
    // After the step: which sequences hold a page, those of the step by its table.
    std::map<int32_t, std::set<uint32_t>> holders;
    std::set<uint32_t> in_step;
    for (size_t i = 0; i < spans.size(); ++i) {
      const uint32_t seq = spans[i].seq;
      in_step.insert(seq);
      std::vector<KvEntry> entries;
      std::vector<int64_t> by;
      for (int32_t e = starts[i]; e < starts[i + 1]; ++e, words += MICA_KV_ENTRY_WORDS) {
        entries.push_back({words[0], words[1], words[2], words[3], words[4], words[3], words[4]});
        ASSERT_LT(static_cast<uint32_t>(words[5]), cache->max_turns);
        ASSERT_LT(static_cast<uint32_t>(words[5]), cache->n_turns);
        by.push_back(turns[words[5]]);
        if (cache->keys == MICA_KV_KEYS_UNROTATED) {
          ASSERT_GE(words[5], MICA_KV_OFFSET_TURNS);
          ASSERT_EQ(by.back(), words[3] / words[4] / 64 * 64);
        }
        holders[words[0]].insert(seq);
      }
      check_entries(gi, entries, after[seq], next[seq] + spans[i].n_tokens, redo[seq], &by);
      if (HasFatalFailure()) return;
      check_queries(gi, entries, after[seq], spans[i]);
      if (HasFatalFailure()) return;
    }
    const KvGroup& g = cache->groups[gi];
    for (uint32_t s = 0; s < max_seqs; ++s)
      for (uint32_t i = 0; in_step.count(s) == 0 && i < g.seqs[s].n_entries; ++i)
        holders[g.of(s)[i].page].insert(s);
    for (int32_t i = 0; i < t[1 + spans.size()]; ++i)
      ASSERT_TRUE(slots[i] < 0 || holders[slots[i] / 64].size() == 1)
          << "a shared page is appended to";
  }

  // The first query of a span finds what it sees.
  void check_queries(uint32_t gi, const std::vector<KvEntry>& entries, const Line& line,
                     const mica_kv_span& span) {
    const KvGroup& g = cache->groups[gi];
    const int64_t query = next[span.seq];
    if (query < redo[span.seq]) return;
    for (const auto& [position, value] : line) {
      if (position > query || !(g.window == 0 || position > query - g.window)) continue;
      const bool found = std::any_of(entries.begin(), entries.end(), [&, p = position](auto& e) {
        return e.first() <= p && p <= e.last();
      });
      ASSERT_TRUE(found) << "group " << gi << ": the query at " << query << " lacks " << position;
    }
  }

  // Rotates K of the cells that the pending shift lists.
  void run_shift() {
    copy_pages();
    uint64_t cells = 0;
    for (uint32_t gi = 0; gi < cache->groups.size(); ++gi) {
      uint32_t n = 0;
      const int32_t* words = kv_step_data(cache, kv_shifts_of(gi), &n);
      ASSERT_EQ(n, 1 + 7 * static_cast<uint32_t>(words[0]));
      for (int32_t i = 0; i < words[0]; ++i) {
        const int32_t* w = words + 1 + i * 7;
        cells += static_cast<uint64_t>(w[MICA_KV_SHIFT_N_CELLS]);
        for (int64_t k = 0; k < w[MICA_KV_SHIFT_N_CELLS]; ++k) {
          Cell& c = cell(gi, w[MICA_KV_SHIFT_PAGE], w[MICA_KV_SHIFT_FIRST_CELL] + k);
          ASSERT_EQ(c.key, (w[MICA_KV_SHIFT_FROM] + k) / w[MICA_KV_SHIFT_FROM_DIV]);
          c.key = (w[MICA_KV_SHIFT_TO] + k) / w[MICA_KV_SHIFT_TO_DIV];
        }
      }
    }
    ASSERT_GT(cells, 0u);
  }

  // Shift steps until there is nothing left to do.
  void shift(bool all) {
    for (;;) {
      const Bytes before = snapshot();
      uint64_t n = 0;
      const mica_status status = mica_kv_reserve_shift(cache, all ? 1 : 0, &n);
      ASSERT_EQ(snapshot(), before);
      if (status == MICA_CACHE_FULL) {
        ASSERT_FALSE(cache->pending);
        ++n_full;
        return;
      }
      ASSERT_EQ(status, MICA_OK) << mica_context_error(context);
      ASSERT_EQ(cache->pending, n > 0);
      if (n == 0) return;
      ASSERT_NE(cache->keys, MICA_KV_KEYS_NONE);
      ASSERT_NE(cache->keys, MICA_KV_KEYS_UNROTATED);
      if (pick(6) == 0) {
        mica_kv_abandon(cache);
        ASSERT_EQ(snapshot(), before);
        return;
      }
      run_shift();
      if (HasFatalFailure()) return;
      ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
      n_shifts += n;
      check_all();
      if (HasFatalFailure()) return;
    }
  }

  uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random() % n); }

  void start(uint32_t seed) {
    random.seed(seed);
    store.clear();
    for (const KvGroup& g : cache->groups) store.emplace_back(size_t{g.n_pages} * 64);
    lines.assign(cache->max_seqs, {});
    next.assign(cache->max_seqs, 0);
    redo.assign(cache->max_seqs, 0);
    lossy = true;
    for (const KvGroup& g : cache->groups) lossy &= g.window != 0;
  }

  std::mt19937 random;
  std::vector<std::vector<Cell>> store;  // [group][page * 64 + cell]
  std::vector<Line> lines;               // [seq]
  std::vector<int64_t> next, redo;       // [seq]; redo: rewound to there, so run again up to it
  int64_t last_value = 0;
  bool has_written = false;  // by a step, adopted or not
  bool lossy = false;        // every group has a window: the model knows more than the cache
  uint64_t n_copies = 0, n_full = 0, n_refused = 0, n_shifts = 0, n_moves = 0, n_rewinds = 0;
};

}  // namespace mica::kv_test
