// What a sequence has room for: its tokens count, whatever their positions; and a call that is
// refused changes nothing.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>

#include "model_file_builder.h"
#include "support.h"

namespace mica_llama_test {
namespace {

constexpr mica_kv_keys kKeys[] = {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE,
                                  MICA_KV_KEYS_UNROTATED};

std::vector<int32_t> some_tokens(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % 250 + 3);
  return tokens;
}

class Room : public testing::Test {
 protected:
  static void SetUpTestSuite() { model_ = open_model(golden("tiny/gqa.gguf"), "cpu"); }
  static void TearDownTestSuite() { model_.reset(); }
  static mica_llama_session_params params(uint32_t n_ctx) {
    mica_llama_session_params p = session_params(MICA_F32);
    p.n_ctx = n_ctx;
    return p;
  }
  static std::vector<int32_t> held_tokens(const mica_llama_session* s, uint32_t seq = 0) {
    size_t n = 0;
    std::vector<int32_t> held(mica_llama_n_ctx(s));
    EXPECT_MICA_OK(mica_llama_seq_tokens(s, seq, held.data(), held.size(), &n));
    held.resize(n);
    return held;
  }
  static Model model_;
};
Model Room::model_;

TEST_F(Room, GroupsAndContextShiftGoTogether) {
  mica_llama_session_params p = params(52);
  p.n_batch = 9;
  p.n_keep = 4;
  p.n_drop = 9;
  p.extend_factor = p.extend_window = 3;
  const Session own = open_session(model_.get(), p);
  ASSERT_MICA_OK(decode(own.get(), some_tokens(47, 1)));
  ASSERT_MICA_OK(decode(own.get(), some_tokens(27, 2)));
  EXPECT_GT(mica_llama_seq_next(own.get(), 0), 0);
}

TEST_F(Room, AFullContextOfDividedPositionsDrops) {
  for (const uint32_t n_drop : {8u, MICA_LLAMA_DROP_HALF})
    for (const size_t n : {5u, 16u, 17u, 36u, 37u, 64u}) {
      mica_llama_session_params p = params(64);
      p.n_drop = n_drop;
      const Session own = open_session(model_.get(), p);
      ASSERT_MICA_OK(decode(own.get(), some_tokens(60, 3)));
      ASSERT_MICA_OK(mica_llama_seq_div(own.get(), 0, 0, -1, 4));
      EXPECT_MICA_OK(decode(own.get(), some_tokens(n, 4)));
    }
}

TEST_F(Room, AGapTakesNone) {
  for (const mica_kv_keys keys : kKeys) {
    mica_llama_session_params p = params(64);
    p.keys = keys;
    const Session own = open_session(model_.get(), p);
    ASSERT_MICA_OK(decode(own.get(), some_tokens(10, 5)));
    ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 0, -1, 100));
    ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 105, -1, 100));
    ASSERT_MICA_OK(decode(own.get(), some_tokens(54, 6)));
    EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 264);
    EXPECT_EQ(decode(own.get(), {5}), MICA_CACHE_FULL);
    EXPECT_EQ(std::string(mica_llama_error()),
              "the context of 64 tokens is full: sequence 0 holds 64, 1 more were to come");
    ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 0, 110, 206));  // the first of those behind the gap
    EXPECT_MICA_OK(decode(own.get(), {5}));
    EXPECT_EQ(decode(own.get(), {5}), MICA_CACHE_FULL);
  }
}

TEST_F(Room, GroupsBeginBehindAGap) {
  mica_llama_session_params p = params(64);
  p.extend_factor = 2;
  p.extend_window = 8;
  const Session own = open_session(model_.get(), p);
  ASSERT_MICA_OK(decode(own.get(), some_tokens(8, 7)));
  ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 0, -1, 1 << 29));
  ASSERT_MICA_OK(decode(own.get(), some_tokens(8, 8)));
  EXPECT_MICA_OK(decode(own.get(), some_tokens(8, 9)));
}

TEST_F(Room, OfTwoSequencesBothOrNoneDrop) {
  mica_llama_session_params p = params(32);
  p.n_seqs = 2;
  p.n_keep = 4;
  p.n_drop = 4;
  const Session own = open_session(model_.get(), p);
  ASSERT_MICA_OK(decode(own.get(), some_tokens(30, 10)));
  ASSERT_MICA_OK(decode(own.get(), some_tokens(30, 11), false, 1));
  const mica_llama_span spans[] = {{0, 10}, {1, 29}};
  const std::vector<int32_t> tokens = some_tokens(39, 12);
  const mica_llama_batch batch = {sizeof batch, 2, spans, tokens.data(), nullptr};
  EXPECT_EQ(mica_llama_decode(own.get(), &batch), MICA_CACHE_FULL);
  EXPECT_EQ(std::string(mica_llama_error()),
            "the context of 32 tokens is full: sequence 1 holds 30, of which 4 are to be kept, 29 "
            "more were to come");
  EXPECT_EQ(held_tokens(own.get()), some_tokens(30, 10));
  EXPECT_EQ(held_tokens(own.get(), 1), some_tokens(30, 11));
}

