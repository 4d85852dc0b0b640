// bench kv-shift: what a move of cached tokens costs and what it does to the logits.
// bench rope-cache: generation with relative and un-rotated keys beside rotated ones.
// bench edits: a long conversation that is edited in the middle, exactly and by moving.
#include "kv.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "../llama/cli.h"
#include "json.h"

namespace mica_llama::cli {
namespace {

struct Arguments {
  Options common;
  std::string shape, format = "md";
  std::vector<uint32_t> depths, contexts = {0}, yarn = {1, 4}, parts = {1, 4};
  uint32_t n_repetitions = 5, n_turns = 200, n_edits = 10, n_recompute = 16;
};

void add_arguments(CommandLine& line, Arguments& a) {
  add_options(line, a.common);
  line.add("--shape", &a.shape, "NAME:TYPE, random weights in a real shape instead of -m");
  line.add("-d,--n-depth", &a.depths, "tokens in the cache, comma-separated", true);
  line.add("-r,--repetitions", &a.n_repetitions, "runs of each test; the median counts", true);
  line.add_choice("-o,--output", &a.format, "md json");
}

// With RoPE scaled by YaRN when `yarn` is above 1.
ModelHandle open_any(const Arguments& a, uint32_t yarn = 1) {
  if (!a.shape.empty() && !a.common.model.empty())
    fail(MICA_INVALID_ARGUMENT, "give -m or --shape, not both");
  if (a.n_repetitions == 0) fail(MICA_INVALID_ARGUMENT, "-r must be 1 at least");
  watch_interrupt();
  Options options = a.common;
  options.yarn_factor = yarn > 1 ? static_cast<float>(yarn) : 0.0f;
  ModelHandle model = open_model(options, a.shape);
  check_llama(mica_llama_model_load(model.get()));
  return model;
}

// The types of --ctk, which takes several here.
std::vector<std::string> types_of(const Arguments& a) {
  std::vector<std::string> types;
  for (size_t at = 0, end = 0; end != std::string::npos; at = end + 1) {
    end = a.common.type_k.find(',', at);
    types.push_back(a.common.type_k.substr(at, end - at));
    (void)dtype_named(types.back());
  }
  return types;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Prints a table as it comes: Markdown, or a JSON list of objects of numbers and texts, which also
// name the model and the device.
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
  void row(const mica_llama_model* model, const std::vector<std::string>& values) {
    const mica_llama_model_info info = info_of(model);
    if (is_json_)
      std::printf("%s\n  {\"model\": %s, \"device\": %s", n_rows_ == 0 ? "[" : ",",
                  json_text(info.description).c_str(), json_text(info.device).c_str());
    for (size_t i = 0; i < values.size(); ++i) {
      const bool is_text = values[i].find_first_not_of("0123456789.e-+") != std::string::npos;
      if (is_json_) {
        std::printf(", %s: %s", json_text(names_[i]).c_str(),
                    is_text ? json_text(values[i]).c_str() : values[i].c_str());
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

// A session with one sequence of `depth` tokens in a context of `n_ctx`.
struct Cached {
  SessionHandle session;
  uint32_t n_vocab;

  Cached(const Arguments& a, mica_llama_model* model, const std::string& type,
         const std::string& keys, uint32_t depth, uint32_t n_ctx)
      : n_vocab(info_of(model).n_vocab) {
    Options options = a.common;
    options.keys = keys;
    options.type_k = type;
    mica_llama_session_params params = session_params(options);
    params.n_ctx = n_ctx;
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

// A conversation that moves again and again, or the last `n_moved` tokens of it.
struct Shift {
  std::string type, keys;
  uint32_t yarn, n_ctx, depth, n_moved;

  bool is_whole() const { return n_moved == depth; }
  // After how many moves the logits are compared. A part is then where it was.
  std::vector<uint32_t> stops() const {
    if (!is_whole()) return {8};
    if (keys == "rotated") return {0, 1, 3, 8, 100};
    return {0, 1, 3, 8, 100, 1000};
  }
};

std::vector<float> logits_behind(Cached& cached) {
  std::vector<float> logits = cached.logits_after(5);
  const int64_t end = mica_llama_seq_next(cached.session.get(), 0);
  check_llama(mica_llama_seq_rm(cached.session.get(), 0, end - 1, -1));
  return logits;
}

// `exact`: the logits of a cache of F32 that never moved. As RoPE tells distances alone, they are
// also those of one that was filled where the conversation has moved to.
void run_shift(const Arguments& a, mica_llama_model* model, const Shift& s,
               const std::vector<float>& exact, Table& table) {
  Cached cached(a, model, s.type, s.keys, s.depth, s.n_ctx);
  const std::vector<float> fresh = logits_behind(cached);
  std::vector<double> times;
  for (const uint32_t stop : s.stops()) {
    while (times.size() < stop) {  // there and back
      const int64_t by = 37 + static_cast<int64_t>(times.size() / 2 * 2 % 7);
      const auto start = std::chrono::steady_clock::now();
      cached.move(times.size() % 2 == 0 ? s.depth - s.n_moved : s.depth - s.n_moved + by,
                  times.size() % 2 == 0 ? by : -by);
      times.push_back(seconds_since(start) * 1e6);
    }
    const std::vector<float> logits = logits_behind(cached);
    table.row(model, {s.yarn > 1 ? "YaRN x" + std::to_string(s.yarn) : "plain", s.type, s.keys,
                      std::to_string(s.n_ctx), std::to_string(s.depth), std::to_string(s.n_moved),
                      std::to_string(stop), times.empty() ? "0" : number("%.1f", median(times)),
                      number("%.2e", relative_error(logits, exact)),
                      number("%.2e", relative_error(logits, fresh))});
  }
}

// All types and kinds of keys behind `depth` tokens.
void run_shifts(const Arguments& a, mica_llama_model* model, uint32_t yarn, uint32_t depth,
                Table& table) {
  constexpr uint32_t kRoom = 64;  // for the token behind, wherever it has moved to
  Cached never_moved(a, model, "f32", "rotated", depth, depth + kRoom);
  const std::vector<float> exact = logits_behind(never_moved);
  for (const uint32_t n_ctx : a.contexts) {
    if (n_ctx != 0 && n_ctx < depth + kRoom) continue;
    for (const std::string& type : types_of(a))
      for (const char* keys : {"rotated", "relative", "unrotated"})
        for (const uint32_t part : a.parts)
          run_shift(a, model,
                    {type, keys, yarn, n_ctx != 0 ? n_ctx : depth + 512, depth, depth / part},
                    exact, table);
  }
}

int kv_shift(const Arguments& a) {
  for (const uint32_t part : a.parts)
    if (part == 0) fail(MICA_INVALID_ARGUMENT, "--parts must be 1 at least");
  Table table(a.format, {"rope", "type_k", "keys", "n_ctx", "tokens", "moved", "moves", "us a move",
                         "logits' error", "off fresh"});
  for (const uint32_t yarn : a.yarn) {
    const ModelHandle model = open_any(a, yarn);
    for (const uint32_t depth : a.depths) run_shifts(a, model.get(), yarn, depth, table);
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

// One row: speeds behind `depth` tokens with one type of K.
void compare_keys(const Arguments& a, mica_llama_model* model, uint32_t depth,
                  const std::string& type, Table& table) {
  std::vector<std::unique_ptr<Cached>> all;
  for (const char* keys : {"rotated", "relative", "relative", "unrotated", "unrotated"})
    all.push_back(std::make_unique<Cached>(a, model, type, keys, depth, depth + 256));
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
  table.row(model, row);
}

int rope_cache(const Arguments& a) {
  const ModelHandle model = open_any(a);
  Table table(a.format, {"tokens", "type_k", "rotated t/s", "relative", "relative, moved",
                         "unrotated", "unrotated, moved"});
  for (const std::string& type : types_of(a))
    for (const uint32_t depth : a.depths) compare_keys(a, model.get(), depth, type, table);
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
  Table table(a.format, {"turn", "tokens", "exact: reused", "exact: s", "moving: reused",
                         "moving: s", "logits' deviation"});
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
    table.row(model.get(),
              {std::to_string(i + 1), std::to_string(of_exact.n_tokens),
               std::to_string(of_exact.n_reused), number("%.3f", exact_seconds),
               std::to_string(of_moving.n_reused), number("%.3f", seconds_since(start)),
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
      "far moved cells put the logits off. At the end an answer, beside that of a fresh run.");
  add_arguments(line, a);
  line.add("--turns", &a.n_turns, "turns of the conversation", true);
  line.add("--edits", &a.n_edits, "how many of them are followed by an edit", true);
  line.add("--recompute", &a.n_recompute, "tokens behind an edit that are computed again", true);
  return line.parse(argc, argv, "bench edits") ? edits(a) : 0;
}

int run_kv_shift(int argc, char** argv) {
  Arguments a;
  a.common.type_k = "f32,f16,bf16,q8_0,q5_1,q5_0,q4_1,q4_0";
  a.depths = {256, 1024};
  CommandLine line(
      "Moves a cached conversation again and again: microseconds a move, and the logits' error "
      "relative to those of a cache of F32, and of the same cache, that never moved; of each type "
      "of --ctk, which takes several.");
  add_arguments(line, a);
  line.add("-c,--n-ctx", &a.contexts, "tokens that the cache holds; 0: those of -d and 512", true);
  line.add("--parts", &a.parts, "1: the whole moves; 4: the last quarter", true);
  line.add("--yarn", &a.yarn, "factors of YaRN; 1: RoPE as the model has it", true);
  return line.parse(argc, argv, "bench kv-shift") ? kv_shift(a) : 0;
}

int run_rope_cache(int argc, char** argv) {
  Arguments a;
  a.common.type_k = "f16,q8_0,q4_0";
  a.depths = {128, 512, 2048, 8192};
  CommandLine line(
      "Generation behind cached tokens with relative and un-rotated keys, not moved and moved, as "
      "a part of the speed with rotated ones; of each type of --ctk, which takes several.");
  add_arguments(line, a);
  return line.parse(argc, argv, "bench rope-cache") ? rope_cache(a) : 0;
}

}  // namespace mica_llama::cli
