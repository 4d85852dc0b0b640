// What moving cached tokens costs: bench kv-shift, rope-cache and edits.
#pragma once
#include <cstdint>
#include <vector>

namespace mica_llama::cli {

int run_kv_shift(int argc, char** argv);
int run_rope_cache(int argc, char** argv);
int run_edits(int argc, char** argv);

// Ids spread over the vocabulary; which ones makes no difference to the speed.
inline std::vector<int32_t> some_tokens(uint32_t n, uint32_t n_vocab) {
  std::vector<int32_t> tokens(n);
  for (uint32_t i = 0; i < n; ++i)
    tokens[i] = static_cast<int32_t>((uint64_t{i} * 2654435761u + 1) % n_vocab);
  return tokens;
}

}  // namespace mica_llama::cli