// A page that both hold has free cells for neither: this is known only after the drop.
TEST_F(Room, WhatWasDroppedInVainComesBack) {
  for (const mica_kv_keys keys : kKeys) {
    mica_llama_session_params p = params(64);
    p.keys = keys;
    p.n_seqs = 2;
    p.n_keep = 4;
    p.n_drop = 30;
    const Session own = open_session(model_.get(), p);
    ASSERT_MICA_OK(decode(own.get(), some_tokens(64, 17)));
    ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 0, -1));
    ASSERT_MICA_OK(decode(own.get(), {5}, false, 1));
    ASSERT_EQ(decode(own.get(), {5}), MICA_CACHE_FULL);
    EXPECT_EQ(std::string(mica_llama_error()),
              "the KV cache has no room: the step needs 1 pages, 0 of 2 are free");
    EXPECT_EQ(held_tokens(own.get()), some_tokens(64, 17));
    ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 1, 0, -1));
    EXPECT_MICA_OK(decode(own.get(), {5}));
    EXPECT_EQ(held_tokens(own.get()).size(), 35u);
  }
}

// A step that ran cannot be undone.
TEST_F(Room, WhatWasDroppedInVainIsSaid) {
  mica_llama_session_params p = params(128);
  p.n_seqs = 2;
  p.n_keep = 4;
  p.n_drop = 60;
  p.n_batch = 8;
  const Session own = open_session(model_.get(), p);
  ASSERT_MICA_OK(decode(own.get(), some_tokens(128, 17)));
  ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 0, -1));
  ASSERT_MICA_OK(decode(own.get(), some_tokens(60, 18), false, 1));  // drops, and takes a page
  ASSERT_EQ(decode(own.get(), some_tokens(100, 19)), MICA_CACHE_FULL);
  EXPECT_EQ(std::string(mica_llama_error()),
            "the KV cache has no room: the step needs 1 pages, 0 of 4 are free; 100 tokens of "
            "sequence 0 were dropped to make room");
  EXPECT_EQ(held_tokens(own.get()).size(), 28u);
}

// Sequences that share their cells leave no page for the copies that a move of one needs.
TEST_F(Room, AMoveOfSharedCellsWithoutRoomChangesNothing) {
  mica_llama_session_params p = params(64);
  p.keys = MICA_KV_KEYS_ROTATED;
  p.n_seqs = 2;
  const Session own = open_session(model_.get(), p);
  const std::vector<int32_t> tokens = some_tokens(64, 23);
  ASSERT_MICA_OK(decode(own.get(), tokens));
  ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 0, -1));
  ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 1, 0, 32));
  ASSERT_MICA_OK(decode(own.get(), some_tokens(32, 24), false, 1));
  EXPECT_EQ(mica_llama_seq_add(own.get(), 0, 40, -1, 100), MICA_CACHE_FULL);
  EXPECT_EQ(std::string(mica_llama_error()),
            "the KV cache has no room: cells of sequence 0 are shared and must be copied to be "
            "rotated; the step needs 1 pages, 0 of 2 are free");
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 64);
  EXPECT_EQ(held_tokens(own.get()), tokens);
  ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 1, 0, -1));
  EXPECT_MICA_OK(mica_llama_seq_add(own.get(), 0, 40, -1, 100));
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 164);
}

// What a session will take is known before: the plan that rotates moved cells too.
TEST_F(Room, MovesTakeNoMoreMemoryThanWasSaid) {
  for (const uint32_t extend : {0u, 4u})
    for (const mica_kv_keys keys : kKeys) {
      mica_llama_session_params p = params(64);
      p.keys = keys;
      p.extend_factor = p.extend_window = extend;
      mica_memory said{}, taken{};
      ASSERT_MICA_OK(mica_llama_memory(model_.get(), &p, &said));
      const Session own = open_session(model_.get(), p);
      ASSERT_MICA_OK(decode(own.get(), some_tokens(30, 21)));
      ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 10, -1, 7));
      if (keys != MICA_KV_KEYS_RELATIVE || extend != 0) {
        ASSERT_MICA_OK(mica_llama_seq_div(own.get(), 0, 0, -1, 2));
      }
      ASSERT_MICA_OK(decode(own.get(), some_tokens(3, 22)));
      ASSERT_MICA_OK(mica_llama_session_memory(own.get(), &taken));
      EXPECT_EQ(said.total_bytes, taken.total_bytes) << keys << " " << extend;
    }
}

