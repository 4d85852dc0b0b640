// The real model: llama.cpp's greedy ids fed back, the same argmax at each step but where its two
// best logits are closer than 0.1. Five prompts and 40 steps on the CPU, or on MICA_TEST_DEVICE;
// a prompt and 16 steps on llvmpipe.
#include <algorithm>
#include <cstdlib>

#include "support.h"

namespace mica_llama_test {
namespace {

constexpr double kCloseGap = 0.1;

void follow(const nlohmann::json& prompt, size_t n_steps, mica_llama_session* session,
            uint32_t n_vocab) {
  SCOPED_TRACE(prompt["name"].dump());
  const std::vector<int32_t> ids = prompt["argmax"];
  const std::vector<double> gaps = prompt["gap"];
  ASSERT_EQ(ids.size(), 40u);
  ASSERT_MICA_OK(mica_llama_seq_rm(session, 0, 0, -1));
  std::vector<int32_t> step = prompt["prompt_ids"];
  for (size_t i = 0; i < n_steps; ++i) {
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

// `only`: the name of the prompt, nullptr for each.
void follow_all(const char* device, const char* only, size_t n_steps) {
  const char* path = std::getenv("MICA_MODEL");
  if (path == nullptr || *path == '\0')
    GTEST_SKIP() << "not run: MICA_MODEL does not name SmolLM2-135M-Instruct";
  const nlohmann::json file = golden_json("greedy/smollm2.json");
  ASSERT_EQ(file["prompts"].size(), 5u);
  const Model model = open_model(path, device);
  ASSERT_NE(model, nullptr);
  mica_llama_session_params params = session_params(MICA_F16);
  params.n_ctx = 512;
  const Session session = open_session(model.get(), params);
  ASSERT_NE(session, nullptr);
  size_t n_prompts = 0;
  for (const nlohmann::json& prompt : file["prompts"]) {
    if (only != nullptr && prompt["name"] != only) continue;
    follow(prompt, n_steps, session.get(), n_vocab_of(model.get()));
    ++n_prompts;
  }
  EXPECT_EQ(n_prompts, only != nullptr ? 1u : 5u);
}

TEST(Greedy, SameChoicesAsThePeer) {
  const char* device = std::getenv("MICA_TEST_DEVICE");
  follow_all(device != nullptr && *device != '\0' ? device : "cpu", nullptr, 40);
}

TEST(GreedyVulkan, SameChoicesAsThePeer) {
  const char* device = "vulkan:llvmpipe";
  if (!has_device(device)) GTEST_SKIP() << "not run: " << mica_llama_error();
  follow_all(device, "english", 16);
}

}  // namespace
}  // namespace mica_llama_test
