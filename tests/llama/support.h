// What the tests of mica-llama share: owners of handles, golden files, devices.
#pragma once
#include <gtest/gtest.h>
#include <mica_llama.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mica_llama_test {

template <auto Release>
struct Releaser {
  template <class T>
  void operator()(T* handle) const {
    Release(handle);
  }
};
using Model = std::unique_ptr<mica_llama_model, Releaser<mica_llama_model_release>>;
using Session = std::unique_ptr<mica_llama_session, Releaser<mica_llama_session_release>>;

inline std::string golden(const std::string& name) {
  return std::string(MICA_GOLDEN_DIR) + "/" + name;
}

inline nlohmann::json golden_json(const std::string& name) {
  std::ifstream file(golden(name));
  EXPECT_TRUE(file.good()) << name;
  return nlohmann::json::parse(file);
}

inline std::vector<float> golden_floats(const std::string& name) {
  std::ifstream file(golden(name), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

#define ASSERT_MICA_OK(call) ASSERT_EQ(call, MICA_OK) << mica_llama_error()
#define EXPECT_MICA_OK(call) EXPECT_EQ(call, MICA_OK) << mica_llama_error()

inline Model open_model(const std::string& path, const char* device, bool loaded = true,
                        mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT) {
  params.device = device;
  if (params.n_threads == 0) params.n_threads = 2;
  mica_llama_model* model = nullptr;
  EXPECT_MICA_OK(mica_llama_model_open(path.c_str(), &params, &model));
  Model owner(model);
  if (model != nullptr && loaded) {
    EXPECT_MICA_OK(mica_llama_model_load(model));
  }
  return owner;
}

inline Session open_session(mica_llama_model* model, const mica_llama_session_params& params) {
  mica_llama_session* session = nullptr;
  EXPECT_MICA_OK(mica_llama_session_create(model, &params, &session));
  return Session(session);
}

inline mica_llama_session_params session_params(mica_dtype kv) {
  mica_llama_session_params params = MICA_LLAMA_SESSION_PARAMS_INIT;
  params.dtype_k = params.dtype_v = kv;
  return params;
}

// Decodes tokens of one sequence; `all`: logits of each, otherwise of the last.
inline mica_status decode(mica_llama_session* session, const std::vector<int32_t>& tokens,
                          bool all = false, uint32_t seq = 0) {
  const mica_llama_span span = {seq, static_cast<uint32_t>(tokens.size())};
  const std::vector<uint8_t> outputs(tokens.size(), 1);
  const mica_llama_batch batch = {sizeof batch, 1, &span, tokens.data(),
                                  all ? outputs.data() : nullptr};
  return mica_llama_decode(session, &batch);
}

inline uint32_t n_vocab_of(const mica_llama_model* model) {
  mica_llama_model_info info{};
  EXPECT_MICA_OK(mica_llama_model_get_info(model, &info));
  return info.n_vocab;
}

inline std::vector<float> logits_row(mica_llama_session* session, uint32_t i, uint32_t n_vocab) {
  const float* row = nullptr;
  EXPECT_MICA_OK(mica_llama_logits(session, i, &row));
  return row != nullptr ? std::vector<float>(row, row + n_vocab) : std::vector<float>(n_vocab);
}

// Whether this machine has the device.
inline bool has_device(const char* device) {
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  params.device = device;
  mica_llama_model* model = nullptr;
  const mica_status status =
      mica_llama_model_open(golden("tiny/mha.gguf").c_str(), &params, &model);
  mica_llama_model_release(model);
  return status == MICA_OK;
}

}  // namespace mica_llama_test
