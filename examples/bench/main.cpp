// The program `bench`: tokens per second of prompts and of generation.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>

#include "../llama/cli.h"
#include "json.h"
#include "kv.h"

namespace mica_llama::cli {
namespace {

struct Arguments {
  Options common;
  std::string shape, write_path, format = "md";
  std::vector<uint32_t> n_prompt = {512}, n_gen = {128}, depth = {0};
  std::vector<uint32_t> n_seqs = {1};
  uint32_t n_repetitions = 5;
  bool no_warmup = false, logits = false;
};

struct Result {
  uint32_t n_prompt, n_gen, depth, n_seqs;
  std::vector<double> rates;  // tokens per second, of all sequences together

  double mean() const {
    double sum = 0;
    for (const double r : rates) sum += r;
    return sum / static_cast<double>(rates.size());
  }
  double deviation() const {
    if (rates.size() < 2) return 0;
    double sum = 0;
    for (const double r : rates) sum += (r - mean()) * (r - mean());
    return std::sqrt(sum / static_cast<double>(rates.size() - 1));
  }
  std::string test() const {
    std::string name =
        n_prompt != 0 ? "pp" + std::to_string(n_prompt) : "tg" + std::to_string(n_gen);
    if (n_seqs != 1) name += " x " + std::to_string(n_seqs);
    return depth != 0 ? name + " @ d" + std::to_string(depth) : name;
  }
};

void add_arguments(CommandLine& line, Arguments& a) {
  add_options(line, a.common);
  line.add("-p,--n-prompt", &a.n_prompt, "prompt lengths, comma-separated; 0: none", true);
  line.add("-n,--n-gen", &a.n_gen, "tokens to generate; 0: none", true);
  line.add("-d,--n-depth", &a.depth, "tokens that are in the cache already", true);
  line.add("--seqs", &a.n_seqs, "sequences that generate at once; t/s counts the tokens of all",
           true);
  line.add("--logits", &a.logits,
           "generating, read back every row of logits, not the sampled token alone");
  line.add("-r,--repetitions", &a.n_repetitions, "runs of each test", true);
  line.add_choice("-o,--output", &a.format, "md json csv");
  line.add("--shape", &a.shape,
           "NAME:TYPE, random weights in a real shape instead of -m: tinyllama-1.1b smollm2-135m "
           "llama-3.2-1b llama-3.1-8b llama-70b mha-7b");
  line.add("--write", &a.write_path, "write the shape as a GGUF file and measure nothing");
  line.add("--no-warmup", &a.no_warmup, "do not run each test once before");
}

// A session of `n_seqs` sequences, each with `depth` tokens of its own in the cache.
class Bench {
 public:
  Bench(const Arguments& a, mica_llama_model* model, uint32_t depth, uint32_t n_seqs)
      : n_vocab_(info_of(model).n_vocab), depth_(depth), n_seqs_(n_seqs), logits_(a.logits) {
    uint32_t longest = 1;
    for (const uint32_t n : a.n_prompt) longest = std::max(longest, n);
    for (const uint32_t n : a.n_gen) longest = std::max(longest, n);
    mica_llama_session_params params = session_params(a.common);
    params.n_ctx = depth + longest;
    params.n_seqs = params.n_outputs = n_seqs;
    session_ = create_session(model, params);
    const std::vector<int32_t> tokens = some_tokens(depth, n_vocab_);
    for (uint32_t seq = 0; depth != 0 && seq < n_seqs; ++seq) run({{seq, depth}}, tokens);
  }

  // Seconds of one test at the session's depth.
  double prompt(uint32_t n) {
    const std::vector<int32_t> tokens = some_tokens(n, n_vocab_);
    return timed([&] { run({{0, n}}, tokens); });
  }
  double generation(uint32_t n) {
    const std::vector<int32_t> tokens = some_tokens(n * n_seqs_, n_vocab_);
    std::vector<mica_llama_span> spans;
    for (uint32_t seq = 0; seq < n_seqs_; ++seq) spans.push_back({seq, 1});
    return timed([&] {
      for (uint32_t i = 0; i < n; ++i) {
        run(spans, {tokens.data() + size_t{i} * n_seqs_, n_seqs_});
        for (uint32_t row = 0; row < n_seqs_; ++row) read(row);
      }
    });
  }

