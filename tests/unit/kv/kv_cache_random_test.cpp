// Random steps, edits and shifts of the paged KV cache, held against the model.
#include "tests/unit/kv/kv_model.h"

namespace {

using mica::KvGroup;
using mica::kv_test::Line;

constexpr int64_t kMostPosition = 2147483646;

struct KvCacheRandom : mica::kv_test::KvModel {
  bool holds(uint32_t seq, int64_t position) const {
    const auto it = lines[seq].lower_bound({position, INT64_MIN});
    return it != lines[seq].end() && it->first == position;
  }
  static int64_t end_of(const Line& line) { return line.empty() ? 0 : line.rbegin()->first + 1; }

  // Tokens that a sequence can append from where it goes on.
  uint32_t room_of(uint32_t seq, uint32_t most) const {
    uint32_t n = 0;
    const int64_t from = next[seq];
    while (n < most && (from + n < redo[seq] || !holds(seq, from + n))) ++n;
    return n;
  }

  std::vector<mica_kv_span> random_spans() {
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
    return spans;
  }

  void random_step() {
    const std::vector<mica_kv_span> spans = random_spans();
    bool fits = true;
    for (const mica_kv_span& s : spans) fits &= room_of(s.seq, s.n_tokens) == s.n_tokens;
    const Bytes before = snapshot();
    const mica_status status = reserve(spans);
    ASSERT_EQ(snapshot(), before) << "reserve changed what is committed";
    const std::string error = status != MICA_OK ? mica_context_error(context) : "";
    if (status != MICA_OK) {
      ASSERT_FALSE(cache->pending);
      if (error.find("kv_shift") != std::string::npos ||
          error.find("reserve_shift") != std::string::npos)
        return shift(status == MICA_CACHE_FULL);
    }
    if (status == MICA_CACHE_FULL) {
      ++n_full;
      return;
    }
    if (!fits && !(lossy && status == MICA_OK)) {
      ASSERT_EQ(status, MICA_INVALID_ARGUMENT);
      ASSERT_NE(error.find("already"), std::string::npos) << error;
      for (const mica_kv_span& s : spans) end_seek(s.seq);
      return;
    }
    ASSERT_EQ(status, MICA_OK) << error;
    if (!fits) return mica_kv_abandon(cache);  // over positions that windows let go
    std::vector<Line> after;
    run_step(spans, after);
    if (HasFatalFailure()) return;
    if (pick(5) == 0) {
      mica_kv_abandon(cache);
      ASSERT_EQ(snapshot(), before);
      return;
    }
    ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
    lines = std::move(after);
    for (const mica_kv_span& s : spans) next[s.seq] += s.n_tokens;
  }

  void end_seek(uint32_t seq) {
    if (mica_kv_seq_seek(cache, seq, -1) == MICA_OK) next[seq] = mica_kv_seq_next(cache, seq);
  }

  // An edit of `seq` after which it is to hold `line`; `possible`: no position is taken or out of
  // range.
  void accept(mica_status status, uint32_t seq, const Bytes& before, const Line& line,
              bool possible = true) {
    const std::string error = status != MICA_OK ? mica_context_error(context) : "";
    if (status == MICA_OK) {
      ASSERT_TRUE(possible);
      lines[seq] = line;
      next[seq] = lossy ? std::max(end_of(line), mica_kv_seq_next(cache, seq)) : end_of(line);
      redo[seq] = 0;
      return;
    }
    ASSERT_EQ(snapshot(), before);
    if (status == MICA_CACHE_FULL) return;
    ASSERT_EQ(status, MICA_INVALID_ARGUMENT);
    const bool of_window = error.find("has released") != std::string::npos ||
                           (lossy && error.find("held positions") != std::string::npos);
    ASSERT_TRUE(!possible || of_window) << error;
    ++n_refused;
  }

  // Splits off what lies in [p0, p1), p1 < 0: to the end.
  static Line cut(Line& line, int64_t p0, int64_t p1) {
    const auto from = line.lower_bound({p0, INT64_MIN});
    const auto to = p1 < 0 ? line.end() : line.lower_bound({std::max(p0, p1), INT64_MIN});
    Line out(from, to);
    line.erase(from, to);
    return out;
  }
  // Adds cells at changed positions. False: one is out of range or was taken before.
  template <class Change>
  static bool put(Line& line, const Line& cells, const Change& change) {
    std::set<int64_t> taken;
    for (const auto& at : line) taken.insert(at.first);
    bool ok = true;
    for (const auto& [position, value] : cells) {
      const int64_t to = change(position);
      ok &= to >= 0 && to <= kMostPosition && taken.count(to) == 0;
      line.insert({to, value});
    }
    return ok;
  }

  void remove(uint32_t seq) {
    ASSERT_EQ(mica_kv_seq_rm(cache, seq, 0, -1), MICA_OK);
    lines[seq].clear();
    next[seq] = redo[seq] = 0;
  }

  struct Range {
    int64_t p0, p1;
  };
  Range random_range(uint32_t seq) {
    const auto most = static_cast<uint32_t>(end_of(lines[seq]) + 2);
    const int64_t p0 = pick(3) == 0 ? 0 : pick(most);
    return {p0, pick(2) == 0 ? -1 : p0 + pick(most)};
  }

