// Sessions whose cells move: shifts, edits, dropped and grouped tokens.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>

#include "model_file_builder.h"
#include "support.h"

namespace mica_llama_test {
namespace {

struct Way {
  const char* device;
  mica_kv_keys keys;
  mica_dtype dtype;
};

std::vector<int32_t> some_tokens(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % 250 + 3);
  return tokens;
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - double{b[i]}) * (double{a[i]} - double{b[i]});
    size += double{b[i]} * double{b[i]};
  }
  return std::sqrt(difference / size);
}

class Edits : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    model_ = open_model(golden("tiny/gqa.gguf"), GetParam().device);
    ASSERT_NE(model_, nullptr);
    n_vocab_ = n_vocab_of(model_.get());
  }
  mica_llama_session_params params(uint32_t n_ctx = 512) const {
    mica_llama_session_params p = session_params(GetParam().dtype);
    p.keys = GetParam().keys;
    p.n_ctx = n_ctx;
    p.n_batch = 64;
    return p;
  }
  std::vector<float> next_row(mica_llama_session* s, const std::vector<int32_t>& tokens) {
    EXPECT_MICA_OK(decode(s, tokens));
    return logits_row(s, 0, n_vocab_);
  }
  std::vector<float> fresh_row(const std::vector<int32_t>& tokens) {
    return next_row(open_session(model_.get(), params()).get(), tokens);
  }
  // Bit by bit on ref; kernels for few tokens and for many add in another order, and un-rotated
  // keys are rotated in two steps that depend on where in a page their cells lie.
  void expect_fresh(mica_llama_session* s, const std::vector<int32_t>& tokens) {
    const std::vector<float> row = logits_row(s, 0, n_vocab_), fresh = fresh_row(tokens);
    if (std::string(GetParam().device) == "ref" && GetParam().keys != MICA_KV_KEYS_UNROTATED) {
      EXPECT_EQ(row, fresh);
    } else {
      EXPECT_LE(relative_distance(row, fresh), 1e-5);
    }
  }
  // What one more encoding of K may change.
  double rounding() const { return GetParam().dtype == MICA_F32 ? 1e-5 : 2e-2; }

  Model model_;
  uint32_t n_vocab_ = 0;
};

// RoPE tells distances alone: a conversation that moves as a whole goes on as if it had not.
TEST_P(Edits, AMovedConversationGoesOn) {
  const std::vector<int32_t> tokens = some_tokens(90, 1);
  const Session still = open_session(model_.get(), params());
  const Session moved = open_session(model_.get(), params());
  (void)next_row(still.get(), tokens);
  (void)next_row(moved.get(), tokens);
  for (const int64_t by : {100, -37, 200, -263 + 1}) {
    ASSERT_MICA_OK(mica_llama_seq_add(moved.get(), 0, 0, -1, by));
    const std::vector<int32_t> more = some_tokens(3, static_cast<uint32_t>(1000 + by));
    const std::vector<float> expected = next_row(still.get(), more);
    EXPECT_LE(relative_distance(next_row(moved.get(), more), expected), 4 * rounding()) << by;
  }
}

TEST_P(Edits, AnExactEditIsAFreshRun) {
  std::vector<int32_t> tokens = some_tokens(120, 2);
  const Session own = open_session(model_.get(), params());
  (void)next_row(own.get(), tokens);
  const std::vector<int32_t> fresh = some_tokens(9, 3);
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(mica_llama_edit(own.get(), 0, 64, 70, fresh.data(), fresh.size(), nullptr, &info));
  tokens.erase(tokens.begin() + 64, tokens.begin() + 70);
  tokens.insert(tokens.begin() + 64, fresh.begin(), fresh.end());
  EXPECT_EQ(info.n_tokens, 123u);
  EXPECT_EQ(info.n_reused, 64u);
  EXPECT_EQ(info.n_computed, 59u);
  EXPECT_EQ(logits_row(own.get(), 0, n_vocab_), fresh_row(tokens));
  // What it is to become is told instead; and nothing at all changes but the last row.
  tokens.resize(100);
  ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), nullptr, &info));
  EXPECT_EQ(info.n_reused, 99u);
  size_t n = 0;
  std::vector<int32_t> held(200);
  ASSERT_MICA_OK(mica_llama_seq_tokens(own.get(), 0, held.data(), held.size(), &n));
  held.resize(n);
  EXPECT_EQ(held, tokens);
}

