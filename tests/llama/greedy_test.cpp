// The real model: five prompts, llama.cpp's greedy ids fed back, the same argmax at each of 40
// steps but where its two best logits are closer than 0.1.
#include <algorithm>
#include <cstdlib>

#include "support.h"

namespace mica_llama_test {
namespace {

constexpr double kCloseGap = 0.1;

void follow(const nlohmann::json& prompt, mica_llama_session* session, uint32_t n_vocab) {
  SCOPED_TRACE(prompt["name"].dump());
  const std::vector<int32_t> ids = prompt["argmax"];
  const std::vector<double> gaps = prompt["gap"];
  ASSERT_EQ(ids.size(), 40u);
  ASSERT_MICA_OK(mica_llama_seq_rm(session, 0, 0, -1));
  std::vector<int32_t> step = prompt["prompt_ids"];
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_MICA_OK(decode(session, step));
    const std::vector<float> row = logits_row(session, 0, n_vocab);
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    if (gaps[i] >= kCloseGap) {
      EXPECT_EQ(best, ids[i]) << "step " << i << ", gap " << gaps[i];
    }
    mica_llama_sampler greedy = MICA_LLAMA_SAMPLER_INIT;
    int32_t sampled = -1;
    ASSERT_MICA_OK(mica_llama_sample(session, 0, &greedy, &sampled));
    EXPECT_EQ(sampled, best) << "step " << i;
    step = {ids[i]};
  }
}

TEST(Greedy, SameChoicesAsThePeer) {
  const char* path = std::getenv("MICA_MODEL");
  if (path == nullptr || *path == '\0')
    GTEST_SKIP() << "not run: MICA_MODEL does not name SmolLM2-135M-Instruct";
  const nlohmann::json file = golden_json("greedy/smollm2.json");
  ASSERT_EQ(file["prompts"].size(), 5u);
  const Model model = open_model(path, "cpu");
  ASSERT_NE(model, nullptr);
  mica_llama_session_params params = session_params(MICA_F16);
  params.n_ctx = 512;
  const Session session = open_session(model.get(), params);
  ASSERT_NE(session, nullptr);
  for (const nlohmann::json& prompt : file["prompts"])
    follow(prompt, session.get(), n_vocab_of(model.get()));
}

}  // namespace
}  // namespace mica_llama_test