  void random_removal(uint32_t seq) {
    const Range r = random_range(seq);
    const Bytes before = snapshot();
    if (r.p0 == r.p1) return;
    Line line = lines[seq];
    cut(line, r.p0, r.p1);
    accept(mica_kv_seq_rm(cache, seq, r.p0, r.p1), seq, before, line);
  }

  void random_copy(uint32_t src) {
    const uint32_t dst = (src + 1 + pick(cache->max_seqs - 1)) % cache->max_seqs;
    const Range r = random_range(src);
    if (pick(2) == 0) remove(dst);
    if (r.p0 == r.p1) return;
    Line rest = lines[src];
    const Line part = cut(rest, r.p0, r.p1);
    const Bytes before = snapshot();
    const int64_t to = pick(2) == 0 ? r.p0 : pick(static_cast<uint32_t>(end_of(lines[dst]) + 90));
    Line line = lines[dst];
    const bool possible = put(line, part, [&](int64_t p) { return p - r.p0 + to; });
    if (part.empty() || (lossy && !possible)) return;
    const bool plain = to == r.p0 && pick(2) == 0;
    const mica_status status = plain ? mica_kv_seq_cp(cache, src, dst, r.p0, r.p1)
                                     : mica_kv_seq_cp_to(cache, src, dst, r.p0, r.p1, to);
    accept(status, dst, before, line, possible);
  }

  void random_move(uint32_t seq, bool divide) {
    const Range r = random_range(seq);
    if (r.p0 == r.p1) return;
    Line line = lines[seq];
    const Line part = cut(line, r.p0, r.p1);
    const Bytes before = snapshot();
    const int64_t by = divide         ? 1 + pick(4)
                       : pick(2) == 0 ? static_cast<int64_t>(pick(40)) - 20
                                      : static_cast<int64_t>(pick(400)) - 200;
    if (by == (divide ? 1 : 0) || part.empty()) return;
    const bool possible = put(line, part, [&](int64_t p) { return divide ? p / by : p + by; });
    if (lossy && !possible) return;
    const mica_status status = divide ? mica_kv_seq_div(cache, seq, r.p0, r.p1, by)
                                      : mica_kv_seq_add(cache, seq, r.p0, r.p1, by);
    accept(status, seq, before, line, possible);
    n_moves += status == MICA_OK;
  }

  void random_seek(uint32_t seq) {
    const Bytes before = snapshot();
    const int64_t to =
        pick(4) == 0 ? -1 : static_cast<int64_t>(pick(static_cast<uint32_t>(next[seq]) + 20));
    const mica_status status = mica_kv_seq_seek(cache, seq, to);
    if (status == MICA_OK) {
      ASSERT_FALSE(!lossy && to >= 0 && holds(seq, to));
      next[seq] = to >= 0 ? to : lossy ? mica_kv_seq_next(cache, seq) : end_of(lines[seq]);
      redo[seq] = 0;
      return;
    }
    ASSERT_EQ(snapshot(), before);
    ASSERT_EQ(status, MICA_INVALID_ARGUMENT);
    const std::string error = mica_context_error(context);
    ASSERT_TRUE((to >= 0 && holds(seq, to)) || error.find("has released") != std::string::npos)
        << error;
  }

  void random_rewind(uint32_t seq) {
    const int64_t to = pick(static_cast<uint32_t>(end_of(lines[seq])) + 1);
    int64_t from = -1;
    ASSERT_EQ(mica_kv_seq_rewind(cache, seq, to, &from), MICA_OK) << mica_context_error(context);
    ++n_rewinds;
    cut(lines[seq], to, -1);
    next[seq] = from;
    redo[seq] = from < to ? to : 0;
    ASSERT_LE(from, to);
    ASSERT_EQ(mica_kv_seq_next(cache, seq), from);
    bool whole = true;  // one cell at each position that is to be run again
    for (int64_t p = from; p < to; ++p) {
      const auto at = lines[seq].lower_bound({p, INT64_MIN});
      whole &= at != lines[seq].end() && at->first == p &&
               (std::next(at) == lines[seq].end() || std::next(at)->first != p);
    }
    if (!whole) remove(seq);
  }

  void remove_others(uint32_t seq) {
    const bool clear = pick(2) == 0;
    ASSERT_EQ(clear ? mica_kv_clear(cache) : mica_kv_seq_keep(cache, seq), MICA_OK);
    for (uint32_t s = 0; s < cache->max_seqs; ++s) {
      if (s == seq && !clear) continue;
      lines[s].clear();
      next[s] = redo[s] = 0;
    }
  }

  void random_edit() {
    const uint32_t seq = pick(cache->max_seqs);
    const uint32_t kind = pick(moves ? 20 : 10);
    if (kind < 3) return random_removal(seq);
    if (kind < 9) return random_copy(seq);
    if (kind < 10) return pick(8) == 0 ? remove_others(seq) : random_rewind(seq);
    if (kind < 14) return random_move(seq, false);
    if (kind < 15) return random_move(seq, true);
    if (kind < 17) return random_seek(seq);
    if (kind < 18) return random_rewind(seq);
    shift(pick(2) == 0);
  }

