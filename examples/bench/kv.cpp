// bench kv-shift: what a move of cached tokens costs and what it does to the logits.
// bench rope-cache: generation with relative and un-rotated keys beside rotated ones.
// bench edits: a long conversation that is edited in the middle, exactly and by moving.
#include "kv.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "../llama/cli.h"

namespace mica_llama::cli {
namespace {

struct Arguments {
  Options common;
  std::string shape, format = "md";
  std::vector<uint32_t> depths;
  uint32_t n_repetitions = 5, n_turns = 200, n_edits = 10, n_recompute = 16;
};

void add_arguments(CommandLine& line, Arguments& a) {
  add_options(line, a.common);
  line.add("--shape", &a.shape, "NAME:TYPE, random weights in a real shape instead of -m");
  line.add("-d,--n-depth", &a.depths, "tokens in the cache, comma-separated", true);
  line.add("-r,--repetitions", &a.n_repetitions, "runs of each test; the median counts", true);
  line.add_choice("-o,--output", &a.format, "md json");
}

ModelHandle open_any(const Arguments& a) {
  if (!a.shape.empty() && !a.common.model.empty())
    fail(MICA_INVALID_ARGUMENT, "give -m or --shape, not both");
  if (a.n_repetitions == 0) fail(MICA_INVALID_ARGUMENT, "-r must be 1 at least");
  watch_interrupt();
  ModelHandle model = open_model(a.common, a.shape);
  check_llama(mica_llama_model_load(model.get()));
  return model;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Prints a table as it comes: Markdown, or a JSON list of objects of numbers and texts.
class Table {
 public:
  Table(const std::string& format, std::vector<std::string> names)
      : is_json_(format == "json"), names_(std::move(names)) {
    if (is_json_) return;
    std::string rule;
    for (const std::string& name : names_) {
      std::printf("| %s ", name.c_str());
      rule += "| ---: ";
    }
    std::printf("|\n%s|\n", rule.c_str());
  }
  void row(const std::vector<std::string>& values) {
    if (is_json_) std::printf("%s\n  {", n_rows_ == 0 ? "[" : ",");
    for (size_t i = 0; i < values.size(); ++i) {
      const bool is_text = values[i].find_first_not_of("0123456789.e-+") != std::string::npos;
      const char* quote = is_text ? "\"" : "";
      if (is_json_) {
        std::printf("%s\"%s\": %s%s%s", i == 0 ? "" : ", ", names_[i].c_str(), quote,
                    values[i].c_str(), quote);
      } else {
        std::printf("| %s ", values[i].c_str());
      }
    }
    std::printf(is_json_ ? "}" : "|\n");
    std::fflush(stdout);
    ++n_rows_;
  }
  void finish() {
    if (is_json_) std::printf(n_rows_ == 0 ? "[]\n" : "\n]\n");
  }

 private:
  bool is_json_;
  std::vector<std::string> names_;
  size_t n_rows_ = 0;
};

std::string number(const char* format, double value) {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// A session with one sequence of `depth` tokens and room for more.
struct Cached {
  SessionHandle session;
  uint32_t n_vocab;

  Cached(const Arguments& a, mica_llama_model* model, const std::string& type,
         const std::string& keys, uint32_t depth, uint32_t room)
      : n_vocab(info_of(model).n_vocab) {
    Options options = a.common;
    options.keys = keys;
    options.type_k = type;
    mica_llama_session_params params = session_params(options);
    params.n_ctx = depth + room;
    session = create_session(model, params);
    check_llama(decode(session.get(), some_tokens(depth, n_vocab).data(), depth));
  }
  std::vector<float> logits_after(int32_t token) {
    check_llama(decode(session.get(), &token, 1));
    const float* row = nullptr;
    check_llama(mica_llama_logits(session.get(), 0, &row));
    return {row, row + n_vocab};
  }
  void move(int64_t p0, int64_t by) {
    check_llama(mica_llama_seq_add(session.get(), 0, p0, -1, by));
  }
};

double relative_error(const std::vector<float>& x, const std::vector<float>& exact) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double e = exact[i];
    difference += (double{x[i]} - e) * (double{x[i]} - e);
    size += e * e;
  }
  return std::sqrt(difference / size);
}

int kv_shift(const Arguments& a) {
  const ModelHandle model = open_any(a);
  constexpr uint32_t kMoves[] = {0, 1, 3, 8, 100};
  constexpr int32_t kToken = 5;
  Table table(a.format, {"type_k", "keys", "tokens", "moves", "us a move", "logits' error"});
  for (const uint32_t depth : a.depths) {
    // A conversation that moves as a whole says the same: RoPE tells distances alone.
    const std::vector<float> exact =
        Cached(a, model.get(), "f32", "rotated", depth, 512).logits_after(kToken);
    for (const char* type : {"f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})
      for (const char* keys : {"rotated", "relative", "unrotated"}) {
        Cached cached(a, model.get(), type, keys, depth, 512);
        uint32_t done = 0;
        std::vector<double> times;
        for (const uint32_t moves : kMoves) {
          for (; done < moves; ++done) {
            const auto start = std::chrono::steady_clock::now();
            cached.move(0, done % 2 == 0 ? 37 + done % 7 : -(37 + int64_t{done - 1} % 7));
            times.push_back(seconds_since(start) * 1e6);
          }
          const std::vector<float> logits = cached.logits_after(kToken);
          const int64_t end = mica_llama_seq_next(cached.session.get(), 0);
          check_llama(mica_llama_seq_rm(cached.session.get(), 0, end - 1, -1));
          table.row({type, keys, std::to_string(depth), std::to_string(moves),
                     times.empty() ? "0" : number("%.1f", median(times)),
                     number("%.2e", relative_error(logits, exact))});
        }
      }
  }
  table.finish();
  return 0;
}

// Seconds of one generated token behind what is cached.
double generation_seconds(Cached& cached) {
  constexpr uint32_t kTokens = 32;
  const std::vector<int32_t> tokens = some_tokens(kTokens, cached.n_vocab);
  const auto start = std::chrono::steady_clock::now();
  for (const int32_t token : tokens) {
    int32_t next = 0;
    check_llama(decode(cached.session.get(), &token, 1));
    check_llama(mica_llama_sample(cached.session.get(), 0, nullptr, &next));
  }
  const double seconds = seconds_since(start);
  const int64_t end = mica_llama_seq_next(cached.session.get(), 0);
  check_llama(mica_llama_seq_rm(cached.session.get(), 0, end - kTokens, -1));
  return seconds / kTokens;
}

int rope_cache(const Arguments& a) {
  const ModelHandle model = open_any(a);
  Table table(a.format, {"tokens", "type_k", "rotated t/s", "relative", "relative, moved",
                         "unrotated", "unrotated, moved"});
  for (const uint32_t depth : a.depths) {
    const std::string& type = a.common.type_k;
    std::vector<std::unique_ptr<Cached>> all;
    for (const char* keys : {"rotated", "relative", "relative", "unrotated", "unrotated"})
      all.push_back(std::make_unique<Cached>(a, model.get(), type, keys, depth, 256));
    // As after three edits: four parts, each moved by another number of positions.
    for (const size_t moved : {2, 4})
      for (uint32_t i = 1; i < 4; ++i) all[moved]->move(int64_t{depth} * i / 4 + 20 * i, 3 + i);
    std::vector<std::vector<double>> times(all.size());
    for (const auto& c : all) (void)generation_seconds(*c);
    for (uint32_t r = 0; r < a.n_repetitions; ++r)
      for (size_t i = 0; i < all.size(); ++i) times[i].push_back(generation_seconds(*all[i]));
    const double base = median(times[0]);
    std::vector<std::string> row = {std::to_string(depth), type, number("%.1f", 1 / base)};
    for (size_t i = 1; i < all.size(); ++i) row.push_back(number("%.3f", base / median(times[i])));
    table.row(row);
  }
  table.finish();
  return 0;
}

// Turn `i` of a conversation; `version`: how often it was edited.
std::string turn_text(uint32_t i, uint32_t version) {
  static const char* const kThings[] = {"the harbour",     "an old map",    "winter wheat",
                                        "the night train", "a brass clock", "the river ferry",
                                        "two lighthouses"};
  std::string text = "<|im_start|>user\nNumber " + std::to_string(i) + ": tell me about " +
                     kThings[i % 7] + (version != 0 ? " and, please, also about " : "") +
                     (version != 0 ? kThings[(i + version) % 7] : "") + ".<|im_end|>\n";
  return text + "<|im_start|>assistant\nIt is number " + std::to_string(i) + ", " + kThings[i % 7] +
         ", as you said.<|im_end|>\n";
}

class Conversation {
 public:
  Conversation(const Arguments& a, mica_llama_model* model, uint32_t n_ctx,
               mica_llama_edit_params how)
      : model_(model), how_(how) {
    mica_llama_session_params params = session_params(a.common);
    params.n_ctx = n_ctx;
    session_ = create_session(model, params);
  }
  void append(const std::vector<int32_t>& tokens) {
    check_llama(decode(session_.get(), tokens.data(), tokens.size()));
  }
  mica_llama_edit_info become(const std::vector<int32_t>& tokens) {
    mica_llama_edit_info info{};
    check_llama(mica_llama_edit_to(session_.get(), 0, tokens.data(), tokens.size(), &how_, &info));
    return info;
  }
  std::vector<float> logits() {
    const float* row = nullptr;
    check_llama(mica_llama_logits(session_.get(), 0, &row));
    return {row, row + info_of(model_).n_vocab};
  }
  std::vector<int32_t> answer(uint32_t n) {
    std::vector<int32_t> tokens;
    for (uint32_t i = 0; i < n; ++i) {
      int32_t token = 0;
      check_llama(mica_llama_sample(session_.get(), 0, nullptr, &token));
      tokens.push_back(token);
      append({token});
    }
    return tokens;
  }

 private:
  mica_llama_model* model_;
  mica_llama_edit_params how_;
  SessionHandle session_;
};

std::string reused_text(const mica_llama_edit_info& info) {
  return std::to_string(info.n_reused) + " of " + std::to_string(info.n_tokens);
}

int edits(const Arguments& a) {
  constexpr uint32_t kAnswer = 24;
  const ModelHandle model = open_any(a);
  std::vector<std::vector<int32_t>> turns;
  const auto tokens_of = [&](uint32_t i, uint32_t version) {
    return tokenize(model.get(), turn_text(i, version), MICA_LLAMA_PARSE_SPECIAL);
  };
  const auto joined = [&] {
    std::vector<int32_t> all;
    for (const std::vector<int32_t>& turn : turns) all.insert(all.end(), turn.begin(), turn.end());
    return all;
  };
  const auto longest = static_cast<uint32_t>(tokens_of(a.n_turns, 1).size());
  const uint32_t n_ctx = (longest + 2) * a.n_turns + 2 * kAnswer;
  mica_llama_edit_params moving = MICA_LLAMA_EDIT_PARAMS_INIT;
  moving.mode = MICA_LLAMA_EDIT_REUSED;
  moving.n_recompute = a.n_recompute;
  Conversation exact(a, model.get(), n_ctx, MICA_LLAMA_EDIT_PARAMS_INIT);
  Conversation reused(a, model.get(), n_ctx, moving);
  Table table(a.format, {"turn", "exact: reused", "s", "moving: reused", "s", "logits' deviation"});
  for (uint32_t i = 0; i < a.n_turns; ++i) {
    turns.push_back(tokens_of(i, 0));
    exact.append(turns.back());
    reused.append(turns.back());
    if ((i + 1) * a.n_edits / a.n_turns == i * a.n_edits / a.n_turns) continue;
    turns[i / 2] = tokens_of(i / 2, 1 + i % 5);
    auto start = std::chrono::steady_clock::now();
    const mica_llama_edit_info of_exact = exact.become(joined());
    const double exact_seconds = seconds_since(start);
    start = std::chrono::steady_clock::now();
    const mica_llama_edit_info of_moving = reused.become(joined());
    table.row({std::to_string(i + 1), reused_text(of_exact), number("%.2f", exact_seconds),
               reused_text(of_moving), number("%.2f", seconds_since(start)),
               number("%.3f", relative_error(reused.logits(), exact.logits()))});
  }
  table.finish();
  Conversation fresh(a, model.get(), n_ctx, MICA_LLAMA_EDIT_PARAMS_INIT);
  fresh.append(joined());
  const double same = relative_error(exact.logits(), fresh.logits());
  const std::vector<int32_t> expected = fresh.answer(kAnswer);
  std::fprintf(stderr, "exact edits: logits %.1e from a fresh run's, the answer is %s\n", same,
               exact.answer(kAnswer) == expected ? "the same" : "another");
  std::fprintf(stderr, "moving edits: the answer is %s\n",
               reused.answer(kAnswer) == expected ? "the same" : "another");
  return 0;
}

}  // namespace

int run_edits(int argc, char** argv) {
  Arguments a;
  CommandLine line(
      "A conversation that is edited in the middle: what each edit reuses, what it takes, and how "
      "far "
      "moved cells put the logits off. At the end an answer, beside that of a fresh run.");
  add_arguments(line, a);
  line.add("--turns", &a.n_turns, "turns of the conversation", true);
  line.add("--edits", &a.n_edits, "how many of them are followed by an edit", true);
  line.add("--recompute", &a.n_recompute, "tokens behind an edit that are computed again", true);
  return line.parse(argc, argv, "bench edits") ? edits(a) : 0;
}

int run_kv_shift(int argc, char** argv) {
  Arguments a;
  a.depths = {256, 1024};
  CommandLine line(
      "Moves a cached conversation again and again: microseconds a move, and the logits' error "
      "relative to those of a cache of F32 that never moved.");
  add_arguments(line, a);
  return line.parse(argc, argv, "bench kv-shift") ? kv_shift(a) : 0;
}

int run_rope_cache(int argc, char** argv) {
  Arguments a;
  a.depths = {128, 512, 2048, 8192};
  CommandLine line(
      "Generation behind cached tokens with relative and un-rotated keys, not moved and moved, as "
      "a part of the "
      "speed with rotated ones.");
  add_arguments(line, a);
  return line.parse(argc, argv, "bench rope-cache") ? rope_cache(a) : 0;
}

}  // namespace mica_llama::cli