 private:
  void run(const std::vector<mica_llama_span>& spans, std::span<const int32_t> tokens) {
    const mica_llama_batch batch = {sizeof batch, static_cast<uint32_t>(spans.size()), spans.data(),
                                    tokens.data(), nullptr};
    check_llama(mica_llama_decode(session_.get(), &batch));
  }
  // What a program needs of a step: the token, or the logits to choose it from.
  void read(uint32_t row) {
    int32_t token = 0;
    const float* logits = nullptr;
    check_llama(logits_ ? mica_llama_logits(session_.get(), row, &logits)
                        : mica_llama_sample(session_.get(), row, nullptr, &token));
  }
  template <class Body>
  double timed(Body body) {
    for (uint32_t seq = 0; seq < n_seqs_; ++seq)
      check_llama(mica_llama_seq_rm(session_.get(), seq, depth_, -1));
    const auto start = std::chrono::steady_clock::now();
    body();
    return seconds_since(start);
  }

  SessionHandle session_;
  uint32_t n_vocab_, depth_, n_seqs_;
  bool logits_;
};

Result measure(const Arguments& a, Bench& bench, Result test) {
  const bool is_prompt = test.n_prompt != 0;
  const auto once = [&](uint32_t n) { return is_prompt ? bench.prompt(n) : bench.generation(n); };
  const uint32_t n = is_prompt ? test.n_prompt : test.n_gen;
  if (!a.no_warmup) (void)once(is_prompt ? n : 1);
  const double n_tokens = static_cast<double>(n) * (is_prompt ? 1 : test.n_seqs);
  for (uint32_t i = 0; i < a.n_repetitions; ++i) test.rates.push_back(n_tokens / once(n));
  return test;
}

// Prints results as they come.
class Report {
 public:
  Report(const Arguments& a, const mica_llama_model_info& info)
      : a_(a), info_(info),
        backend_(a.common.backend != "auto"
                     ? a.common.backend
                     : std::string(info.device, std::strcspn(info.device, ":"))),
        threads_(a.common.n_threads != 0 ? a.common.n_threads : physical_cores()) {
    if (a_.format == "md") {
      std::printf("| model | size | params | backend | threads |%s test | t/s |\n",
                  has_types() ? " type_k | type_v |" : "");
      std::printf("| --- | ---: | ---: | --- | ---: |%s ---: | ---: |\n",
                  has_types() ? " ---: | ---: |" : "");
    } else if (a_.format == "csv") {
      std::printf(
          "model,size_bytes,n_params,backend,device,n_threads,n_batch,type_k,type_v,n_prompt,"
          "n_gen,n_depth,n_seqs,avg_ts,stddev_ts\n");
    }
    std::fflush(stdout);
  }

  void add(const Result& r) {
    if (a_.format == "md") {
      const std::string types =
          has_types() ? " " + a_.common.type_k + " | " + a_.common.type_v + " |" : "";
      std::printf("| %s | %.2f MiB | %.2f M | %s | %u |%s %s | %.2f ± %.2f |\n", info_.description,
                  static_cast<double>(info_.file_bytes) / (1 << 20),
                  static_cast<double>(info_.n_params) / 1e6, backend_.c_str(), threads_,
                  types.c_str(), r.test().c_str(), r.mean(), r.deviation());
    } else if (a_.format == "csv") {
      std::printf("\"%s\",%llu,%llu,\"%s\",\"%s\",%u,%u,%s,%s,%u,%u,%u,%u,%.4f,%.4f\n",
                  info_.description, static_cast<unsigned long long>(info_.file_bytes),
                  static_cast<unsigned long long>(info_.n_params), backend_.c_str(), info_.device,
                  threads_, n_batch(), a_.common.type_k.c_str(), a_.common.type_v.c_str(),
                  r.n_prompt, r.n_gen, r.depth, r.n_seqs, r.mean(), r.deviation());
    } else {
      add_row(r);
    }
    std::fflush(stdout);
  }

  void finish() {
    if (a_.format == "json") std::printf("[%s\n]\n", rows_.c_str());
  }