  // What the cache is marked as holding; a step that runs, adopted or not, ends it.
  struct Mark {
    std::vector<Line> lines;
    std::vector<int64_t> next, redo;
    Bytes bytes;
  };
  Bytes sorted_snapshot() const {
    for (KvGroup& g : cache->groups) std::sort(g.free_pages.begin(), g.free_pages.end());
    return snapshot();
  }
  void random_mark() {
    if (pick(2) == 0) {
      ASSERT_EQ(mica_kv_mark(cache), MICA_OK);
      mark = {lines, next, redo, sorted_snapshot()};
    } else if (mark.lines.empty()) {
      const Bytes before = snapshot();
      if (cache->is_marked) return;
      ASSERT_EQ(mica_kv_undo(cache), MICA_INVALID_ARGUMENT);
      ASSERT_EQ(snapshot(), before);
    } else {
      n_undone += sorted_snapshot() != mark.bytes;
      ASSERT_EQ(mica_kv_undo(cache), MICA_OK) << mica_context_error(context);
      ASSERT_EQ(sorted_snapshot(), mark.bytes);
      lines = mark.lines, next = mark.next, redo = mark.redo;
    }
  }

  void play(uint32_t seed, int n_rounds) {
    start(seed);
    mark = {};
    for (int round = 0; round < n_rounds; ++round) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " round " + std::to_string(round));
      if (marks && pick(3) == 0) random_mark();
      if (HasFatalFailure()) return;
      (pick(3) == 0) != marks ? random_edit() : random_step();
      if (HasFatalFailure()) return;
      if (has_written) mark = {};
      has_written = false;
      for (uint32_t seq = 0; seq < cache->max_seqs; ++seq)
        if (lines[seq].size() > 1500) remove(seq);
      if (HasFatalFailure()) return;
      check_all();
      if (HasFatalFailure()) return;
    }
    check_usage();
  }

  bool moves = false, marks = false;
  Mark mark;
  uint64_t n_undone = 0;
};

TEST_F(KvCacheRandom, OneGroup) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 14, 4, 90), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 20u);
  EXPECT_GT(n_full, 20u);
}

TEST_F(KvCacheRandom, WindowedBesideFull) {
  for (uint32_t seed = 11; seed <= 13; ++seed) {
    ASSERT_EQ(make({layer(), layer(40), layer(100, 70), layer(1)}, 64 * 20, 3, 130), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 20u);
  EXPECT_GT(n_refused, 10u);
}

TEST_F(KvCacheRandom, WindowedOnly) {
  for (uint32_t seed = 21; seed <= 23; ++seed) {
    ASSERT_EQ(make({layer(150), layer(10, 5)}, 0, 5, 80), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_copies, 10u);
}

TEST_F(KvCacheRandom, FewEntries) {
  for (uint32_t seed = 31; seed <= 33; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 12, 4, 90, 14), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_full, 10u);
}

// As above with cells that move, for each way of storing K.
struct KvCacheMoves : KvCacheRandom, testing::WithParamInterface<mica_kv_keys> {
  KvCacheMoves() {
    moves = true;
    keys = GetParam();
    max_turns = 6;
  }
  void done() const {
    EXPECT_GT(n_moves, 20u);
    EXPECT_GT(n_rewinds, 10u);
    const bool fits_anywhere = keys == MICA_KV_KEYS_NONE || keys == MICA_KV_KEYS_UNROTATED;
    EXPECT_TRUE(fits_anywhere ? n_shifts == 0 : n_shifts > 100);
  }
};

TEST_P(KvCacheMoves, OneGroup) {
  for (uint32_t seed = 41; seed <= 43; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 14, 4, 90), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  done();
}

TEST_P(KvCacheMoves, WindowedBesideFull) {
  for (uint32_t seed = 51; seed <= 54; ++seed) {
    ASSERT_EQ(make({layer(), layer(40), layer(100, 7), layer(1)}, 64 * 20, 3, 130), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  done();
}

TEST_P(KvCacheMoves, WindowedOnly) {
  for (uint32_t seed = 61; seed <= 63; ++seed) {
    ASSERT_EQ(make({layer(150), layer(10, 5)}, 0, 5, 80), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  done();
}

TEST_P(KvCacheMoves, FewEntries) {
  for (uint32_t seed = 71; seed <= 73; ++seed) {
    ASSERT_EQ(make({layer()}, 64 * 12, 4, 90, 14), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_full, 10u);
}

TEST_P(KvCacheMoves, AreUndone) {
  marks = true;
  for (uint32_t seed = 81; seed <= 84; ++seed) {
    ASSERT_EQ(make({layer(), layer(40), layer(100, 7), layer(1)}, 64 * 20, 3, 130), MICA_OK);
    play(seed, 500);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(n_undone, 40u);
}

INSTANTIATE_TEST_SUITE_P(Keys, KvCacheMoves,
                         testing::Values(MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE,
                                         MICA_KV_KEYS_NONE, MICA_KV_KEYS_UNROTATED));

}  // namespace
