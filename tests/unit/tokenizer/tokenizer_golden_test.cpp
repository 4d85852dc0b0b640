// Token ids against those that llama.cpp gives for the same files and texts
// (tests/golden/tokenizer).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "examples/llama/tokenizer/tokenizer.h"

#ifdef MICA_GOLDEN_DIR

namespace mica_llama {
namespace {

// Reads the metadata of a GGUF file that this repository or the user gives: no checks but the end
// of the file. Independent of mica's own reader.
class Metadata {
 public:
  explicit Metadata(const std::string& path) : file_(path, std::ios::binary) {
    file_.exceptions(std::ios::failbit | std::ios::badbit);
    skip(4 + 4 + 8);  // magic, version, number of tensors
    for (auto n = number<uint64_t>(); n > 0; --n) {
      const std::string key = text();
      values_[key] = value(number<uint32_t>());
    }
  }

  Vocab vocab() const {
    const auto get = [&](const char* key, auto otherwise) {
      return values_.value(std::string("tokenizer.ggml.") + key, otherwise);
    };
    const auto flag = [&](const char* key) -> std::optional<bool> {
      const nlohmann::json found = get(key, nlohmann::json());
      return found.is_null() ? std::nullopt : std::optional<bool>(found.get<bool>());
    };
    Vocab vocab;
    vocab.model = get("model", std::string());
    vocab.pre = get("pre", std::string());
    vocab.tokens = get("tokens", std::vector<std::string>());
    vocab.scores = get("scores", vocab.scores);
    vocab.types = get("token_type", vocab.types);
    vocab.merges = get("merges", std::vector<std::string>());
    vocab.bos = get("bos_token_id", -1);
    vocab.eos = get("eos_token_id", -1);
    vocab.unk = get("unknown_token_id", -1);
    vocab.add_bos = flag("add_bos_token");
    vocab.add_eos = flag("add_eos_token");
    vocab.add_space_prefix = flag("add_space_prefix");
    return vocab;
  }

 private:
  template <typename T>
  T number() {
    T read = {};
    file_.read(reinterpret_cast<char*>(&read), sizeof read);
    return read;
  }
  std::string text() {
    std::string read(number<uint64_t>(), '\0');
    file_.read(read.data(), static_cast<std::streamsize>(read.size()));
    return read;
  }
  void skip(int n_bytes) { file_.seekg(n_bytes, std::ios::cur); }

  nlohmann::json value(uint32_t type) {
    switch (type) {
      case 0:
        return number<uint8_t>();
      case 1:
        return number<int8_t>();
      case 2:
        return number<uint16_t>();
      case 3:
        return number<int16_t>();
      case 4:
        return number<uint32_t>();
      case 5:
        return number<int32_t>();
      case 6:
        return number<float>();
      case 7:
        return number<uint8_t>() != 0;
      case 8:
        return text();
      case 10:
        return number<uint64_t>();
      case 11:
        return number<int64_t>();
      case 12:
        return number<double>();
      default:
        break;
    }
    if (type != 9) throw std::runtime_error("metadata type " + std::to_string(type));
    const uint32_t of = number<uint32_t>();
    auto values = nlohmann::json::array();
    for (auto n = number<uint64_t>(); n > 0; --n) values.push_back(value(of));
    return values;
  }

  std::ifstream file_;
  nlohmann::json values_ = nlohmann::json::object();
};

// A golden file names its model: one beside it, or the real one that $MICA_MODEL is.
std::string model_path(const std::filesystem::path& golden, const std::string& name) {
  const auto beside = golden.parent_path() / name;
  if (std::filesystem::exists(beside)) return beside.string();
  const char* given = std::getenv("MICA_MODEL");
  const bool usable = given && std::filesystem::path(given).filename() == name;
  return usable ? given : "";
}

TEST(Golden, IdsAreThoseOfLlamaCpp) {
  size_t n_files = 0, n_cases = 0;
  const auto folder = std::filesystem::path(MICA_GOLDEN_DIR) / "tokenizer";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    const nlohmann::json golden = nlohmann::json::parse(file);
    const std::string model = golden.at("model");
    const std::string path = model_path(entry.path(), model);
    if (path.empty()) {
      std::printf("not run: %s needs %s as $MICA_MODEL\n", entry.path().filename().c_str(),
                  model.c_str());
      continue;
    }
    ++n_files;
    std::string error;
    const auto tokenizer = Tokenizer::create(Metadata(path).vocab(), error);
    ASSERT_NE(tokenizer, nullptr) << path << ": " << error;
    EXPECT_EQ(tokenizer->adds_bos(), golden.at("adds_bos").get<bool>());
    const bool parse_special = golden.at("special_tokens_parsed");
    for (const auto& one : golden.at("cases")) {
      ++n_cases;
      const std::string text = one.at("text");
      EXPECT_EQ(tokenizer->encode(text, true, parse_special),
                one.at("ids").get<std::vector<int32_t>>())
          << model << ": " << one.at("text");
    }
  }
  EXPECT_GE(n_files, 5u);  // the tiny ones need nothing else
  EXPECT_GE(n_cases, 5u * 40u);
}

}  // namespace
}  // namespace mica_llama

#endif  // MICA_GOLDEN_DIR
