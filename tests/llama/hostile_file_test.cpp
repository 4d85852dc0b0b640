// Model files that are made to hurt: time and memory stay within what the file's size allows, what
// contradicts itself is refused with a sentence, and a file that changes is an error.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <thread>

#include "gguf_writer.h"
#include "model_file_builder.h"
#include "support.h"

namespace mica_llama_test {
namespace {

using gguf_test::array_key;
using gguf_test::key;
using gguf_test::MemFile;
using gguf_test::string_key;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

// Opens the file; OK or the error's text.
std::string open_text(const std::string& path) {
  mica_llama_model* model = nullptr;
  const mica_status status = mica_llama_model_open(path.c_str(), nullptr, &model);
  const std::string text =
      status == MICA_OK ? "" : std::string(mica_status_name(status)) + ": " + mica_llama_error();
  mica_llama_model_release(model);
  return text;
}

std::string error_of(const ModelFile& file) {
  const MemFile mem(file.bytes());
  return open_text(mem.path());
}

struct Cost {
  double seconds = 0;  // of processors
  double mib = 0;      // the peak, above what the process took before
  bool is_right = false;
};

double peak_mib(const char* what) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;)
    if (word == what) {
      double kib = 0;
      file >> kib;
      return kib / 1024;
    }
  return 0;
}

// What `body` costs, in a process of its own.
template <class Body>
Cost cost_of(const Body& body) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
    const double before = peak_mib("VmRSS:");
    const std::clock_t start = std::clock();
    Cost cost;
    cost.is_right = body();
    cost.seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    cost.mib = peak_mib("VmHWM:") - before;
    _exit(write(ends[1], &cost, sizeof cost) == sizeof cost ? 0 : 1);
  }
  Cost cost;
  EXPECT_EQ(read(ends[0], &cost, sizeof cost), static_cast<ssize_t>(sizeof cost));
  close(ends[0]);
  close(ends[1]);
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  return cost;
}

// A second a 10 MB, twice the file and 50 MB.
void expect_within(const Cost& cost, size_t file_bytes) {
  EXPECT_TRUE(cost.is_right);
  const double file_mib = static_cast<double>(file_bytes) / (1 << 20);
  EXPECT_LE(cost.seconds, std::max(1.0, file_mib / 10) * (kIsSanitized ? 20 : 1));
  if (!kIsSanitized) {
    EXPECT_LE(cost.mib, 2 * file_mib + 50);
  }
}

// Opens the file and asks for a text of a chat; `wanted` must be in the error ("": it opens).
void expect_open(const ModelFile& file, const std::string& wanted) {
  size_t n_bytes = 0;
  const MemFile mem = [&] {
    const std::string bytes = file.bytes();
    n_bytes = bytes.size();
    return MemFile(bytes);
  }();
  const Cost cost = cost_of([&] {
    const std::string text = open_text(mem.path());
    const bool is_right = wanted.empty() ? text.empty() : text.find(wanted) != text.npos;
    if (!is_right) std::fprintf(stderr, "'%s' instead of '%s'\n", text.c_str(), wanted.c_str());
    return is_right;
  });
  expect_within(cost, n_bytes);
}