TEST_P(Edits, AReusedEditComputesLittleAndDeviatesLittle) {
  std::vector<int32_t> tokens = some_tokens(200, 4);
  const Session own = open_session(model_.get(), params());
  (void)next_row(own.get(), tokens);
  const std::vector<int32_t> fresh = some_tokens(5, 5);
  mica_llama_edit_params how = MICA_LLAMA_EDIT_PARAMS_INIT;
  how.mode = MICA_LLAMA_EDIT_REUSED;
  how.n_recompute = 16;
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(mica_llama_edit(own.get(), 0, 30, 33, fresh.data(), fresh.size(), &how, &info));
  EXPECT_EQ(info.n_tokens, 202u);
  EXPECT_EQ(info.n_computed, 5u + 16 + 1);
  EXPECT_EQ(info.n_reused, 180u);
  tokens.erase(tokens.begin() + 30, tokens.begin() + 33);
  tokens.insert(tokens.begin() + 30, fresh.begin(), fresh.end());
  size_t n = 0;
  std::vector<int32_t> held(300);
  ASSERT_MICA_OK(mica_llama_seq_tokens(own.get(), 0, held.data(), held.size(), &n));
  held.resize(n);
  EXPECT_EQ(held, tokens);
  EXPECT_LE(relative_distance(logits_row(own.get(), 0, n_vocab_), fresh_row(tokens)), 0.3);
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 202);
}

TEST_P(Edits, AFullContextDropsItsOldestTokens) {
  mica_llama_session_params p = params(128);
  p.n_keep = 4;
  p.n_drop = MICA_LLAMA_DROP_HALF;
  const Session own = open_session(model_.get(), p);
  const std::vector<int32_t> tokens = some_tokens(500, 6);
  for (size_t i = 0; i < tokens.size(); i += 20)
    ASSERT_MICA_OK(decode(own.get(), {tokens.begin() + static_cast<ptrdiff_t>(i),
                                      tokens.begin() + static_cast<ptrdiff_t>(i) + 20}));
  EXPECT_LE(mica_llama_seq_next(own.get(), 0), 128);
  EXPECT_GT(mica_llama_seq_next(own.get(), 0), 60);
  size_t n = 0;
  std::vector<int32_t> held(128);
  ASSERT_MICA_OK(mica_llama_seq_tokens(own.get(), 0, held.data(), held.size(), &n));
  held.resize(n);
  std::vector<int32_t> expected(tokens.begin(), tokens.begin() + 4);
  expected.insert(expected.end(), tokens.end() - static_cast<ptrdiff_t>(n - 4), tokens.end());
  EXPECT_EQ(held, expected);
}

TEST_P(Edits, GroupsOfPositionsHoldALongContext) {
  mica_llama_session_params p = params();
  p.extend_factor = 4;
  p.extend_window = 64;
  const Session own = open_session(model_.get(), p);
  const std::vector<int32_t> tokens = some_tokens(400, 7);
  for (size_t i = 0; i < tokens.size(); i += 25)
    ASSERT_MICA_OK(decode(own.get(), {tokens.begin() + static_cast<ptrdiff_t>(i),
                                      tokens.begin() + static_cast<ptrdiff_t>(i) + 25}));
  EXPECT_LT(mica_llama_seq_next(own.get(), 0), 200);
  // One long decode groups between its steps.
  const Session whole = open_session(model_.get(), p);
  ASSERT_MICA_OK(decode(whole.get(), tokens));
  EXPECT_LT(mica_llama_seq_next(whole.get(), 0), 240);
}