 private:
  bool has_types() const { return a_.common.type_k != "f16" || a_.common.type_v != "f16"; }
  void add_row(const Result& r) {
    rows_ += rows_.empty() ? "\n  {" : ",\n  {";
    const char* separator = "\n    ";
    const auto put = [&](const char* key, const std::string& value) {
      rows_.append(separator).append("\"").append(key).append("\": ").append(value);
      separator = ",\n    ";
    };
    put("model_filename", json_text(a_.common.model));
    put("model_type", json_text(info_.description));
    put("model_size", std::to_string(info_.file_bytes));
    put("model_n_params", std::to_string(info_.n_params));
    put("backend", json_text(backend_));
    put("device", json_text(info_.device));
    put("n_threads", std::to_string(threads_));
    put("n_batch", std::to_string(n_batch()));
    put("type_k", json_text(a_.common.type_k));
    put("type_v", json_text(a_.common.type_v));
    put("n_prompt", std::to_string(r.n_prompt));
    put("n_gen", std::to_string(r.n_gen));
    put("n_depth", std::to_string(r.depth));
    put("n_seqs", std::to_string(r.n_seqs));
    put("test", json_text(r.test()));
    put("avg_ts", json_number(r.mean()));
    put("stddev_ts", json_number(r.deviation()));
    std::string rates;
    for (const double rate : r.rates) rates += (rates.empty() ? "" : ", ") + json_number(rate);
    put("samples_ts", "[" + rates + "]");
    rows_ += "\n  }";
  }

  uint32_t n_batch() const { return a_.common.n_batch != 0 ? a_.common.n_batch : 512; }

  const Arguments& a_;
  mica_llama_model_info info_;
  std::string backend_;
  uint32_t threads_;
  std::string rows_;  // of -o json
};

ModelHandle open_any(const Arguments& a) {
  if (!a.shape.empty() && !a.common.model.empty())
    fail(MICA_INVALID_ARGUMENT, "give -m or --shape, not both");
  return open_model(a.common, a.shape);
}

int write_shape(const Arguments& a) {
  static char title[] = "writing";
  if (a.shape.empty()) fail(MICA_INVALID_ARGUMENT, "--write needs --shape");
  watch_interrupt(true);
  check_llama(mica_llama_shape_write(a.shape.c_str(), a.write_path.c_str(), show_progress, title));
  std::printf("%s\n", escaped(a.write_path, 4096).c_str());
  return 0;
}

int run(const Arguments& a) {
  if (!a.write_path.empty()) return write_shape(a);
  if (a.n_repetitions == 0) fail(MICA_INVALID_ARGUMENT, "-r must be 1 at least");
  for (const uint32_t n : a.n_seqs)
    if (n == 0) fail(MICA_INVALID_ARGUMENT, "--seqs must be 1 at least");
  watch_interrupt();
  const ModelHandle model = open_any(a);
  check_llama(mica_llama_model_load(model.get()));
  Report report(a, info_of(model.get()));
  for (const uint32_t depth : a.depth)
    for (size_t i = 0; i < a.n_seqs.size(); ++i) {
      const uint32_t n_seqs = a.n_seqs[i];
      Bench bench(a, model.get(), depth, n_seqs);
      for (const uint32_t n : a.n_prompt)  // of one sequence, so once
        if (n != 0 && i == 0) report.add(measure(a, bench, {n, 0, depth, 1, {}}));
      for (const uint32_t n : a.n_gen)
        if (n != 0) report.add(measure(a, bench, {0, n, depth, n_seqs, {}}));
    }
  report.finish();
  return 0;
}

}  // namespace
}  // namespace mica_llama::cli

int main(int argc, char** argv) {
  using namespace mica_llama::cli;
  const auto body = [](int n, char** words) {
    const std::string_view name = n > 1 ? words[1] : "";
    if (name == "kv-shift") return run_kv_shift(n - 1, words + 1);
    if (name == "rope-cache") return run_rope_cache(n - 1, words + 1);
    if (name == "edits") return run_edits(n - 1, words + 1);
    Arguments arguments;
    CommandLine line(
        "Tokens per second of prompts and of generation. First word kv-shift, rope-cache or edits: "
        "what moving cached tokens costs.");
    add_arguments(line, arguments);
    return line.parse(n, words, "bench") ? run(arguments) : 0;
  };
  return run_program("bench", body, argc, argv);
}
