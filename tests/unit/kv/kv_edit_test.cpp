// Edits and shifts of the KV cache one by one: what they refuse, what the texts say, what a plan
// must have for a step after them.
#include <algorithm>
#include <functional>
#include <random>

#include "tests/unit/kv/kv_cache_fixture.h"

namespace {

struct KvEdit : mica::kv_test::KvFixture {
  void expect(mica_status got, mica_status status, const std::string& text) {
    EXPECT_EQ(got, status);
    EXPECT_NE(std::string(mica_context_error(context)).find(text), std::string::npos)
        << mica_context_error(context);
  }
  // What kv_check_plan says of a plan that lacks one table.
  mica_status plan_without(uint32_t table) const {
    std::vector<uint8_t> has(mica::kv_n_tables(cache), 1);
    has[table] = 0;
    return mica::kv_check_plan(cache, has.data());
  }
  uint64_t reserve_shift(bool all) {
    uint64_t n = 0;
    EXPECT_EQ(mica_kv_reserve_shift(cache, all ? 1 : 0, &n), MICA_OK)
        << mica_context_error(context);
    return n;
  }
};

TEST_F(KvEdit, PositionsHaveLimits) {
  ASSERT_EQ(make({layer()}, 640, 2, 100), MICA_OK);
  step({{0, 100}});
  expect(mica_kv_seq_add(cache, 0, 10, 20, -11), MICA_INVALID_ARGUMENT,
         "position 10 would become -1, which is below 0 or above 2147483646");
  expect(mica_kv_seq_add(cache, 0, 10, -1, INT64_MIN), MICA_INVALID_ARGUMENT,
         "position 10 would become -9223372036854775798, which is below 0");
  expect(mica_kv_seq_add(cache, 0, 10, -1, INT64_MAX), MICA_INVALID_ARGUMENT,
         "position 63 moved by 9223372036854775807 would be above 2147483646");
  expect(mica_kv_seq_add(cache, 0, 10, -1, int64_t{1} << 40), MICA_INVALID_ARGUMENT,
         "position 63 would become 1099511627839, which is below 0 or above 2147483646");
  expect(mica_kv_seq_add(cache, 0, 10, -1, -(int64_t{1} << 40)), MICA_INVALID_ARGUMENT,
         "position 10 would become -1099511627766, which is below 0 or above 2147483646");
  expect(mica_kv_seq_add(cache, 0, 10, -1, 2147483646 - 98), MICA_INVALID_ARGUMENT,
         "position 99 would become 2147483647");
  EXPECT_EQ(mica_kv_seq_add(cache, 0, 10, -1, 2147483646 - 99), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 2147483647);
  EXPECT_EQ(mica_kv_seq_add(cache, 0, 1000, -1, -(2147483646 - 99)), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 100);
  EXPECT_EQ(cache->groups[0].seqs[0].n_entries, 2u) << "what came back is one with the rest again";
  expect(mica_kv_seq_add(cache, 0, 10, 20, 5), MICA_INVALID_ARGUMENT,
         "positions from 10 on would become 15 to 24, but position 20 is taken");
  expect(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, -1), MICA_INVALID_ARGUMENT, "position -1");
  expect(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 2147483600), MICA_INVALID_ARGUMENT,
         "would become 2147483663");
  EXPECT_EQ(mica_kv_seq_cells(cache, 1), 0u);
}

