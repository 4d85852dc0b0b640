// Odd texts through mica_llama_tokenize, against the ids that llama.cpp gives.
#include <cstdlib>

#include "support.h"

namespace mica_llama_test {
namespace {

void compare(const nlohmann::json& file, const mica_llama_model* model) {
  for (const nlohmann::json& c : file["cases"]) {
    const std::string text = c["text"];
    const std::vector<int32_t> expected = c["ids"];
    size_t n = 0;
    const uint32_t flags = MICA_LLAMA_ADD_SPECIAL | MICA_LLAMA_PARSE_SPECIAL;
    ASSERT_MICA_OK(mica_llama_tokenize(model, text.data(), text.size(), flags, nullptr, 0, &n));
    std::vector<int32_t> ids(n);
    ASSERT_MICA_OK(mica_llama_tokenize(model, text.data(), text.size(), flags, ids.data(), n, &n));
    EXPECT_EQ(ids, expected) << c["text"].dump();
  }
}

TEST(TokenizerGolden, TinyModels) {
  for (const char* name :
       {"tiny_spm", "tiny_bpe_gpt-2", "tiny_bpe_llama-bpe", "tiny_bpe_qwen2", "tiny_bpe_smollm"}) {
    SCOPED_TRACE(name);
    const std::string stem = std::string("tokenizer/") + name;
    const Model model = open_model(golden(stem + ".gguf"), "cpu", false);
    ASSERT_NE(model, nullptr);
    compare(golden_json(stem + ".json"), model.get());
  }
}

TEST(TokenizerGolden, RealModel) {
  const char* path = std::getenv("MICA_MODEL");
  if (path == nullptr || *path == '\0')
    GTEST_SKIP() << "not run: MICA_MODEL does not name SmolLM2-135M-Instruct";
  const Model model = open_model(path, "cpu", false);
  ASSERT_NE(model, nullptr);
  compare(golden_json("tokenizer/smollm2.json"), model.get());
}

TEST(TokenizerGolden, DetokenizeGivesTheTextBack) {
  const Model model = open_model(golden("tokenizer/tiny_bpe_smollm.gguf"), "cpu", false);
  ASSERT_NE(model, nullptr);
  const std::string text = "Größe 123 \xF0\x9F\x98\x80 naïve\n\tend";
  std::vector<int32_t> ids(text.size());
  size_t n = 0, n_bytes = 0;
  ASSERT_MICA_OK(
      mica_llama_tokenize(model.get(), text.data(), text.size(), 0, ids.data(), ids.size(), &n));
  ASSERT_LE(n, ids.size());
  char back[100];
  ASSERT_MICA_OK(mica_llama_detokenize(model.get(), ids.data(), n, 0, back, sizeof back, &n_bytes));
  EXPECT_EQ(std::string(back, n_bytes), text);
  // A buffer too small gets what fits, and the size is still the whole one.
  char small[4] = {'?', '?', '?', '?'};
  ASSERT_MICA_OK(mica_llama_detokenize(model.get(), ids.data(), n, 0, small, 3, &n_bytes));
  EXPECT_EQ(n_bytes, text.size());
  EXPECT_EQ(std::string(small, 4), text.substr(0, 3) + "?");
}

}  // namespace
}  // namespace mica_llama_test