TEST_F(Room, AnEditOfNothingRunsTheLastToken) {
  const Session own = open_session(model_.get(), params(64));
  std::vector<int32_t> tokens = some_tokens(12, 13);
  ASSERT_MICA_OK(decode(own.get(), tokens));
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(mica_llama_edit(own.get(), 0, 5, 5, nullptr, 0, nullptr, &info));
  EXPECT_EQ(info.n_computed, 1u);
  EXPECT_EQ(info.n_reused, 11u);
  const int32_t half_new[] = {tokens[5], 1};
  ASSERT_MICA_OK(mica_llama_edit(own.get(), 0, 5, 7, half_new, 2, nullptr, &info));
  EXPECT_EQ(info.n_computed, 6u);
  tokens[6] = 1;
  EXPECT_EQ(held_tokens(own.get()), tokens);
}

// Where the tokens are not known, what a window let go cannot be run again: a gap stays, or the
// call is refused.
TEST_F(Room, AMovedContextWithAWindowDrops) {
  ModelFile file;
  file.n_layers = 2;
  file.n_vocab = 256;
  const std::string path = testing::TempDir() + "mica_room_" + std::to_string(getpid()) + ".gguf";
  for (const uint32_t window : {20u, 100u}) {
    file.window = window;
    std::ofstream(path, std::ios::binary) << file.bytes();
    const Model model = open_model(path, "cpu");
    std::remove(path.c_str());
    ASSERT_NE(model, nullptr);
    mica_llama_session_params p = params(128);
    p.n_keep = 4;
    p.n_drop = MICA_LLAMA_DROP_HALF;
    const Session own = open_session(model.get(), p);
    ASSERT_MICA_OK(decode(own.get(), some_tokens(30, 18)));
    ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 0, -1, 7));
    for (uint32_t i = 0; i < 100; ++i) ASSERT_MICA_OK(decode(own.get(), some_tokens(1 + i % 9, i)));
    const int64_t next = mica_llama_seq_next(own.get(), 0);
    EXPECT_EQ(decode(own.get(), some_tokens(125, 19)), MICA_CACHE_FULL);
    EXPECT_EQ(mica_llama_seq_next(own.get(), 0), next);
  }
}

// The arrays are not as long as the counts say: nothing behind their ends is read.
TEST_F(Room, CountsAreCheckedBeforeTokens) {
  const Session own = open_session(model_.get(), params(64));
  const std::vector<int32_t> tokens = some_tokens(12, 14);
  ASSERT_MICA_OK(decode(own.get(), tokens));
  const std::vector<int32_t> few = some_tokens(53, 15);
  for (const size_t n : {size_t{65}, size_t{1} << 40, SIZE_MAX / 4}) {
    EXPECT_EQ(mica_llama_edit(own.get(), 0, 5, 6, few.data(), n, nullptr, nullptr),
              MICA_CACHE_FULL);
    EXPECT_EQ(mica_llama_edit_to(own.get(), 0, few.data(), n, nullptr, nullptr), MICA_CACHE_FULL);
  }
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 5, 5, few.data(), 53, nullptr, nullptr), MICA_CACHE_FULL);
  EXPECT_EQ(std::string(mica_llama_error()),
            "the context of 64 tokens is full: the edit would make 65");
  const mica_llama_span span = {0, UINT32_MAX};
  const mica_llama_batch batch = {sizeof batch, 1, &span, few.data(), nullptr};
  EXPECT_EQ(mica_llama_decode(own.get(), &batch), MICA_CACHE_FULL);
  EXPECT_EQ(held_tokens(own.get()), tokens);
}

// Sequences that share pages leave none for the pieces of a reused edit: it runs the rest then.
TEST_F(Room, AReusedEditOfACopyFindsRoom) {
  for (const mica_kv_keys keys : kKeys)
    for (const uint32_t n_ctx : {64u, 100u, 128u}) {
      mica_llama_session_params p = params(n_ctx);
      p.keys = keys;
      p.n_seqs = 2;
      const Session own = open_session(model_.get(), p);
      std::vector<int32_t> tokens = some_tokens(n_ctx - 4, 16);
      ASSERT_MICA_OK(decode(own.get(), tokens));
      ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 0, -1));
      mica_llama_edit_params how = MICA_LLAMA_EDIT_PARAMS_INIT;
      how.mode = MICA_LLAMA_EDIT_REUSED;
      for (const size_t at : {size_t{10}, size_t{30}, size_t{20}}) {
        tokens[at] = tokens[at] == 5 ? 6 : 5;
        ASSERT_MICA_OK(
            mica_llama_edit_to(own.get(), 1, tokens.data(), tokens.size(), &how, nullptr));
        EXPECT_EQ(held_tokens(own.get(), 1), tokens);
      }
    }
}