// A context that drops old tokens as it grows, token by token, has room in its tables for ever:
// what goes into holes becomes one entry with what goes on there.
TEST_F(KvEdit, HolesAreFilledForEver) {
  struct Shift {
    uint32_t n_cells, most, keep, drop;
  };
  for (const Shift& t :
       {Shift{128, 100, 4, 48}, Shift{128, 95, 6, 44}, Shift{64, 64, 0, 19}, Shift{128, 98, 5, 19},
        Shift{320, 302, 14, 144}, Shift{384, 356, 24, 10}, Shift{256, 256, 7, 1},
        Shift{256, 250, 1, 3}, Shift{384, 349, 41, 13}, Shift{1024, 1000, 33, 7}}) {
    keys = MICA_KV_KEYS_UNROTATED;
    ASSERT_EQ(make({layer()}, t.n_cells, 1, 16), MICA_OK);
    for (uint32_t i = 0; i < 20000; ++i) {
      const auto n = static_cast<uint32_t>(mica_kv_seq_next(cache, 0));
      if (n == t.most) {
        ASSERT_EQ(mica_kv_seq_rm(cache, 0, t.keep, t.keep + t.drop), MICA_OK);
        ASSERT_EQ(mica_kv_seq_add(cache, 0, t.keep + t.drop, -1, -int64_t{t.drop}), MICA_OK);
      }
      ASSERT_EQ(reserve({{0, 1}}), MICA_OK)
          << mica_context_error(context) << ": token " << i << " of a context of " << t.most
          << ", kept " << t.keep << ", dropped " << t.drop;
      ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
    }
  }
}

// The same with steps and drops of any size. Other edits may cut a sequence into more pieces than
// its table holds, each other cell removed for one; they say so.
TEST_F(KvEdit, DropsOfAnySizeLeaveRoomInTables) {
  std::mt19937 random(1);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  keys = MICA_KV_KEYS_UNROTATED;
  for (int i_context = 0; i_context < 100; ++i_context) {
    const uint32_t n_cells = 64 * (1 + below(16)), most = n_cells - below(below(2) == 0 ? 64 : 4);
    const uint32_t keep = below(most / 4 + 1),
                   most_drop = 1 + below((most - keep) / (1 + below(8)));
    const uint32_t most_step = 1 + below(16);
    const bool same = below(2) == 0;
    ASSERT_EQ(make({layer()}, n_cells, 1, 16), MICA_OK);
    for (uint32_t i = 0; i < 5000; ++i) {
      const auto n = static_cast<uint32_t>(mica_kv_seq_next(cache, 0));
      const uint32_t n_step = 1 + below(std::min(most_step, most - keep));
      if (n + n_step > most) {
        const uint32_t wanted = same ? most_drop : 1 + below(most_drop);
        const int64_t drop = std::min(n - keep, std::max(n + n_step - most, wanted));
        ASSERT_EQ(mica_kv_seq_rm(cache, 0, keep, keep + drop), MICA_OK);
        ASSERT_EQ(mica_kv_seq_add(cache, 0, keep + drop, -1, -drop), MICA_OK);
      }
      step({{0, n_step}});
      if (HasFatalFailure()) return;
    }
  }
  ASSERT_EQ(make({layer()}, 640, 1, 640), MICA_OK);
  step({{0, 640}});
  mica_status status = MICA_OK;
  for (int64_t p = 0; p < 640 && status == MICA_OK; p += 2)
    status = mica_kv_seq_rm(cache, 0, p, p + 1);
  expect(status, MICA_CACHE_FULL, "sequence 0 would have 85 table entries, 84 is the most");
}

// Host memory is linear in the sequences where it is said how long each may be.
TEST_F(KvEdit, ManyShortSequences) {
  mica_kv_layer one = layer();
  mica_kv_params p = MICA_KV_PARAMS_INIT;
  p.n_layers = 1;
  p.layers = &one;
  p.max_seqs = 65536;
  p.n_cells = 64 * p.max_seqs;
  p.max_seq_cells = 64;
  ASSERT_EQ(mica_kv_cache_create(device, &p, &cache), MICA_OK) << mica_context_error(context);
  EXPECT_LT(cache->groups[0].entries.size(), size_t{80} * p.max_seqs);
  for (uint32_t i = 0; i < 64; ++i) step({{65535, 1}});
  EXPECT_EQ(mica_kv_seq_cells(cache, 65535), 64u);
}

