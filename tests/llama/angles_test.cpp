// A step makes the sines and cosines of RoPE once, for all layers and for Q and K.
#include <gtest/gtest.h>

#include "support.h"

namespace mica_llama_test {
namespace {

// How often the decode plan, which comes first, runs the op.
size_t count_in_decode_plan(mica_llama_session* session, const std::string& op) {
  size_t n = 0;
  EXPECT_MICA_OK(mica_llama_explain(session, nullptr, 0, &n));
  std::string text(n, '\0');
  EXPECT_MICA_OK(mica_llama_explain(session, text.data(), n, &n));
  text.resize(text.find("prompt plan\n"));
  size_t found = 0;
  for (size_t at = text.find(op); at != std::string::npos; at = text.find(op, at + 1)) ++found;
  return found;
}

TEST(Angles, AreMadeOnceAStep) {
  // With frequency factors, and without.
  for (const char* file : {"tiny/rope_factors.gguf", "tiny/mha.gguf"})
    for (const char* device : {"ref", "cpu"}) {
      const Model model = open_model(golden(file), device);
      mica_llama_session_params params = session_params(MICA_F16);
      params.n_ctx = 128;
      params.keys = MICA_KV_KEYS_ROTATED;
      EXPECT_EQ(count_in_decode_plan(open_session(model.get(), params).get(), " rope_angles "), 1u)
          << file << ", " << device;
      // Those of the tokens' positions, of the positions that their keys are stored for, and those
      // of the cache's turns.
      for (const mica_kv_keys keys : {MICA_KV_KEYS_RELATIVE, MICA_KV_KEYS_UNROTATED}) {
        params.keys = keys;
        EXPECT_EQ(count_in_decode_plan(open_session(model.get(), params).get(), " rope_angles "),
                  3u)
            << file << ", " << device << ", keys " << keys;
      }
    }
}

}  // namespace
}  // namespace mica_llama_test