TEST_P(Edits, ASavedSequenceGoesOn) {
  const std::string path = testing::TempDir() + "mica_saved_" + std::to_string(getpid());
  std::vector<int32_t> tokens = some_tokens(100, 12);
  const std::vector<int32_t> more = some_tokens(7, 13);
  {
    const Session own = open_session(model_.get(), params());
    (void)next_row(own.get(), tokens);
    ASSERT_MICA_OK(mica_llama_save(own.get(), 0, path.c_str()));
  }
  const Session other = open_session(model_.get(), params());
  ASSERT_MICA_OK(mica_llama_load(other.get(), 0, path.c_str()));
  tokens.insert(tokens.end(), more.begin(), more.end());
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(mica_llama_edit_to(other.get(), 0, tokens.data(), tokens.size(), nullptr, &info));
  EXPECT_EQ(info.n_reused, 100u);
  EXPECT_EQ(logits_row(other.get(), 0, n_vocab_), fresh_row(tokens));
  // Damaged, cut off, or into a sequence that holds something: nothing changes.
  EXPECT_EQ(mica_llama_load(other.get(), 0, path.c_str()), MICA_INVALID_ARGUMENT);
  ASSERT_MICA_OK(mica_llama_seq_rm(other.get(), 0, 0, -1));
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (size_t i = 0; i < 24; ++i) {  // the head: no flipped bit is taken for another size
    std::string wrong = bytes;
    wrong[i] = static_cast<char>(wrong[i] ^ 0x40);
    std::ofstream(path, std::ios::binary) << wrong;
    EXPECT_EQ(mica_llama_load(other.get(), 0, path.c_str()), MICA_BAD_FILE) << i;
  }
  for (const size_t keep : {size_t{0}, size_t{20}, size_t{200}, bytes.size() - 1}) {
    std::ofstream(path, std::ios::binary) << bytes.substr(0, keep);
    EXPECT_EQ(mica_llama_load(other.get(), 0, path.c_str()), MICA_BAD_FILE) << keep;
  }
  std::string wrong = bytes;
  wrong[30] = static_cast<char>(wrong[30] ^ 1);
  std::ofstream(path, std::ios::binary) << wrong;
  EXPECT_EQ(mica_llama_load(other.get(), 0, path.c_str()), MICA_BAD_FILE);
  EXPECT_EQ(mica_llama_seq_next(other.get(), 0), 0);
  std::remove(path.c_str());
  EXPECT_EQ(mica_llama_load(other.get(), 0, path.c_str()), MICA_NOT_FOUND);
}

// K that a load rotates is not K of a fresh run: an exact edit computes it again.
TEST_P(Edits, ASequenceSavedWithOtherKeysIsExactToo) {
  const std::string path = testing::TempDir() + "mica_keys_" + std::to_string(getpid());
  std::vector<int32_t> tokens = some_tokens(100, 19);
  for (const mica_kv_keys from :
       {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED}) {
    mica_llama_session_params p = params();
    p.keys = from;
    const Session saved = open_session(model_.get(), p);
    (void)next_row(saved.get(), tokens);
    ASSERT_MICA_OK(mica_llama_save(saved.get(), 0, path.c_str()));
    const Session own = open_session(model_.get(), params());
    ASSERT_MICA_OK(mica_llama_load(own.get(), 0, path.c_str()));
    tokens.push_back(7);
    mica_llama_edit_info info{};
    ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), nullptr, &info));
    const mica_kv_keys to = GetParam().keys, plain = MICA_KV_KEYS_UNROTATED;
    EXPECT_EQ(info.n_reused, (from == plain) != (to == plain) ? 0u : 100u) << from;
    expect_fresh(own.get(), tokens);
    tokens.pop_back();
  }
  std::remove(path.c_str());
}