// A window of 1 sees nothing that it let go, so that only its end limits what a move of that does.
TEST_F(KvEdit, WhatAWindowLetGoHasLimitsToo) {
  ASSERT_EQ(make({layer(1)}, 640, 2, 100), MICA_OK);
  step({{0, 100}});
  expect(mica_kv_seq_add(cache, 0, 0, 50, INT32_MAX), MICA_INVALID_ARGUMENT,
         "sequence 0 would go on at position 2147483697, which is above 2147483647");
  expect(mica_kv_seq_cp_to(cache, 0, 1, 0, 50, INT32_MAX), MICA_INVALID_ARGUMENT,
         "sequence 1 would go on at position 2147483697, which is above 2147483647");
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 100);
  EXPECT_EQ(mica_kv_seq_next(cache, 1), 0);
}

TEST_F(KvEdit, DivisorsMayBeHuge) {
  keys = MICA_KV_KEYS_NONE;
  for (const int64_t divisor : {int64_t{100}, int64_t{INT32_MAX}, INT64_MAX}) {
    ASSERT_EQ(make({layer()}, 640, 2, 100), MICA_OK);
    step({{0, 100}});
    expect(mica_kv_seq_div(cache, 0, 0, -1, 0), MICA_INVALID_ARGUMENT, "divisor 0 is below 1");
    expect(mica_kv_seq_div(cache, 0, 0, -1, -3), MICA_INVALID_ARGUMENT, "divisor -3 is below 1");
    EXPECT_EQ(mica_kv_seq_div(cache, 0, 0, -1, 1), MICA_OK);
    expect(mica_kv_seq_div(cache, 0, 50, -1, divisor), MICA_INVALID_ARGUMENT,
           "positions from 50 on would become 0 to 0, but position 0 is taken");
    for (int i = 0; i < 2; ++i) {  // again: 0 stays 0
      EXPECT_EQ(mica_kv_seq_div(cache, 0, 0, -1, divisor), MICA_OK) << mica_context_error(context);
      EXPECT_EQ(mica_kv_seq_next(cache, 0), 1);
      EXPECT_EQ(mica_kv_seq_cells(cache, 0), 100u);
    }
    step({{0, 3}});
    EXPECT_EQ(mica_kv_seq_next(cache, 0), 4);
  }
  // The table holds what was divided, so that there is less room for a move.
  expect(mica_kv_seq_add(cache, 0, 0, 1, 5), MICA_INVALID_ARGUMENT,
         "position 0 would become 5, which is below 0 or above 0");
}

TEST_F(KvEdit, SeeksAndRewinds) {
  ASSERT_EQ(make({layer(), layer(20)}, 640, 2, 100), MICA_OK);
  step({{0, 100}});
  step({{0, 100}});
  int64_t from = 0;
  expect(mica_kv_seq_seek(cache, 0, 40), MICA_INVALID_ARGUMENT, "holds position 40 already");
  expect(mica_kv_seq_seek(cache, 0, 2147483647), MICA_INVALID_ARGUMENT, "is above 2147483646");
  expect(mica_kv_seq_rewind(cache, 0, 201, &from), MICA_INVALID_ARGUMENT,
         "holds 200 positions; it cannot be rewound to 201");
  EXPECT_EQ(from, -1);
  expect(mica_kv_seq_rewind(cache, 0, -1, &from), MICA_INVALID_ARGUMENT, "rewound to -1");
  expect(mica_kv_seq_rewind(cache, 0, 7, nullptr), MICA_INVALID_ARGUMENT, "nowhere to write");
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 200);
  ASSERT_EQ(mica_kv_seq_rewind(cache, 0, 50, &from), MICA_OK);
  EXPECT_EQ(from, 31);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 31);
  // Before it was run again it cannot go on elsewhere.
  expect(mica_kv_seq_seek(cache, 0, -1), MICA_INVALID_ARGUMENT, "mica_kv_seq_rewind says where");
  expect(mica_kv_seq_cp(cache, 0, 1, 0, -1), MICA_INVALID_ARGUMENT, "has released");
  step({{0, 5}});
  expect(mica_kv_seq_rm(cache, 0, 40, 45), MICA_INVALID_ARGUMENT, "has released");
  step({{0, 20}});
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 56);
  EXPECT_EQ(mica_kv_seq_rm(cache, 0, 50, -1), MICA_OK);
  expect(mica_kv_seq_rm(cache, 0, 49, -1), MICA_INVALID_ARGUMENT, "has released");
  ASSERT_EQ(mica_kv_seq_rewind(cache, 0, 49, &from), MICA_OK);
  EXPECT_EQ(from, 30);
}