// One random session and what it holds, by what the header promises.
struct Conversation {
  explicit Conversation(std::mt19937& random) {
    const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    p = session_params(MICA_F32);
    p.keys = kKeys[below(3)];
    p.n_ctx = 8 + below(120);
    p.n_batch = 1 + below(64);
    p.n_keep = 1 + below(p.n_ctx / 4);
    p.n_drop = below(3) == 0 ? MICA_LLAMA_DROP_HALF : 1 + below(p.n_ctx);
    if (below(3) == 0) return;
    p.extend_factor = 2 + below(4);
    p.extend_window = p.extend_factor * (1 + below(8));
  }
  int64_t group() const { return std::max<int64_t>(p.extend_factor, 1); }
  // How many tokens it may hold after a decode of `n` that was allowed, from least to most.
  void expect_held(int64_t before, int64_t n, int64_t now) const {
    const int64_t n_ctx = p.n_ctx, keep = p.n_keep, need = before + n - n_ctx;
    if (need <= 0) {
      EXPECT_EQ(now, before + n);
      return;
    }
    const int64_t dropped = before + n - now;
    EXPECT_LE(now, n_ctx);
    EXPECT_GE(now, keep + n);
    const int64_t half = (before - keep) / 2;
    const int64_t wanted = std::max(need, p.n_drop == MICA_LLAMA_DROP_HALF ? half : p.n_drop);
    EXPECT_LE(dropped, wanted + group() - 1);
    EXPECT_GE(dropped, std::min(wanted, before - keep) - (group() - 1));
  }
  mica_llama_session_params p;
};

// Tokens held, of a sequence with groups too: only what is refused says it.
int64_t held_of(mica_llama_session* s) {
  const uint32_t n_ctx = mica_llama_n_ctx(s);
  const int64_t next = mica_llama_seq_next(s, 0);
  if (next == 0) return 0;
  EXPECT_EQ(decode(s, std::vector<int32_t>(n_ctx, 5)), MICA_CACHE_FULL);
  EXPECT_EQ(mica_llama_seq_next(s, 0), next);
  const std::string text = mica_llama_error(), word = " holds ";
  const size_t at = text.find(word);
  return at == std::string::npos ? -1 : std::stoll(text.substr(at + word.size()));
}

TEST_F(Room, EveryDecodeKeepsWhatIsPromisedOrChangesNothing) {
  std::mt19937 random(20);
  for (uint32_t i_session = 0; i_session < 80; ++i_session) {
    const Conversation c(random);
    const Session own = open_session(model_.get(), c.p);
    int64_t held = 0;
    for (uint32_t i = 0; i < 12; ++i) {
      const int64_t n = 1 + random() % (c.p.n_ctx + 2);
      const int64_t next = mica_llama_seq_next(own.get(), 0);
      const mica_status status = decode(own.get(), some_tokens(static_cast<size_t>(n), i));
      const std::string said = mica_llama_error();
      const int64_t now = held_of(own.get()), n_ctx = c.p.n_ctx, keep = c.p.n_keep;
      SCOPED_TRACE("session " + std::to_string(i_session) + " call " + std::to_string(i) +
                   ": n_ctx " + std::to_string(n_ctx) + " n_keep " + std::to_string(keep) +
                   " n_drop " + std::to_string(c.p.n_drop) + " group " +
                   std::to_string(c.p.extend_factor) + "/" + std::to_string(c.p.extend_window) +
                   " batch " + std::to_string(c.p.n_batch) + ", " + std::to_string(held) + " and " +
                   std::to_string(n) + ": " + said);
      if (status == MICA_OK) {
        EXPECT_TRUE(held + n <= n_ctx || keep + n <= n_ctx);
        c.expect_held(held, n, now);
      } else {
        EXPECT_EQ(status, MICA_CACHE_FULL);
        EXPECT_TRUE(held + n > n_ctx && keep + c.group() - 1 + n > n_ctx);
        EXPECT_EQ(now, held);
        EXPECT_EQ(mica_llama_seq_next(own.get(), 0), next);
      }
      if (HasFailure()) return;
      held = now;
    }
  }
}

}  // namespace
}  // namespace mica_llama_test