TEST(HostileFile, AChatTemplateOfManyUnfinishedTurns) {
  for (const std::string end : {"", "<|im_end|>"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += "<|im_start|>system ";
    ModelFile file;
    file.more_keys = {string_key("tokenizer.chat_template", text + end)};
    const std::string bytes = file.bytes();
    const MemFile mem(bytes);
    const Cost cost = cost_of([&] {
      const Model model = open_model(mem.path(), "cpu", false);
      size_t n = 0;
      return mica_llama_chat(model.get(), "hello", 5, nullptr, 0, nullptr, 0, &n) == MICA_OK &&
             n > 5;
    });
    expect_within(cost, bytes.size());
  }
}

TEST(HostileFile, ASpecialTokenOf8Megabytes) {
  ModelFile file;
  file.tokens = {"<unk>", "<s>", std::string(8u << 20, '<')};
  expect_open(file, "token 2 '<<<<");
  file.tokens = {"<unk>", "<s>", std::string(4096, '<')};
  expect_open(file, "");
}

TEST(HostileFile, ManyLongSpecialTokens) {
  ModelFile file;
  file.n_vocab = 2000;
  std::vector<int32_t> types(file.n_vocab, 3);
  for (uint64_t i = 0; i < file.n_vocab; ++i)
    file.tokens.push_back(std::to_string(i) + std::string(4000, '<'));
  file.types = array_key("tokenizer.ggml.token_type", MICA_GGUF_I32, types.size(),
                         gguf_test::numbers(types));
  file.more_keys = {key<uint32_t>("tokenizer.ggml.unknown_token_id", MICA_GGUF_U32, 0)};
  expect_open(file, "");
}

TEST(HostileFile, ManyTokens) {
  ModelFile file;
  file.n_embd = file.n_ff = 16;
  file.n_vocab = 150000;
  std::vector<int32_t> types(file.n_vocab, 3);
  types[0] = 2;
  file.types = array_key("tokenizer.ggml.token_type", MICA_GGUF_I32, types.size(),
                         gguf_test::numbers(types));
  expect_open(file, "");
}

TEST(HostileFile, ArraysOfTheWrongSizeAreNotExpanded) {
  const std::string many(10u << 20, '\1');
  ModelFile file;
  file.types = array_key("tokenizer.ggml.token_type", MICA_GGUF_U8, many.size(), many);
  expect_open(file, "tokenizer.ggml.token_type has 10485760 entries for 8 tokens");
  file.types.clear();
  file.more_keys = {array_key("tokenizer.ggml.scores", MICA_GGUF_U8, many.size(), many)};
  expect_open(file, "tokenizer.ggml.scores has 10485760 entries for 8 tokens");
  file.more_keys.clear();
  file.tokens.assign(1000000, "");
  file.tokens[0] = "<unk>";
  expect_open(file, "the tokenizer has 1000000 tokens, the embedding has 8");
}

TEST(HostileFile, MergesOfTextsThatAreNoTokens) {
  std::string merges;
  uint64_t n = 0;
  for (; merges.size() < (10u << 20); ++n) {
    const std::string text = std::to_string(n);
    merges += gguf_test::Bytes().text(text + " " + text).data;
  }
  ModelFile file;
  file.tokenizer = "gpt2";
  file.more_keys = {array_key("tokenizer.ggml.merges", MICA_GGUF_STRING, n, merges)};
  expect_open(file, "");
}

TEST(HostileFile, KeysOfEveryTypeAreCopiedByteForByteAndHeldOnce) {
  gguf_test::File file = gguf_test::sample();
  file.tensors.clear();
  file.data.clear();
  const std::string many(10u << 20, '\1');
  file.keys.push_back(array_key("many", MICA_GGUF_U8, many.size(), many));
  const MemFile mem(file.bytes());
  const std::string path = testing::TempDir() + "copied." + std::to_string(getpid()) + ".gguf";
  const Cost cost = cost_of([&] {
    mica_context* context = nullptr;
    mica_gguf* gguf = nullptr;
    if (mica_context_create(nullptr, &context) != MICA_OK ||
        mica_gguf_open(context, mem.path().c_str(), MICA_GGUF_READ, &gguf) != MICA_OK)
      return false;
    mica_llama::GgufWriter out(path);
    out.reserve_keys(11u << 20);
    const mica_llama::Metadata metadata(gguf, context);
    for (uint64_t i = 0; i < mica_gguf_n_keys(gguf); ++i) out.copy_key(metadata, i);
    out.begin();
    out.finish();
    mica_gguf_release(gguf);
    mica_context_release(context);
    return true;
  });
  expect_within(cost, many.size());
  std::ifstream copied(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(copied)),
                          std::istreambuf_iterator<char>());
  EXPECT_EQ(std::remove(path.c_str()), 0);
  const std::string whole = file.bytes();
  EXPECT_TRUE(bytes.substr(0, whole.size()) == whole);
  EXPECT_LT(bytes.size(), whole.size() + 32);
}

TEST(HostileFile, TwoMillionKeys) {
  std::vector<std::string> keys;
  for (int i = 0; i < 2000000; ++i)
    keys.push_back(key<uint8_t>(std::to_string(i), MICA_GGUF_U8, 1));
  ModelFile file;
  file.more_keys = std::move(keys);
  expect_open(file, "keys");
}

TEST(HostileFile, WhatContradictsItselfIsRefused) {
  ModelFile file;
  EXPECT_EQ(error_of(file), "");
  file.embedding_type = MICA_I32;
  EXPECT_EQ(
      error_of(file),
      "BAD_FILE: the tensor token_embd.weight holds integers of type i32, weights are numbers "
      "with a fraction");
  file.embedding_type = MICA_F32;
  file.more_keys = {key<uint32_t>("llama.vocab_size", MICA_GGUF_U32, 9)};
  EXPECT_EQ(error_of(file), "BAD_FILE: the key llama.vocab_size is 9, the embedding has 8 rows");
  file.more_keys = {key<uint32_t>("llama.vocab_size", MICA_GGUF_U32, 8)};
  EXPECT_EQ(error_of(file), "");
  file.rotated = 0;
  EXPECT_EQ(error_of(file), "BAD_FILE: the number of rotated dimensions is 0, it must be 2 to 16");
}