TEST_F(KvEdit, RewindKeepsTheFirstPositions) {
  ASSERT_EQ(make({layer(), layer(127, 8)}, 640, 1, 122), MICA_OK);
  for (int i = 0; i < 3; ++i) step({{0, 100}});
  int64_t from = 0;
  ASSERT_EQ(mica_kv_seq_rewind(cache, 0, 130, &from), MICA_OK);
  EXPECT_EQ(from, 8);  // not 4: every layer has the positions below 8
  step({{0, 122}});
  EXPECT_EQ(cache->groups[1].of(0)[0].first(), 0);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 130);
}

TEST_F(KvEdit, FirstPositionsThatAreGoneCannotComeBack) {
  ASSERT_EQ(make({layer(), layer(10, 4)}, 640, 1, 100), MICA_OK);
  step({{0, 100}});
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 0, 20), MICA_OK);
  step({{0, 1}});
  expect(mica_kv_seq_add(cache, 0, 20, -1, -20), MICA_INVALID_ARGUMENT, "has released");
}

TEST_F(KvEdit, ATakenPositionEndsAGap) {
  ASSERT_EQ(make({layer()}, 640, 1, 100), MICA_OK);
  step({{0, 60}});
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 10, 20), MICA_OK);
  ASSERT_EQ(mica_kv_seq_seek(cache, 0, 12), MICA_OK);
  expect(reserve({{0, 9}}), MICA_INVALID_ARGUMENT,
         "sequence 0 holds position 20 already; there is room for 8 of 9 tokens from position 12");
  step({{0, 8}});
  expect(reserve({{0, 1}}), MICA_INVALID_ARGUMENT,
         "holds position 20 already; there is room for 0 of 1 tokens from position 20");
  ASSERT_EQ(mica_kv_seq_seek(cache, 0, -1), MICA_OK);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 60);
}

TEST_F(KvEdit, SaysHowFullItIs) {
  ASSERT_EQ(make({layer()}, 640, 2, 100, 4), MICA_OK);
  step({{0, 100}});
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 10, 20), MICA_OK);
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 30, 40), MICA_OK);
  expect(mica_kv_seq_rm(cache, 0, 80, 90), MICA_CACHE_FULL,
         "sequence 0 would have 5 table entries, 4 is the most");
  expect(mica_kv_seq_add(cache, 0, 45, 50, 200), MICA_CACHE_FULL, "would have 6 table entries, 4");
  EXPECT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, -1), MICA_OK);
  expect(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 200), MICA_CACHE_FULL, "would have 8 table entries");
  expect(reserve({{0, 1}, {1, 1}}), MICA_CACHE_FULL,
         "the step needs 8 table entries, 4 is the most");
}

TEST_F(KvEdit, AShiftNeedsPagesForSharedCells) {
  ASSERT_EQ(make({layer()}, 192, 2, 100), MICA_OK);
  step({{0, 100}});
  ASSERT_EQ(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 7), MICA_OK);
  uint64_t n = 1;
  expect(mica_kv_reserve_shift(cache, 0, &n), MICA_CACHE_FULL, "the step needs 2 pages, 1 of 3");
  EXPECT_EQ(n, 0u);
  expect(reserve({{1, 1}}), MICA_INVALID_ARGUMENT, "run a kv_shift step");
  EXPECT_EQ(reserve({{0, 1}}), MICA_OK) << "the other sequence has no moved cells";
  for (const mica::KvGroup& g : cache->groups) EXPECT_EQ(g.shifts[0], 0) << "of an earlier reserve";
  mica_kv_abandon(cache);
  expect(mica_kv_reserve_shift(nullptr, 0, &n), MICA_INVALID_ARGUMENT, "");
}

