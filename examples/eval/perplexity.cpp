// Windows, steps and the sum of -ln p.
#include "perplexity.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

namespace mica_llama::cli {
namespace {

double negative_log_probability(const float* logits, uint32_t n_vocab, int32_t token) {
  const float largest = *std::max_element(logits, logits + n_vocab);
  double sum = 0;
  for (uint32_t i = 0; i < n_vocab; ++i) sum += std::exp(logits[i] - largest);
  return std::log(sum) + double{largest} - double{logits[token]};
}

struct Sums {
  double nll = 0, nll_squared = 0;
  size_t n = 0;
};

// Runs one window in steps of `n_batch` and scores what comes behind its first half.
void score_window(mica_llama_session* session, uint32_t n_vocab, uint32_t n_batch,
                  std::span<const int32_t> window, Sums& sums) {
  check_llama(mica_llama_seq_rm(session, 0, 0, -1));
  const size_t first_scored = window.size() / 2;  // the row that predicts the token behind it
  std::vector<uint8_t> outputs(n_batch);
  for (size_t first = 0; first < window.size(); first += n_batch) {
    const size_t n = std::min<size_t>(n_batch, window.size() - first);
    const auto is_scored = [&](size_t i) { return i >= first_scored && i + 1 < window.size(); };
    for (size_t i = 0; i < n; ++i) outputs[i] = is_scored(first + i) ? 1 : 0;
    check_llama(decode(session, window.data() + first, n, outputs.data()));
    uint32_t row = 0;
    for (size_t i = first; i < first + n; ++i) {
      if (!is_scored(i)) continue;
      const float* logits = nullptr;
      check_llama(mica_llama_logits(session, row++, &logits));
      require_finite(logits, n_vocab);
      const double nll = negative_log_probability(logits, n_vocab, window[i + 1]);
      sums.nll += nll;
      sums.nll_squared += nll * nll;
      ++sums.n;
    }
  }
}

}  // namespace

Perplexity measure_perplexity(mica_llama_model* model, mica_llama_session_params params,
                              const PerplexityTask& task) {
  static char title[] = "scoring";
  if (task.n_ctx < 4) fail(MICA_INVALID_ARGUMENT, "a window needs 4 tokens at least");
  size_t n_windows = task.tokens.size() / task.n_ctx;
  if (n_windows == 0)
    fail(MICA_INVALID_ARGUMENT, "the text has " + std::to_string(task.tokens.size()) +
                                    " tokens, a window has " + std::to_string(task.n_ctx));
  if (task.n_chunks != 0) n_windows = std::min<size_t>(n_windows, task.n_chunks);
  params.n_ctx = task.n_ctx;
  params.n_batch = std::min(params.n_batch != 0 ? params.n_batch : 512, task.n_ctx);
  params.n_outputs = std::min(params.n_batch, (task.n_ctx + 1) / 2);
  const SessionHandle session = create_session(model, params);
  check_llama(mica_llama_model_load(model));
  const uint32_t n_vocab = info_of(model).n_vocab;
  Sums sums;
  for (size_t i = 0; i < n_windows; ++i) {
    std::vector<int32_t> window(task.tokens.begin() + static_cast<ptrdiff_t>(i * task.n_ctx),
                                task.tokens.begin() + static_cast<ptrdiff_t>((i + 1) * task.n_ctx));
    if (task.first_token >= 0) window[0] = task.first_token;
    score_window(session.get(), n_vocab, params.n_batch, window, sums);
    (void)show_progress(title, i + 1, n_windows);
  }
  const auto n = static_cast<double>(sums.n);
  const double mean = sums.nll / n;
  const double variance = std::max(0.0, sums.nll_squared / n - mean * mean);
  Perplexity result;
  result.value = std::exp(mean);
  result.error = sums.n > 1 ? result.value * std::sqrt(variance / (n - 1)) : 0.0;
  result.n_tokens = sums.n;
  return result;
}

}  // namespace mica_llama::cli
