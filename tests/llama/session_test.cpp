// Sessions: several of one model, several sequences, cache edits, sampling, memory, errors.
#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "model_file_builder.h"
#include "support.h"

namespace mica_llama_test {
namespace {

const std::vector<int32_t> kPrompt = {85, 85, 23, 168, 139, 63, 187, 24, 82, 30, 134};
const std::vector<int32_t> kOther = {12, 250, 9, 110, 44};

class Sessions : public testing::Test {
 protected:
  void SetUp() override {
    model_ = open_model(golden("tiny/mha.gguf"), "cpu");
    ASSERT_NE(model_, nullptr);
    n_vocab_ = n_vocab_of(model_.get());
  }
  Session session(uint32_t n_seqs = 1, uint32_t n_ctx = 256, uint32_t n_batch = 64) {
    mica_llama_session_params params = session_params(MICA_F32);
    params.n_seqs = n_seqs;
    params.n_ctx = n_ctx;
    params.n_batch = n_batch;
    return open_session(model_.get(), params);
  }
  std::vector<float> last_row(mica_llama_session* s, const std::vector<int32_t>& tokens) {
    EXPECT_MICA_OK(decode(s, tokens));
    return logits_row(s, 0, n_vocab_);
  }
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double worst = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
    return worst;
  }

  Model model_;
  uint32_t n_vocab_ = 0;
};

constexpr double kSame = 1e-4;  // of logits with an RMS of 1, computed in another order

TEST_F(Sessions, OnDifferentThreadsShareOneModel) {
  const std::vector<float> expected = last_row(session().get(), kPrompt);
  std::vector<double> errors(3, INFINITY);
  std::vector<std::thread> threads;
  for (double& error : errors)
    threads.emplace_back([&, out = &error] {
      const Session own = session();
      double worst = 0;
      for (int i = 0; i < 5; ++i) {
        EXPECT_MICA_OK(mica_llama_seq_rm(own.get(), 0, 0, -1));
        worst = std::max(worst, distance(last_row(own.get(), kPrompt), expected));
      }
      *out = worst;
    });
  for (std::thread& t : threads) t.join();
  for (const double error : errors) EXPECT_LE(error, kSame);
}

TEST_F(Sessions, ModelMayBeReleasedFirst) {
  const Session own = session();
  const std::vector<float> before = last_row(own.get(), kPrompt);
  model_.reset();
  EXPECT_MICA_OK(mica_llama_seq_rm(own.get(), 0, 0, -1));
  EXPECT_LE(distance(last_row(own.get(), kPrompt), before), kSame);
}

TEST_F(Sessions, SequencesOfOneBatchDoNotMix) {
  const std::vector<float> first = last_row(session().get(), kPrompt);
  const std::vector<float> second = last_row(session().get(), kOther);
  const Session both = session(2);
  std::vector<int32_t> tokens = kPrompt;
  tokens.insert(tokens.end(), kOther.begin(), kOther.end());
  const mica_llama_span spans[] = {{1, static_cast<uint32_t>(kPrompt.size())},
                                   {0, static_cast<uint32_t>(kOther.size())}};
  const mica_llama_batch batch = {sizeof batch, 2, spans, tokens.data(), nullptr};
  ASSERT_MICA_OK(mica_llama_decode(both.get(), &batch));
  ASSERT_EQ(mica_llama_n_outputs(both.get()), 2u);
  EXPECT_LE(distance(logits_row(both.get(), 0, n_vocab_), first), kSame);
  EXPECT_LE(distance(logits_row(both.get(), 1, n_vocab_), second), kSame);
  EXPECT_EQ(mica_llama_seq_next(both.get(), 1), static_cast<int64_t>(kPrompt.size()));
  EXPECT_EQ(mica_llama_seq_next(both.get(), 0), static_cast<int64_t>(kOther.size()));
}

TEST_F(Sessions, LongInputTakesSeveralSteps) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 150; ++i) tokens.push_back((i * 37) % 300);
  const std::vector<float> at_once = last_row(session(1, 256, 200).get(), tokens);
  EXPECT_LE(distance(last_row(session(1, 256, 16).get(), tokens), at_once), kSame);
  // Two sequences, each in several steps: rows keep the order of the tokens.
  mica_llama_session_params params = session_params(MICA_F32);
  params.n_seqs = 2;
  params.n_ctx = 256;
  params.n_batch = 16;
  const Session both = open_session(model_.get(), params);
  std::vector<int32_t> twice = kOther;
  twice.insert(twice.end(), tokens.begin(), tokens.end());
  const mica_llama_span spans[] = {{0, 5}, {1, 150}};
  const mica_llama_batch batch = {sizeof batch, 2, spans, twice.data(), nullptr};
  ASSERT_MICA_OK(mica_llama_decode(both.get(), &batch));
  EXPECT_LE(distance(logits_row(both.get(), 0, n_vocab_), last_row(session().get(), kOther)),
            kSame);
  EXPECT_LE(distance(logits_row(both.get(), 1, n_vocab_), at_once), kSame);
}