TEST_P(Edits, SavedSequencesAreRegularFiles) {
  const std::string path = testing::TempDir() + "mica_file_" + std::to_string(getpid());
  const std::string fifo = path + "_fifo", link = path + "_link";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  const Session own = open_session(model_.get(), params());
  (void)next_row(own.get(), some_tokens(20, 1));
  const auto save = [&](const std::string& to) {
    return mica_llama_save(own.get(), 0, to.c_str());
  };
  const auto mode = [](const std::string& of) {
    struct stat info {};
    EXPECT_EQ(lstat(of.c_str(), &info), 0) << of;
    return info.st_mode & S_IFMT;
  };
  EXPECT_EQ(save(fifo), MICA_IO);
  EXPECT_EQ(mica_llama_error(),
            "'" + fifo + "' is not a regular file, and nothing else is replaced");
  EXPECT_EQ(mode(fifo), unsigned{S_IFIFO});
  EXPECT_EQ(save(link), MICA_IO);
  EXPECT_EQ(mica_llama_error(), "'" + link + "' is a symbolic link that leads to no file");
  EXPECT_EQ(save(""), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(save(testing::TempDir()), MICA_IO);
  EXPECT_EQ(save(path + "/x/y"), MICA_IO);
  ASSERT_MICA_OK(save(path));
  ASSERT_EQ(truncate(path.c_str(), 1), 0);
  ASSERT_MICA_OK(save(link));
  EXPECT_EQ(mode(link), unsigned{S_IFLNK});
  ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 0, 0, -1));
  EXPECT_EQ(mica_llama_load(own.get(), 0, fifo.c_str()), MICA_IO);
  EXPECT_EQ(mica_llama_error(), "'" + fifo + "' is not a regular file");
  EXPECT_EQ(mica_llama_load(own.get(), 0, ""), MICA_INVALID_ARGUMENT);
  EXPECT_MICA_OK(mica_llama_load(own.get(), 0, path.c_str()));
  for (const std::string& name : {path, fifo, link}) std::remove(name.c_str());
}

// Of the same shape, with other weights, another vocabulary or another type.
TEST_P(Edits, AnotherModelsSequenceIsRefused) {
  const std::string path = testing::TempDir() + "mica_other_" + std::to_string(getpid());
  const auto session_of = [&](const ModelFile& file) {
    std::ofstream(path + ".gguf", std::ios::binary) << file.bytes();
    model_ = open_model(path + ".gguf", GetParam().device);
    std::remove((path + ".gguf").c_str());
    return open_session(model_.get(), params());
  };
  ModelFile file;
  const Session saved = session_of(file);
  ASSERT_MICA_OK(decode(saved.get(), {3, 4, 5}));
  ASSERT_MICA_OK(mica_llama_save(saved.get(), 0, path.c_str()));
  EXPECT_MICA_OK(mica_llama_load(session_of(file).get(), 0, path.c_str()));
  ModelFile weights = file, vocabulary = file;
  weights.seed = 2;
  vocabulary.tokens = {"<unk>", "<s>", "</s>", "x3"};
  for (const ModelFile& other : {weights, vocabulary}) {
    const Session own = session_of(other);
    EXPECT_EQ(mica_llama_load(own.get(), 0, path.c_str()), MICA_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(mica_llama_error()).find("'" + path + "': kv load: the state is of "), 0u)
        << mica_llama_error();
    EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 0);
  }
  std::remove(path.c_str());
}

// What version 1 wrote: the same head, whose checksum was of n_exact and the tokens alone.
TEST_P(Edits, AnOlderFileSaysSo) {
  const std::string path = testing::TempDir() + "mica_older_" + std::to_string(getpid());
  const uint32_t words[] = {1, 1, 0, 0, 5};  // n_tokens, n_exact, room for the checksum, a token
  uint64_t sum = 0xcbf29ce484222325u;
  for (const uint32_t word : {words[1], words[4]})
    for (uint32_t i = 0; i < 32; i += 8) sum = (sum ^ (word >> i & 255)) * 0x100000001b3u;
  std::string bytes = "MICASEQ1" + std::string(reinterpret_cast<const char*>(words), sizeof words);
  std::memcpy(bytes.data() + 16, &sum, sizeof sum);
  std::ofstream(path, std::ios::binary) << bytes;
  const Session own = open_session(model_.get(), params());
  EXPECT_EQ(mica_llama_load(own.get(), 0, path.c_str()), MICA_UNSUPPORTED);
  EXPECT_NE(std::string(mica_llama_error()).find("remove it and save again"), std::string::npos);
  std::remove(path.c_str());
}

