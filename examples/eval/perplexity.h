// Perplexity of a text by the protocol of llama-perplexity.
#pragma once
#include <vector>

#include "../llama/cli.h"

namespace mica_llama::cli {

struct PerplexityTask {
  std::vector<int32_t> tokens;  // of the whole text
  uint32_t n_ctx = 512;         // tokens of a window
  uint32_t n_chunks = 0;        // windows at most; 0: all
  int32_t first_token = -1;     // takes the place of each window's first; -1: none does
};

struct Perplexity {
  double value = 0;
  double error = 0;     // standard error of the value
  size_t n_tokens = 0;  // scored
};

// Windows do not overlap and an incomplete last one is dropped. In each, the tokens behind the
// first half are scored, given all before them: n_ctx / 2 - 1 of them for an even n_ctx. perplexity
// = exp(mean of -ln p); its error by the delta method from the variance of -ln p.
Perplexity measure_perplexity(mica_llama_model* model, mica_llama_session_params params,
                              const PerplexityTask& task);

}  // namespace mica_llama::cli