TEST_F(KvEdit, CellsThatASequenceHoldsTwiceAreRotatedApart) {
  ASSERT_EQ(make({layer()}, 640, 2, 100), MICA_OK);
  step({{0, 10}});
  ASSERT_EQ(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 20), MICA_OK);
  ASSERT_EQ(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 40), MICA_OK);
  EXPECT_EQ(reserve_shift(false), 20u);
  uint32_t n = 0;
  const mica::PageCopy* copies = mica::kv_copies(cache, &n);
  ASSERT_EQ(n, 2u);
  EXPECT_NE(copies[0].dst, copies[1].dst);
  ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
  EXPECT_EQ(pages_used(), 3u);
}

TEST_F(KvEdit, KeysWithoutPositionsAreNeverRotated) {
  keys = MICA_KV_KEYS_NONE;
  ASSERT_EQ(make({layer()}, 640, 1, 100), MICA_OK);
  step({{0, 100}});
  ASSERT_EQ(mica_kv_seq_div(cache, 0, 0, 64, 2), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 64, -1, -10), MICA_OK);
  EXPECT_EQ(reserve_shift(false), 0u);
  EXPECT_EQ(reserve_shift(true), 0u);
  step({{0, 1}});
  EXPECT_EQ(pages_used(), 2u) << "the tail's page goes on";
}

TEST_F(KvEdit, AFullShiftMakesNewTokensUnmovedToo) {
  keys = MICA_KV_KEYS_RELATIVE;
  max_turns = 3;
  ASSERT_EQ(make({layer()}, 640, 1, 100), MICA_OK);
  step({{0, 50}});
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 0, 10), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 10, 20, -10), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 20, 30, -5), MICA_OK);
  step({{0, 1}});
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 30, -1, -3), MICA_OK);
  expect(reserve({{0, 1}}), MICA_CACHE_FULL, "mica_kv_reserve_shift");
  EXPECT_EQ(reserve_shift(false), 0u);
  EXPECT_EQ(reserve_shift(true), 41u);
  ASSERT_EQ(mica_kv_commit(cache), MICA_OK);
  ASSERT_EQ(reserve({{0, 2}}), MICA_OK);
  EXPECT_EQ(cache->n_turns, 1u);
  EXPECT_EQ(cache->positions[0], 48);
  EXPECT_EQ(cache->key_positions[0], 48);
}

TEST_F(KvEdit, APlanMustHaveWhatTheStepNeeds) {
  keys = MICA_KV_KEYS_RELATIVE;
  ASSERT_EQ(make({layer(), layer(40)}, 640, 1, 100), MICA_OK);
  step({{0, 30}});
  ASSERT_EQ(reserve({{0, 2}}), MICA_OK);
  EXPECT_EQ(plan_without(mica::kKvKeyPositions), MICA_OK);
  mica_kv_abandon(cache);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 5), MICA_OK);
  ASSERT_EQ(reserve({{0, 2}}), MICA_OK);
  EXPECT_EQ(plan_without(mica::kv_shifts_of(0)), MICA_OK);
  expect(plan_without(mica::kKvKeyPositions), MICA_INVALID_ARGUMENT, "mica_kv.key_positions");
  mica_kv_abandon(cache);
  EXPECT_EQ(reserve_shift(true), 30u);
  expect(plan_without(mica::kv_shifts_of(0)), MICA_INVALID_ARGUMENT, "window 0, which");
  expect(plan_without(mica::kv_shifts_of(1)), MICA_INVALID_ARGUMENT, "window 40, which");
}

// An edit of nothing is an edit: it ends what a seek began.
TEST_F(KvEdit, OfNothingGoesOnBehindTheEnd) {
  ASSERT_EQ(make({layer()}, 640, 2, 100), MICA_OK);
  step({{0, 30}});
  const std::function<mica_status()> edits[] = {
      [&] { return mica_kv_seq_rm(cache, 0, 12, 12); },
      [&] { return mica_kv_seq_rm(cache, 0, 12, 3); },
      [&] { return mica_kv_seq_add(cache, 0, 0, -1, 0); },
      [&] { return mica_kv_seq_add(cache, 0, 20, 20, 5); },
      [&] { return mica_kv_seq_div(cache, 0, 0, -1, 1); },
      [&] { return mica_kv_seq_cp(cache, 1, 0, 0, -1); },
  };
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 10, 15), MICA_OK);
  for (const auto& edit : edits) {
    ASSERT_EQ(mica_kv_seq_seek(cache, 0, 10), MICA_OK);
    EXPECT_EQ(mica_kv_seq_next(cache, 0), 10);
    EXPECT_EQ(edit(), MICA_OK);
    EXPECT_EQ(mica_kv_seq_next(cache, 0), 30);
    EXPECT_EQ(mica_kv_seq_cells(cache, 0), 25u);
  }
}