TEST_P(Edits, SayWhatIsWrong) {
  const Session own = open_session(model_.get(), params());
  (void)next_row(own.get(), some_tokens(20, 8));
  const int32_t token = 5;
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 10, 30, &token, 1, nullptr, nullptr),
            MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 0, -1, nullptr, 0, nullptr, nullptr),
            MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_llama_seq_add(own.get(), 0, 0, -1, -1), MICA_INVALID_ARGUMENT);
  ASSERT_MICA_OK(mica_llama_seq_add(own.get(), 0, 0, -1, 7));
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 10, 12, &token, 1, nullptr, nullptr),
            MICA_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(mica_llama_error()),
            "the tokens of sequence 0 are not known by position, because it has gaps or was moved; "
            "remove all of it first");
  ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 0, 0, -1));
  EXPECT_MICA_OK(decode(own.get(), {4, 5, 6}));
  EXPECT_MICA_OK(mica_llama_edit(own.get(), 0, 1, 2, &token, 1, nullptr, nullptr));
}

// What is left of an edit or of a full context is not exact, and an exact edit knows that.
TEST_P(Edits, AnExactEditTrustsOnlyExactCells) {
  mica_llama_session_params p = params(128);
  p.n_keep = 4;
  p.n_drop = MICA_LLAMA_DROP_HALF;
  p.n_seqs = 2;
  const Session own = open_session(model_.get(), p);
  const auto expect_exact = [&](uint32_t seq) {
    std::vector<int32_t> tokens(128);
    size_t n = 0;
    ASSERT_MICA_OK(mica_llama_seq_tokens(own.get(), seq, tokens.data(), tokens.size(), &n));
    tokens.resize(n);
    tokens.push_back(9);
    ASSERT_MICA_OK(
        mica_llama_edit_to(own.get(), seq, tokens.data(), tokens.size(), nullptr, nullptr));
    expect_fresh(own.get(), tokens);
    mica_llama_edit_info info{};
    ASSERT_MICA_OK(
        mica_llama_edit_to(own.get(), seq, tokens.data(), tokens.size(), nullptr, &info));
    EXPECT_EQ(info.n_computed, 1u);  // now all of it is
  };
  (void)next_row(own.get(), some_tokens(120, 12));
  mica_llama_edit_params how = MICA_LLAMA_EDIT_PARAMS_INIT;
  how.mode = MICA_LLAMA_EDIT_REUSED;
  const int32_t token = 5;
  ASSERT_MICA_OK(mica_llama_edit(own.get(), 0, 30, 33, &token, 1, &how, nullptr));
  expect_exact(0);
  (void)next_row(own.get(), some_tokens(20, 13));  // drops
  EXPECT_LT(mica_llama_seq_next(own.get(), 0), 100);
  expect_exact(0);
  ASSERT_MICA_OK(decode(own.get(), some_tokens(10, 14), false, 1));
  ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 10, -1));
  expect_exact(1);
}

TEST_P(Edits, WhatFailsOrIsCancelledCanBeTriedAgain) {
  int32_t cancel = 0;
  mica_llama_session_params p = params(128);
  p.n_keep = 4;
  p.n_drop = MICA_LLAMA_DROP_HALF;
  p.cancel = &cancel;
  const Session own = open_session(model_.get(), p);
  const std::vector<int32_t> tokens = some_tokens(128, 15);
  (void)next_row(own.get(), tokens);
  const std::vector<int32_t> wrong = {int32_t(n_vocab_)};
  EXPECT_EQ(decode(own.get(), wrong), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 50, 51, wrong.data(), 1, nullptr, nullptr),
            MICA_INVALID_ARGUMENT);
  EXPECT_EQ(decode(own.get(), some_tokens(125, 16)), MICA_CACHE_FULL);
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 128);  // nothing was dropped for them
  cancel = 1;
  mica_llama_edit_params how = MICA_LLAMA_EDIT_PARAMS_INIT;
  how.mode = MICA_LLAMA_EDIT_REUSED;
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 30, 33, tokens.data(), 2, &how, nullptr), MICA_CANCELLED);
  cancel = 0;
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 128);  // none of it took place
  ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), nullptr, nullptr));
  EXPECT_EQ(logits_row(own.get(), 0, n_vocab_), fresh_row(tokens));
  cancel = 1;
  EXPECT_EQ(decode(own.get(), {5, 6}), MICA_CANCELLED);
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 128);  // what was dropped has come back
  cancel = 0;
  EXPECT_MICA_OK(decode(own.get(), {5, 6}));
  const int other = 2;
  std::memcpy(&how.mode, &other, sizeof other);
  EXPECT_EQ(mica_llama_edit(own.get(), 0, 0, 1, tokens.data(), 1, &how, nullptr),
            MICA_INVALID_ARGUMENT);
  p.keys = MICA_KV_KEYS_NONE;
  mica_llama_session* none = nullptr;
  EXPECT_EQ(mica_llama_session_create(model_.get(), &p, &none), MICA_INVALID_ARGUMENT);
}