TEST_F(Sessions, SharedPrefixAndRemoval) {
  std::vector<int32_t> whole = kPrompt;
  whole.insert(whole.end(), kOther.begin(), kOther.end());
  const std::vector<float> expected = last_row(session().get(), whole);
  const Session own = session(2);
  ASSERT_MICA_OK(decode(own.get(), kPrompt));
  ASSERT_MICA_OK(mica_llama_seq_cp(own.get(), 0, 1, 0, -1));
  ASSERT_MICA_OK(decode(own.get(), {1, 2, 3}));  // sequence 0 goes another way
  ASSERT_MICA_OK(decode(own.get(), kOther, false, 1));
  EXPECT_LE(distance(logits_row(own.get(), 0, n_vocab_), expected), kSame);
  const auto n = static_cast<int64_t>(kPrompt.size());
  ASSERT_MICA_OK(mica_llama_seq_rm(own.get(), 0, n, -1));
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), n);
  EXPECT_LE(distance(last_row(own.get(), kOther), expected), kSame);
  ASSERT_MICA_OK(mica_llama_seq_keep(own.get(), 1));
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 0);
}

TEST_F(Sessions, FullContextIsAStatusAndChangesNothing) {
  const Session own = session(1, 16);
  ASSERT_MICA_OK(decode(own.get(), kPrompt));
  EXPECT_EQ(decode(own.get(), {1, 2, 3, 4, 5, 6}), MICA_CACHE_FULL);
  EXPECT_STRNE(mica_llama_error(), "");
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), static_cast<int64_t>(kPrompt.size()));
  EXPECT_MICA_OK(decode(own.get(), kOther));
  EXPECT_EQ(decode(own.get(), {1}), MICA_CACHE_FULL);
}

TEST_F(Sessions, CancelLeavesTheSequenceAsItWas) {
  volatile int32_t cancel = 0;
  mica_llama_session_params params = session_params(MICA_F32);
  params.cancel = &cancel;
  const Session own = open_session(model_.get(), params);
  const std::vector<float> expected = last_row(session().get(), kPrompt);
  cancel = 1;
  EXPECT_EQ(decode(own.get(), kPrompt), MICA_CANCELLED);
  EXPECT_EQ(mica_llama_seq_next(own.get(), 0), 0);
  cancel = 0;
  EXPECT_LE(distance(last_row(own.get(), kPrompt), expected), kSame);
}

TEST_F(Sessions, SamplingInTheStepAndAfterItAgree) {
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
  sampler.temperature = 1.5f;
  sampler.top_k = 50;
  sampler.top_p = 0.98f;
  sampler.seed = 0x123456789abcull;
  const auto generate = [&](bool change_before_each) {
    const Session own = session();
    std::vector<int32_t> tokens;
    EXPECT_MICA_OK(decode(own.get(), kPrompt));
    for (int i = 0; i < 30; ++i) {
      int32_t token = -1;
      if (change_before_each) {  // what the step sampled with is not what is asked for
        mica_llama_sampler greedy = MICA_LLAMA_SAMPLER_INIT;
        EXPECT_MICA_OK(mica_llama_sample(own.get(), 0, &greedy, &token));
      }
      EXPECT_MICA_OK(mica_llama_sample(own.get(), 0, &sampler, &token));
      tokens.push_back(token);
      if (change_before_each) {
        mica_llama_sampler greedy = MICA_LLAMA_SAMPLER_INIT;
        EXPECT_MICA_OK(mica_llama_sample(own.get(), 0, &greedy, &token));
      }
      EXPECT_MICA_OK(decode(own.get(), {tokens.back()}));
    }
    return tokens;
  };
  const std::vector<int32_t> tokens = generate(false);
  EXPECT_EQ(generate(true), tokens);
  EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 5u);
  sampler.seed += 1;
  EXPECT_NE(generate(false), tokens);
}