TEST_F(KvEdit, AreRefusedWhileAReserveIsPending) {
  ASSERT_EQ(make({layer()}, 640, 2, 100), MICA_OK);
  step({{0, 30}});
  ASSERT_EQ(reserve({{0, 2}}), MICA_OK);
  int64_t from = 0;
  EXPECT_EQ(mica_kv_seq_add(cache, 0, 0, -1, 1), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_div(cache, 0, 0, -1, 2), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_cp_to(cache, 0, 1, 0, -1, 2), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_seek(cache, 0, -1), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_rewind(cache, 0, 0, &from), MICA_BUSY);
  EXPECT_EQ(mica_kv_reserve_shift(cache, 0, nullptr), MICA_BUSY);
  EXPECT_EQ(mica_kv_clear(cache), MICA_BUSY);
  EXPECT_EQ(mica_kv_mark(cache), MICA_BUSY);
  EXPECT_EQ(mica_kv_undo(cache), MICA_BUSY);
  EXPECT_EQ(mica_kv_seq_seek(cache, 2, -1), MICA_BUSY);
  mica_kv_abandon(cache);
  EXPECT_EQ(mica_kv_seq_seek(cache, 2, -1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_rewind(cache, 2, 0, &from), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_add(cache, 2, 0, -1, 1), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_kv_seq_div(cache, 2, 0, -1, 2), MICA_INVALID_ARGUMENT);
}

// Of all sequences, also what an edit took from them; until a step may have written there.
TEST_F(KvEdit, AreUndone) {
  ASSERT_EQ(make({layer()}, 256, 2, 256), MICA_OK);
  expect(mica_kv_undo(cache), MICA_INVALID_ARGUMENT, "nothing was marked");
  step({{0, 150}});
  ASSERT_EQ(mica_kv_seq_cp(cache, 0, 1, 0, 70), MICA_OK);
  ASSERT_EQ(mica_kv_mark(cache), MICA_OK);
  ASSERT_EQ(mica_kv_seq_add(cache, 0, 40, -1, 1000), MICA_OK);
  ASSERT_EQ(mica_kv_seq_rm(cache, 1, 0, -1), MICA_OK);
  ASSERT_EQ(mica_kv_seq_rm(cache, 0, 1090, -1), MICA_OK);
  EXPECT_EQ(pages_used(), 2u);
  ASSERT_EQ(mica_kv_undo(cache), MICA_OK);
  EXPECT_EQ(pages_used(), 3u);
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 150);
  EXPECT_EQ(mica_kv_seq_next(cache, 1), 70);
  EXPECT_EQ(reserve_shift(false), 0u);
  ASSERT_EQ(mica_kv_clear(cache), MICA_OK);
  EXPECT_EQ(pages_used(), 0u);
  ASSERT_EQ(reserve({{0, 200}}), MICA_OK);
  mica_kv_abandon(cache);
  ASSERT_EQ(mica_kv_undo(cache), MICA_OK) << "a reserve writes nothing";
  EXPECT_EQ(mica_kv_seq_cells(cache, 0), 150u);
  EXPECT_EQ(mica_kv_seq_cells(cache, 1), 70u);
  EXPECT_EQ(pages_used(), 3u);
  step({{0, 1}});
  expect(mica_kv_undo(cache), MICA_INVALID_ARGUMENT, "a step or a load since");
  EXPECT_EQ(mica_kv_seq_next(cache, 0), 151);
}

}  // namespace