// Cells are moved together with the step that rotates them or not at all.
TEST_P(Edits, AMoveWhoseStepFailsTookNoPlace) {
  int32_t cancel = 0;
  mica_llama_session_params p = params(128);
  p.cancel = &cancel;
  const std::vector<int32_t> tokens = some_tokens(60, 31);
  for (const bool divide : {false, true}) {
    if (!divide && p.keys != MICA_KV_KEYS_ROTATED) continue;  // nothing runs that could fail
    if (divide && p.keys == MICA_KV_KEYS_UNROTATED) continue;
    const Session own = open_session(model_.get(), p);
    ASSERT_MICA_OK(decode(own.get(), tokens));
    const auto move = [&] {
      return divide ? mica_llama_seq_div(own.get(), 0, 0, -1, 2)
                    : mica_llama_seq_add(own.get(), 0, 20, 40, 100);
    };
    cancel = 1;
    EXPECT_EQ(move(), MICA_CANCELLED);
    EXPECT_EQ(std::string(mica_llama_error()), "the step was cancelled");
    cancel = 0;
    EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 60);
    std::vector<int32_t> held(128);
    size_t n = 0;
    EXPECT_MICA_OK(mica_llama_seq_tokens(own.get(), 0, held.data(), held.size(), &n));
    held.resize(n);
    EXPECT_EQ(held, tokens);
    const Session same = open_session(model_.get(), p);
    ASSERT_MICA_OK(decode(same.get(), tokens));
    EXPECT_EQ(next_row(own.get(), {7}), next_row(same.get(), {7}));
    EXPECT_MICA_OK(move());
    EXPECT_NE(mica_llama_seq_next(own.get(), 0), 61);
  }
}

// Groups are made when tokens come, not while an edit runs; and cells count beside positions.
TEST_P(Edits, GroupsLeaveEditsAlone) {
  mica_llama_session_params p = params(256);
  p.extend_factor = 4;
  p.extend_window = 32;
  p.n_keep = 4;
  p.n_batch = 256;  // one step, between the steps of a decode there would be groups
  p.n_drop = MICA_LLAMA_DROP_HALF;
  const Session own = open_session(model_.get(), p);
  std::vector<int32_t> tokens = some_tokens(200, 17);
  (void)next_row(own.get(), tokens);
  tokens[120] = 5;
  mica_llama_edit_params how = MICA_LLAMA_EDIT_PARAMS_INIT;
  how.mode = MICA_LLAMA_EDIT_REUSED;
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), &how, &info));
  EXPECT_EQ(info.n_computed, 2u);
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 200);
  tokens[120] = 6;
  ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), nullptr, &info));
  EXPECT_EQ(logits_row(own.get(), 0, n_vocab_), fresh_row(tokens));
  for (uint32_t i = 0; i < 30; ++i) ASSERT_MICA_OK(decode(own.get(), some_tokens(25, i)));
  EXPECT_LT(mica_llama_seq_next(own.get(), 0), 200);
}

