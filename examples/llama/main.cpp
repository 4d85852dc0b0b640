// The program `llama`: answers a prompt with a GGUF model, streaming.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "cli.h"
#include "tokenizer/utf8.h"

namespace mica_llama::cli {
namespace {

constexpr size_t kRepeatWindow = 64;  // tokens that --repeat-penalty looks back on

struct Arguments {
  Options common;
  std::string prompt, prompt_file, system;
  CommandLine::Optional prompt_cache;
  int64_t n_predict = -1;
  int64_t seed = -1;
  float temperature = 0.8f, top_p = 0.95f, min_p = 0.05f, repeat_penalty = 1.0f;
  int32_t top_k = 40;
  bool raw = false, explain = false, context_shift = false;
  uint32_t n_keep = 0;
  int64_t n_drop = -1, group = -1, group_window = -1;  // -1: not given
};

void add_arguments(CommandLine& line, Arguments& a) {
  add_options(line, a.common);
  line.add("-p,--prompt", &a.prompt,
           "the prompt; wrapped as a chat when the model is a ChatML one");
  line.add("-f,--file", &a.prompt_file, "a file with the prompt");
  line.add("--system", &a.system, "system message of the chat (default: the template's)");
  line.add("--raw", &a.raw, "do not wrap the prompt");
  line.add("-n,--predict", &a.n_predict, "tokens to generate (default -1: until the end)");
  line.add("-c,--ctx-size", &a.common.n_ctx,
           "tokens of context (default: the model's, at most 4096)");
  line.add("-s,--seed", &a.seed, "seed (default -1: random)");
  line.add("--temp", &a.temperature, "temperature, 0: greedy", true);
  line.add("--top-k", &a.top_k, "0: off", true);
  line.add("--top-p", &a.top_p, "1: off", true);
  line.add("--min-p", &a.min_p, "0: off", true);
  line.add("--repeat-penalty", &a.repeat_penalty, "1: off; over the last 64 tokens", true);
  line.add("--context-shift", &a.context_shift,
           "a full context drops its oldest tokens behind --keep: half of them, or --drop");
  line.add("--keep", &a.n_keep, "tokens at the start that stay (StreamingLLM: 4, --drop 64)");
  line.add("--drop", &a.n_drop, "tokens to drop at once (default: half)");
  line.add("--group", &a.group, "Self-Extend: tokens that share a position (default: off)");
  line.add("--group-window", &a.group_window, "tokens that become groups at once (default 512)");
  line.add("--prompt-cache", &a.prompt_cache,
           "a file that keeps what was computed: the next run with it computes only what is new");
  line.add("--explain", &a.explain, "print where and how each step runs");
}

std::string wrapped(const mica_llama_model* model, const std::string& prompt,
                    const std::string& system) {
  const char* system_text = system.empty() ? nullptr : system.data();
  size_t n = 0;
  check_llama(mica_llama_chat(model, prompt.data(), prompt.size(), system_text, system.size(),
                              nullptr, 0, &n));
  std::string text(n, '\0');
  check_llama(mica_llama_chat(model, prompt.data(), prompt.size(), system_text, system.size(),
                              text.data(), n, &n));
  return text;
}

std::vector<int32_t> prompt_tokens(const Arguments& a, const mica_llama_model* model) {
  if (!a.prompt.empty() && !a.prompt_file.empty())
    fail(MICA_INVALID_ARGUMENT, "give -p or -f, not both");
  std::string text = a.prompt_file.empty() ? a.prompt : read_file(a.prompt_file);
  if (text.empty()) fail(MICA_INVALID_ARGUMENT, "give a prompt with -p TEXT or -f FILE");
  if (!a.raw && info_of(model).is_chatml != 0) text = wrapped(model, text, a.system);
  const uint32_t flags = MICA_LLAMA_ADD_SPECIAL | MICA_LLAMA_PARSE_SPECIAL;
  std::vector<int32_t> tokens = tokenize(model, text, flags);
  if (tokens.empty()) fail(MICA_INVALID_ARGUMENT, "the prompt has no tokens");
  return tokens;
}

// Streams text: whole characters only; on a terminal, control characters of the model's (C0, DEL
// and C1) are not sent.
class Output {
 public:
  void token(const mica_llama_model* model, int32_t id) {
    char small[256];
    size_t n = 0;
    check_llama(mica_llama_detokenize(model, &id, 1, 0, small, sizeof small, &n));
    std::string piece(small, std::min(n, sizeof small));
    if (n > sizeof small) {
      piece.resize(n);
      check_llama(mica_llama_detokenize(model, &id, 1, 0, piece.data(), n, &n));
    }
    print(stream_.push(piece));
  }
  void finish() {
    print(stream_.flush());
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }

 private:
  void print(const std::string& whole) {
    const std::string text = is_terminal_ ? utf8_printable(whole) : whole;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  Utf8Stream stream_;
  bool is_terminal_ = isatty(STDOUT_FILENO) != 0;
};

struct Timing {
  double load = 0, prompt = 0, generation = 0;  // seconds
  size_t n_prompt = 0, n_generated = 0;         // tokens
};

void print_summary(const Timing& t, const mica_llama_model_info& model, const mica_memory& memory) {
  const auto rate = [](size_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  std::fprintf(stderr,
               "load %.2f s | prompt %zu tokens, %.1f t/s | generation %zu tokens, %.1f t/s | "
               "memory %s (weights %s, KV: %u unique layers of %u, %s)\n",
               t.load, t.n_prompt, rate(t.n_prompt, t.prompt), t.n_generated,
               rate(t.n_generated, t.generation), bytes_text(memory.total_bytes).c_str(),
               bytes_text(memory.weights_bytes).c_str(), model.n_kv_layers, model.n_layers,
               bytes_text(memory.kv_bytes).c_str());
}

// Decodes; false when Ctrl-C stopped it.
bool decode_or_stop(mica_llama_session* session, const int32_t* tokens, size_t n) {
  const mica_status status = decode(session, tokens, n);
  if (status == MICA_CANCELLED) return false;
  check_llama(status);
  return true;
}

// A damaged model may spoil some logits only, which the choice of a token leaves out: looked at
// once. mica_llama_sample itself tells of rows that leave nothing to choose from.
void check_logits(const mica_llama_model* model, mica_llama_session* session) {
  const float* row = nullptr;
  check_llama(mica_llama_logits(session, 0, &row));
  require_finite(row, info_of(model).n_vocab);
}

// The prompt, or what of it the file of --prompt-cache lacks. False when Ctrl-C stopped it.
bool prompt_or_stop(const Arguments& a, mica_llama_session* session,
                    const std::vector<int32_t>& tokens) {
  if (!a.prompt_cache.is_given) return decode_or_stop(session, tokens.data(), tokens.size());
  const mica_status loaded = mica_llama_load(session, 0, a.prompt_cache.text.c_str());
  if (loaded == MICA_CACHE_FULL)
    fail(loaded, std::string(mica_llama_error()) +
                     " (-c makes it larger; or name another file with --prompt-cache)");
  if (loaded != MICA_NOT_FOUND) check_llama(loaded);
  mica_llama_edit_info info{};
  const mica_status status =
      mica_llama_edit_to(session, 0, tokens.data(), tokens.size(), nullptr, &info);
  if (status == MICA_CANCELLED) return false;
  check_llama(status);
  std::fprintf(stderr, "reused %llu of %llu tokens\n",
               static_cast<unsigned long long>(info.n_reused),
               static_cast<unsigned long long>(info.n_tokens));
  return true;
}

constexpr const char* kFull =
    "stopped: the context is full (-c makes it larger, --context-shift drops old tokens)";

// Generates until an end. Returns a sentence when that is worth telling.
const char* generate(const Arguments& a, mica_llama_model* model, mica_llama_session* session,
                     std::vector<int32_t> tokens, Timing& timing) {
  mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
  sampler.temperature = a.temperature;
  sampler.top_k = a.top_k;
  sampler.top_p = a.top_p;
  sampler.min_p = a.min_p;
  sampler.repeat_penalty = a.repeat_penalty;
  sampler.seed = a.seed >= 0 ? static_cast<uint64_t>(a.seed) : std::random_device{}();
  auto start = std::chrono::steady_clock::now();
  if (!prompt_or_stop(a, session, tokens)) return nullptr;
  timing.n_prompt = tokens.size();
  timing.prompt = seconds_since(start);
  check_logits(model, session);
  Output output;
  const char* end = nullptr;
  start = std::chrono::steady_clock::now();
  for (int64_t i = 0; (a.n_predict < 0 || i < a.n_predict) && interrupted == 0; ++i) {
    const size_t window = std::min(tokens.size(), kRepeatWindow);
    sampler.n_previous = static_cast<uint32_t>(window);
    sampler.previous = tokens.data() + (tokens.size() - window);
    int32_t token = 0;
    const mica_status status = mica_llama_sample(session, 0, &sampler, &token);
    if (status == MICA_CANCELLED) break;
    check_llama(status);
    if (mica_llama_is_end(model, token) != 0) break;
    output.token(model, token);
    tokens.push_back(token);
    ++timing.n_generated;
    if (i + 1 == a.n_predict) break;
    if (!a.context_shift && mica_llama_seq_next(session, 0) >= int64_t{mica_llama_n_ctx(session)}) {
      end = kFull;
      break;
    }
    // Tokens that share a position fill the cache before the positions do.
    const mica_status decoded = decode(session, &token, 1);
    if (decoded == MICA_CACHE_FULL && !a.context_shift) {
      end = kFull;
      break;
    }
    if (decoded == MICA_CANCELLED) break;
    check_llama(decoded);
  }
  timing.generation = seconds_since(start);
  output.finish();
  return end;
}

void print_explanation(const mica_llama_session* session) {
  size_t n = 0;
  check_llama(mica_llama_explain(session, nullptr, 0, &n));
  std::string text(n, '\0');
  check_llama(mica_llama_explain(session, text.data(), n, &n));
  std::fwrite(text.data(), 1, text.size(), stderr);
}

[[noreturn]] void refuse(const std::string& text) { fail(MICA_INVALID_ARGUMENT, text); }

// What is found at the end of a long answer is better told before it.
void check_prompt_cache(const Arguments& a) {
  if (!a.prompt_cache.is_given) return;
  if (a.prompt_cache.text.empty()) refuse("--prompt-cache needs the path of a file");
  if (a.group >= 0)
    refuse(
        "--prompt-cache and --group do not go together: tokens that share a position cannot be "
        "found again by their position");
  const std::string::size_type slash = a.prompt_cache.text.rfind('/');
  const std::string folder =
      slash == std::string::npos ? "." : a.prompt_cache.text.substr(0, slash + 1);
  if (access(folder.c_str(), W_OK) != 0)
    refuse("--prompt-cache: no file can be made in '" + escaped(folder) + "'");
}

// Context shift and Self-Extend, from their flags.
void set_edits(const Arguments& a, mica_llama_session_params& params) {
  if (a.n_predict < -1) refuse("-n is " + std::to_string(a.n_predict) + "; -1 is until the end");
  if (!a.context_shift && (a.n_keep != 0 || a.n_drop >= 0))
    refuse("--keep and --drop say what --context-shift does; give that too");
  if (a.n_drop == 0 || a.n_drop > UINT32_MAX)
    refuse("--drop is " + std::to_string(a.n_drop) + ", no number of tokens; without it half go");
  if (a.common.n_ctx != 0 && a.n_keep >= a.common.n_ctx)
    refuse("--keep is " + std::to_string(a.n_keep) + ", the context holds " +
           std::to_string(a.common.n_ctx));
  params.n_keep = a.n_keep;
  if (a.context_shift)
    params.n_drop = a.n_drop > 0 ? static_cast<uint32_t>(a.n_drop) : MICA_LLAMA_DROP_HALF;
  if (a.group < 0) {
    if (a.group_window >= 0) refuse("--group-window says how --group works; give that too");
    return;
  }
  const int64_t window = a.group_window < 0 ? 512 : a.group_window;
  if (a.group < 2 || a.group > UINT32_MAX)
    refuse("--group is " + std::to_string(a.group) + "; 2 tokens or more can share a position");
  if (window == 0 || window > UINT32_MAX || window % a.group != 0)
    refuse("--group-window is " + std::to_string(window) + ", not a multiple of --group " +
           std::to_string(a.group));
  params.extend_factor = static_cast<uint32_t>(a.group);
  params.extend_window = static_cast<uint32_t>(window);
}

int run(const Arguments& a) {
  watch_interrupt();
  Timing timing;
  const auto start = std::chrono::steady_clock::now();
  check_prompt_cache(a);
  const ModelHandle model = open_model(a.common);
  const std::vector<int32_t> tokens = prompt_tokens(a, model.get());
  mica_llama_session_params params = session_params(a.common);
  set_edits(a, params);
  const SessionHandle session = create_session(model.get(), params);
  const uint32_t n_ctx = mica_llama_n_ctx(session.get());
  if (tokens.size() >= n_ctx)
    fail(MICA_INVALID_ARGUMENT, "the prompt has " + std::to_string(tokens.size()) +
                                    " tokens and needs room for an answer, the context holds " +
                                    std::to_string(n_ctx) + " (-c makes it larger)");
  check_llama(mica_llama_model_load(model.get()));
  timing.load = seconds_since(start);
  if (a.explain) print_explanation(session.get());
  const char* end = generate(a, model.get(), session.get(), tokens, timing);
  if (a.prompt_cache.is_given && interrupted == 0)
    check_llama(mica_llama_save(session.get(), 0, a.prompt_cache.text.c_str()));
  mica_memory memory{};
  check_llama(mica_llama_session_memory(session.get(), &memory));
  if (end != nullptr) std::fprintf(stderr, "%s\n", end);
  print_summary(timing, info_of(model.get()), memory);
  return interrupted != 0 ? 128 + interrupted : 0;
}

}  // namespace
}  // namespace mica_llama::cli

int main(int argc, char** argv) {
  using namespace mica_llama::cli;
  const auto body = [](int n, char** words) {
    Arguments arguments;
    CommandLine line("Answers a prompt with a GGUF model.");
    add_arguments(line, arguments);
    return line.parse(n, words, "llama") ? run(arguments) : 0;
  };
  return run_program("llama", body, argc, argv);
}
