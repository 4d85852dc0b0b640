// The program `eval`: token ids of a text, logits of ids, perplexity of a text.
#include <cinttypes>
#include <cstdio>

#include "../llama/cli.h"
#include "perplexity.h"

namespace mica_llama::cli {
namespace {

struct Arguments {
  Options common;
  std::string text_file, logits_file;
  CommandLine::Optional to_tokenize;
  std::vector<int32_t> ids;
  uint32_t n_chunks = 0;
};

void add_arguments(CommandLine& line, Arguments& a) {
  add_options(line, a.common);
  line.add("--ids", &a.ids, "token ids, comma-separated: writes their logits");
  line.add("--logits", &a.logits_file, "where --ids writes float32 [n_tokens][n_vocab]");
  line.add("-f,--file", &a.text_file, "a text: prints its perplexity");
  line.add("-c,--ctx-size", &a.common.n_ctx, "tokens of a window (default 512)");
  line.add("--chunks", &a.n_chunks, "windows at most (default: all)");
  line.add("--tokenize", &a.to_tokenize,
           "prints the text's ids, comma-separated; special tokens are parsed");
}

void print_ids(const Arguments& a, const mica_llama_model* model) {
  const std::vector<int32_t> ids =
      tokenize(model, a.to_tokenize.text, MICA_LLAMA_ADD_SPECIAL | MICA_LLAMA_PARSE_SPECIAL);
  for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%" PRId32, i ? "," : "", ids[i]);
  std::printf("\n");
}

// All ids are one sequence; each step's rows are written before the next.
void write_logits(const Arguments& a, mica_llama_model* model) {
  if (a.logits_file.empty()) fail(MICA_INVALID_ARGUMENT, "--ids needs --logits FILE");
  const uint32_t n_vocab = info_of(model).n_vocab;
  Options options = a.common;
  if (options.n_ctx == 0) options.n_ctx = static_cast<uint32_t>(a.ids.size());
  mica_llama_session_params params = session_params(options);
  params.n_batch = static_cast<uint32_t>(
      std::min<size_t>(params.n_batch != 0 ? params.n_batch : 512, a.ids.size()));
  params.n_outputs = params.n_batch;
  const SessionHandle session = create_session(model, params);
  check_llama(mica_llama_model_load(model));
  const File file = create_file(a.logits_file);
  const std::vector<uint8_t> all(params.n_batch, 1);
  for (size_t first = 0; first < a.ids.size(); first += params.n_batch) {
    const size_t n = std::min<size_t>(params.n_batch, a.ids.size() - first);
    check_llama(decode(session.get(), a.ids.data() + first, n, all.data()));
    for (uint32_t i = 0; i < n; ++i) {
      const float* row = nullptr;
      check_llama(mica_llama_logits(session.get(), i, &row));
      require_finite(row, n_vocab);
      if (std::fwrite(row, sizeof(float), n_vocab, file.get()) != n_vocab)
        fail(MICA_IO, "writing '" + escaped(a.logits_file) + "' failed");
    }
  }
  if (std::fflush(file.get()) != 0)
    fail(MICA_IO, "writing '" + escaped(a.logits_file) + "' failed");
}

void print_perplexity(const Arguments& a, mica_llama_model* model) {
  const std::string text = read_file(a.text_file);
  PerplexityTask task;
  task.tokens = tokenize(model, text, MICA_LLAMA_ADD_SPECIAL);
  task.n_ctx = a.common.n_ctx != 0 ? a.common.n_ctx : 512;
  task.n_chunks = a.n_chunks;
  const mica_llama_model_info info = info_of(model);
  task.first_token = info.adds_bos != 0 ? info.bos : -1;
  const Perplexity result = measure_perplexity(model, session_params(a.common), task);
  std::printf("perplexity %.4f ± %.5f (%zu tokens)\n", result.value, result.error, result.n_tokens);
}

int run(const Arguments& a) {
  watch_interrupt();
  const int n_tasks =
      (a.ids.empty() ? 0 : 1) + (a.text_file.empty() ? 0 : 1) + (a.to_tokenize.is_given ? 1 : 0);
  if (n_tasks != 1)
    fail(MICA_INVALID_ARGUMENT, "give one of --ids with --logits, -f, or --tokenize");
  const ModelHandle model = open_model(a.common);
  if (a.to_tokenize.is_given) {
    print_ids(a, model.get());
  } else if (!a.ids.empty()) {
    write_logits(a, model.get());
  } else {
    print_perplexity(a, model.get());
  }
  return 0;
}

}  // namespace
}  // namespace mica_llama::cli

int main(int argc, char** argv) {
  using namespace mica_llama::cli;
  const auto body = [](int n, char** words) {
    Arguments arguments;
    CommandLine line("Token ids, logits and perplexity of a GGUF model.");
    add_arguments(line, arguments);
    return line.parse(n, words, "eval") ? run(arguments) : 0;
  };
  return run_program("eval", body, argc, argv);
}
