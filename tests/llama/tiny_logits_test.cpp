// Random tiny Llamas (MHA, GQA, MQA, tied, rope factors) against Hugging Face transformers' logits:
// on every device, in one step, in several, and token by token.
#include <cmath>

#include "support.h"

namespace mica_llama_test {
namespace {

struct Variant {
  const char* device;
  uint32_t n_batch;  // tokens a step
  mica_dtype kv;
  double bound;  // of any logit; their root mean square is 1
};

void PrintTo(const Variant& v, std::ostream* out) {
  *out << v.device << ", steps of " << v.n_batch << ", kv " << mica_dtype_get(v.kv)->name;
}

class TinyLogits : public testing::TestWithParam<Variant> {};

void compare(const nlohmann::json& golden_model, const Variant& v) {
  const std::string name = golden_model["name"];
  SCOPED_TRACE(name);
  const std::vector<int32_t> ids = golden_model["ids"];
  const std::vector<float> expected = golden_floats("tiny/" + name + ".f32");
  const Model model = open_model(golden("tiny/" + name + ".gguf"), v.device);
  ASSERT_NE(model, nullptr);
  const uint32_t n_vocab = n_vocab_of(model.get());
  ASSERT_EQ(expected.size(), ids.size() * n_vocab);
  mica_llama_session_params params = session_params(v.kv);
  params.n_batch = v.n_batch;
  params.n_outputs = static_cast<uint32_t>(ids.size());
  const Session session = open_session(model.get(), params);
  ASSERT_NE(session, nullptr);
  double worst = 0;
  const auto check_row = [&](uint32_t i_output, size_t i_token) {
    const std::vector<float> row = logits_row(session.get(), i_output, n_vocab);
    for (uint32_t k = 0; k < n_vocab; ++k) {
      const double error = std::fabs(double{row[k]} - double{expected[i_token * n_vocab + k]});
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  };
  if (v.n_batch == 1) {
    for (size_t i = 0; i < ids.size(); ++i) {
      ASSERT_MICA_OK(decode(session.get(), {ids[i]}));
      check_row(0, i);
    }
  } else {
    ASSERT_MICA_OK(decode(session.get(), ids, true));
    ASSERT_EQ(mica_llama_n_outputs(session.get()), ids.size());
    for (size_t i = 0; i < ids.size(); ++i) check_row(static_cast<uint32_t>(i), i);
  }
  testing::Test::RecordProperty(name, std::to_string(worst));
  EXPECT_LE(worst, v.bound);
}

TEST_P(TinyLogits, AreThoseOfTransformers) {
  if (!has_device(GetParam().device)) GTEST_SKIP() << "not run: no device " << GetParam().device;
  const nlohmann::json index = golden_json("tiny/index.json");
  ASSERT_EQ(index["models"].size(), 5u);
  for (const nlohmann::json& model : index["models"]) compare(model, GetParam());
}

// The bound for a cache in F32; F16 and Q8_0 as far as the peer is off with F16, and
// coarser.
INSTANTIATE_TEST_SUITE_P(
    All, TinyLogits,
    testing::Values(Variant{"ref", 64, MICA_F32, 1e-4}, Variant{"ref", 1, MICA_F32, 1e-4},
                    Variant{"ref", 7, MICA_F16, 2e-2}, Variant{"cpu", 64, MICA_F32, 2e-3},
                    Variant{"cpu", 7, MICA_F32, 2e-3}, Variant{"cpu", 1, MICA_F32, 2e-3},
                    Variant{"cpu", 7, MICA_F16, 2e-2}, Variant{"cpu", 7, MICA_BF16, 1e-1},
                    Variant{"cpu", 7, MICA_Q8_0, 3e-1}, Variant{"cpu:plain", 64, MICA_F32, 2e-3},
                    Variant{"cpu:plain", 1, MICA_F32, 2e-3},
                    Variant{"cpu:avx2", 64, MICA_F32, 2e-3}, Variant{"cpu:avx2", 1, MICA_F32, 2e-3},
                    Variant{"cpu:avx512", 64, MICA_F32, 2e-3},
                    Variant{"cpu:avx512", 1, MICA_F32, 2e-3}));

}  // namespace
}  // namespace mica_llama_test