// Rows of a prompt's last step, of an earlier one, and of steps of several sequences; whatever else
// is set beside temperature 0.
TEST_F(Sessions, GreedyIsTheLikeliestTokenOfEachRow) {
  mica_llama_session_params params = session_params(MICA_F32);
  params.n_seqs = 3;
  params.n_batch = 4;
  const Session own = open_session(model_.get(), params);
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
  sampler.top_k = 40;
  sampler.top_p = 0.9f;
  sampler.seed = 77;
  const auto step = [&](const std::vector<mica_llama_span>& spans,
                        const std::vector<int32_t>& tokens) {
    const mica_llama_batch batch = {sizeof batch, static_cast<uint32_t>(spans.size()), spans.data(),
                                    tokens.data(), nullptr};
    EXPECT_MICA_OK(mica_llama_decode(own.get(), &batch));
    std::vector<int32_t> chosen(spans.size(), -1);
    for (uint32_t i = 0; i < chosen.size(); ++i)
      EXPECT_MICA_OK(mica_llama_sample(own.get(), i, &sampler, &chosen[i]));
    for (uint32_t i = 0; i < chosen.size(); ++i) {
      const std::vector<float> row = logits_row(own.get(), i, n_vocab_);
      EXPECT_EQ(chosen[i], std::max_element(row.begin(), row.end()) - row.begin()) << i;
    }
    return chosen;
  };
  // Sequence 2's row is of the first step of four tokens, 0's of the last.
  std::vector<int32_t> next = step({{2, 3}, {0, 9}}, {5, 6, 7, 9, 8, 7, 6, 5, 4, 3, 2, 1});
  next = step({{0, 1}, {2, 1}}, {next[1], next[0]});
  next = step({{0, 1}, {1, 1}, {2, 1}}, {next[0], 17, next[1]});
  step({{1, 1}}, {next[1]});
}

TEST_F(Sessions, RepeatPenaltyActsOnGivenTokens) {
  const Session own = session();
  const std::vector<float> row = last_row(own.get(), kPrompt);
  const auto best = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
  int32_t token = -1;
  ASSERT_MICA_OK(mica_llama_sample(own.get(), 0, &sampler, &token));
  EXPECT_EQ(token, best);
  sampler.repeat_penalty = 1000.0f;
  sampler.n_previous = 1;
  sampler.previous = &best;
  ASSERT_MICA_OK(mica_llama_sample(own.get(), 0, &sampler, &token));
  EXPECT_NE(token, best);
  EXPECT_EQ(logits_row(own.get(), 0, n_vocab_), row);  // the logits themselves stay
}

TEST_F(Sessions, MemoryIsKnownBeforeLoading) {
  const Model unloaded = open_model(golden("tiny/mha.gguf"), "cpu", false);
  const mica_llama_session_params params = session_params(MICA_F16);
  mica_memory before{}, created{}, after{};
  ASSERT_MICA_OK(mica_llama_memory(unloaded.get(), &params, &before));
  const Session own = open_session(unloaded.get(), params);
  ASSERT_NE(own, nullptr);
  ASSERT_MICA_OK(mica_llama_session_memory(own.get(), &created));
  EXPECT_EQ(decode(own.get(), kPrompt), MICA_INVALID_ARGUMENT);  // not loaded
  ASSERT_MICA_OK(mica_llama_model_load(unloaded.get()));
  ASSERT_MICA_OK(decode(own.get(), kPrompt));
  ASSERT_MICA_OK(mica_llama_session_memory(own.get(), &after));
  EXPECT_GT(before.weights_bytes, 0u);
  EXPECT_GT(before.kv_bytes, 0u);
  EXPECT_EQ(before.total_bytes, created.total_bytes);
  EXPECT_EQ(before.total_bytes, after.total_bytes);
}

TEST_F(Sessions, BudgetIsKept) {
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  mica_memory need{};
  const mica_llama_session_params own = session_params(MICA_F16);
  ASSERT_MICA_OK(mica_llama_memory(model_.get(), &own, &need));
  params.memory_budget_bytes = need.total_bytes - 1;
  const Model poor = open_model(golden("tiny/mha.gguf"), "cpu", false, params);
  mica_llama_session* session = nullptr;
  EXPECT_EQ(mica_llama_session_create(poor.get(), &own, &session), MICA_OVER_BUDGET);
  EXPECT_EQ(session, nullptr);
  params.memory_budget_bytes = need.total_bytes;
  const Model enough = open_model(golden("tiny/mha.gguf"), "cpu", false, params);
  EXPECT_NE(open_session(enough.get(), own), nullptr);
}