TEST(HostileFile, ControlCharactersDoNotReachAnErrorText) {
  ModelFile file;
  file.more_keys = {string_key("tokenizer.ggml.pre", "x")};
  file.tokens = {"<unk>", "<s>",
                 std::string("\xc2\x9b"
                             "31m\x7f\x9b") +
                     std::string(5000, 'x')};
  const std::string text = error_of(file);
  EXPECT_NE(text.find("'?31m??xxx"), text.npos) << text;
}

TEST(HostileFile, AFileThatShrinksBeforeItIsLoadedIsAnError) {
  const std::string bytes = ModelFile().bytes();
  MemFile mem(bytes);
  const Model model = open_model(mem.path(), "cpu", false);
  ASSERT_NE(model, nullptr);
  ASSERT_EQ(ftruncate(mem.fd(), 4096), 0);
  EXPECT_EQ(mica_llama_model_load(model.get()), MICA_IO);
  EXPECT_NE(std::string(mica_llama_error()).find("became shorter"), std::string::npos);
}

TEST(HostileFile, MappedItLoadsTheSameModel) {
  const MemFile mem(ModelFile().bytes());
  mica_llama_model_params params = MICA_LLAMA_MODEL_PARAMS_INIT;
  std::vector<std::vector<float>> rows;
  for (const int32_t map_file : {0, 1}) {
    params.map_file = map_file;
    const Model model = open_model(mem.path(), "cpu", true, params);
    const Session session = open_session(model.get(), session_params(MICA_F32));
    ASSERT_MICA_OK(decode(session.get(), {1, 4, 5}));
    rows.push_back(logits_row(session.get(), 0, 8));
  }
  EXPECT_EQ(rows[0], rows[1]);
}

TEST(DamagedModel, LogitsThatAreNoNumbersAreAnError) {
  ModelFile file;
  file.output_norm = NAN;
  const MemFile mem(file.bytes());
  const Model model = open_model(mem.path(), "cpu");
  const Session session = open_session(model.get(), session_params(MICA_F32));
  for (const float temperature : {0.0f, 0.8f}) {
    ASSERT_MICA_OK(decode(session.get(), {1, 4, 5}));
    mica_llama_sampler sampler = MICA_LLAMA_SAMPLER_INIT;
    sampler.temperature = temperature;
    int32_t token = -1;
    EXPECT_EQ(mica_llama_sample(session.get(), 0, &sampler, &token), MICA_BAD_FILE);
    EXPECT_NE(std::string(mica_llama_error()).find("are no numbers"), std::string::npos);
  }
}

// Cancelled half-way, a sequence with a window cannot go back to where it ended: it is emptied, and
// the text says so. Without one it ends where it did.
TEST(Window, ACancelledDecodeKeepsNoPartOfTheBatch) {
  for (const uint32_t window : {0u, 16u}) {
    ModelFile file;
    file.window = window;
    const MemFile mem(file.bytes());
    const Model model = open_model(mem.path(), "cpu");
    volatile int32_t cancel = 0;
    mica_llama_session_params params = session_params(MICA_F32);
    params.n_ctx = 4096;
    params.n_batch = 1;
    params.n_seqs = 2;
    params.n_outputs = 1;
    params.cancel = &cancel;
    const Session session = open_session(model.get(), params);
    const std::vector<int32_t> first(40, 4), second(3000, 5);
    bool was_cancelled = false, was_emptied = false;
    for (int ms = 1; ms <= 60 && !(window != 0 ? was_emptied : was_cancelled); ++ms) {
      ASSERT_MICA_OK(mica_llama_seq_rm(session.get(), 1, 0, -1));
      ASSERT_MICA_OK(decode(session.get(), first, false, 1));
      std::thread canceller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        cancel = 1;
      });
      const mica_status status = decode(session.get(), second, false, 1);
      const std::string text = mica_llama_error();
      canceller.join();
      cancel = 0;
      if (status == MICA_OK) continue;
      ASSERT_EQ(status, MICA_CANCELLED) << text;
      was_cancelled = true;
      was_emptied = text.find("emptied: sequence 1") != text.npos;
      EXPECT_EQ(mica_llama_seq_next(session.get(), 1), was_emptied ? 0 : 40) << text;
      EXPECT_MICA_OK(decode(session.get(), {6}, false, 1));
    }
    EXPECT_TRUE(was_cancelled);
    EXPECT_EQ(was_emptied, window != 0);
  }
}

}  // namespace
}  // namespace mica_llama_test