// Where a window let go what would be seen after the drop, the rest is run again.
TEST_P(Edits, AFullContextWithAWindow) {
  ModelFile file;
  file.window = 100;
  file.n_layers = 2;
  file.n_vocab = 256;
  const std::string path = testing::TempDir() + "mica_wide_" + std::to_string(getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary) << file.bytes();
  model_ = open_model(path, GetParam().device);
  std::remove(path.c_str());
  ASSERT_NE(model_, nullptr);
  n_vocab_ = n_vocab_of(model_.get());
  mica_llama_session_params p = params(128);
  p.n_keep = 4;
  p.n_drop = MICA_LLAMA_DROP_HALF;
  const Session own = open_session(model_.get(), p);
  for (uint32_t i = 0; i < 40; ++i) {
    ASSERT_MICA_OK(decode(own.get(), some_tokens(9, i)));
    std::vector<int32_t> held(128);
    size_t n = 0;
    ASSERT_MICA_OK(mica_llama_seq_tokens(own.get(), 0, held.data(), held.size(), &n));
    EXPECT_EQ(static_cast<int64_t>(n), mica_llama_seq_next(own.get(), 0));
  }
  p.extend_factor = 4;
  p.extend_window = 32;
  mica_llama_session* grouped = nullptr;
  EXPECT_EQ(mica_llama_session_create(model_.get(), &p, &grouped), MICA_INVALID_ARGUMENT);
}

// Two layers of a window of 20 see 38 tokens further back together: those are run again, no more.
TEST_P(Edits, AWindowIsRunAgainAsFarAsItSees) {
  ModelFile file;
  file.window = 20;
  file.n_layers = 2;
  file.n_vocab = 256;
  const std::string path = testing::TempDir() + "mica_window_" + std::to_string(getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary) << file.bytes();
  model_ = open_model(path, GetParam().device);
  std::remove(path.c_str());
  ASSERT_NE(model_, nullptr);
  n_vocab_ = n_vocab_of(model_.get());
  std::vector<int32_t> tokens = some_tokens(300, 9);
  const Session own = open_session(model_.get(), params());
  (void)next_row(own.get(), tokens);
  const std::vector<int32_t> fresh = some_tokens(4, 10);
  const auto expect_same = [&] {
    const std::vector<float> row = logits_row(own.get(), 0, n_vocab_), again = fresh_row(tokens);
    if (GetParam().keys == MICA_KV_KEYS_UNROTATED)
      EXPECT_LE(relative_distance(row, again), 1e-5);
    else
      EXPECT_EQ(row, again);
  };
  mica_llama_edit_info info{};
  ASSERT_MICA_OK(
      mica_llama_edit(own.get(), 0, 100, 103, fresh.data(), fresh.size(), nullptr, &info));
  tokens.erase(tokens.begin() + 100, tokens.begin() + 103);
  tokens.insert(tokens.begin() + 100, fresh.begin(), fresh.end());
  EXPECT_EQ(info.n_tokens, 301u);
  EXPECT_EQ(info.n_computed, 301u - 100 + 38);
  expect_same();
  // It goes on, and can be taken back and go on again.
  const std::vector<int32_t> more = some_tokens(70, 11);
  (void)next_row(own.get(), more);
  ASSERT_MICA_OK(mica_llama_edit_to(own.get(), 0, tokens.data(), tokens.size(), nullptr, &info));
  EXPECT_EQ(info.n_computed, 1u + 38);
  expect_same();
}

std::vector<Way> all_ways() {
  std::vector<Way> ways;
  for (const char* device : {"ref", "cpu"})
    for (const mica_kv_keys keys :
         {MICA_KV_KEYS_ROTATED, MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED})
      for (const mica_dtype dtype : {MICA_F32, MICA_Q8_0}) ways.push_back({device, keys, dtype});
  return ways;
}

INSTANTIATE_TEST_SUITE_P(Ways, Edits, testing::ValuesIn(all_ways()), [](const auto& way) {
  const mica_kv_keys keys = way.param.keys;
  return std::string(way.param.device) +
         (keys == MICA_KV_KEYS_ROTATED    ? "Rotated"
          : keys == MICA_KV_KEYS_RELATIVE ? "Relative"
                                          : "Unrotated") +
         (way.param.dtype == MICA_F32 ? "F32" : "Q8");
});

}  // namespace
}  // namespace mica_llama_test