TEST(Yarn, AskedForItIsThatOfAFileWhichSaysSo) {
  ModelFile scaled;
  scaled.more_keys = {gguf_test::string_key("llama.rope.scaling.type", "yarn"),
                      gguf_test::key<float>("llama.rope.scaling.factor", MICA_GGUF_F32, 4)};
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  const auto logits_of = [&](const std::string& bytes, float factor) {
    const gguf_test::MemFile mem(bytes);
    params.yarn_factor = factor;
    const Model model = open_model(mem.path(), "cpu", true, params);
    const Session session = open_session(model.get(), session_params(MICA_F32));
    EXPECT_MICA_OK(decode(session.get(), {1, 4, 5, 3, 6}));
    return logits_row(session.get(), 0, 8);
  };
  const std::vector<float> plain = logits_of(ModelFile().bytes(), 0);
  const std::vector<float> asked = logits_of(ModelFile().bytes(), 4);
  EXPECT_EQ(asked, logits_of(scaled.bytes(), 0));
  EXPECT_EQ(asked, logits_of(scaled.bytes(), 4));
  EXPECT_NE(asked, plain);
  EXPECT_NE(asked, logits_of(scaled.bytes(), 8));
}

TEST(Yarn, AFactorBelowOneIsRefused) {
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  mica_llama_model* model = nullptr;
  for (const float factor : {0.5f, -4.0f, 2000.0f, NAN, INFINITY}) {
    params.yarn_factor = factor;
    EXPECT_EQ(mica_llama_model_open(golden("tiny/mha.gguf").c_str(), &params, &model),
              MICA_INVALID_ARGUMENT);
    EXPECT_EQ(mica_llama_shape_open("smollm2-135m:q4_0", &params, &model), MICA_INVALID_ARGUMENT);
    EXPECT_NE(std::string(mica_llama_error()).find("it must be 0 or 1 to 1000"), std::string::npos);
  }
}

TEST(Shapes, RandomModelOfAFileAndOfMemoryAreTheSame) {
  // The smallest shape; the file is read back by the GGUF reader and gives equal logits.
  const char* shape = "smollm2-135m:q4_k_m";
  const std::string path = testing::TempDir() + "mica_shape_test.gguf";
  ASSERT_MICA_OK(mica_llama_shape_write(shape, path.c_str(), nullptr, nullptr));
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  params.n_threads = 2;
  mica_llama_model* made = nullptr;
  ASSERT_MICA_OK(mica_llama_shape_open(shape, &params, &made));
  const Model from_memory(made);
  ASSERT_MICA_OK(mica_llama_model_load(made));
  const Model from_file = open_model(path, "cpu");
  std::remove(path.c_str());
  ASSERT_NE(from_file, nullptr);
  mica_llama_session_params session = session_params(MICA_F16);
  session.n_ctx = 64;
  const Session a = open_session(from_memory.get(), session);
  const Session b = open_session(from_file.get(), session);
  ASSERT_MICA_OK(decode(a.get(), kPrompt));
  ASSERT_MICA_OK(decode(b.get(), kPrompt));
  const uint32_t n_vocab = n_vocab_of(made);
  const std::vector<float> row = logits_row(a.get(), 0, n_vocab);
  EXPECT_EQ(row, logits_row(b.get(), 0, n_vocab));
  for (const float x : row) ASSERT_TRUE(std::isfinite(x));
  mica_llama_model_info in_memory{}, in_file{};
  ASSERT_MICA_OK(mica_llama_model_get_info(made, &in_memory));
  ASSERT_MICA_OK(mica_llama_model_get_info(from_file.get(), &in_file));
  EXPECT_STREQ(in_memory.description, "llama 135M Q4_K_M");
  EXPECT_STREQ(in_file.description, "llama 135M Q4_K_M");
  EXPECT_EQ(in_memory.n_params, in_file.n_params);
  EXPECT_EQ(in_memory.has_tokenizer, 0);
  EXPECT_EQ(in_file.has_tokenizer, 1);
}

}  // namespace
}  // namespace mica_llama_test
