// The pre-tokenizers' regular expressions, run by PCRE2.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenizer.h"

#include <pcre2.h>

#include <algorithm>
#include <iterator>
#include <new>

#include "utf8.h"

// Unicode's White_Space, written out because PCRE2's \s also takes U+180E, which the models' own
// tokenizers do not. To be put between [ and ].
#define MICA_SPACE \
  "\\t-\\r "       \
  "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
// Spaces up to the last one before a word, which the word takes; or all that are left.
#define MICA_SPACES "[" MICA_SPACE "]+(?![^" MICA_SPACE "])|[" MICA_SPACE "]+"

namespace mica_llama {
namespace {

// A pre-tokenizer is a chain: each expression cuts the words that the one before it left. The
// expressions are those of the models' tokenizer.json.
struct Chain {
  const char* expressions[4];  // ends with nullptr, or full
};

// openai-community/gpt2: the pattern of its encoder.
#define MICA_GPT2 \
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" MICA_SPACE "\\p{L}\\p{N}]+|" MICA_SPACES

// meta-llama/Meta-Llama-3-8B; Qwen/Qwen2 differs only in how many digits make a word. Both say
// (?i:…) for the contractions, which takes U+017F for an s; here as in llama.cpp it does not.
#define MICA_LLAMA3(digits)                                                                     \
  "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
  "| ?[^" MICA_SPACE "\\p{L}\\p{N}]+[\\r\\n]*|[" MICA_SPACE "]*[\\r\\n]+|" MICA_SPACES

constexpr Chain kGpt2 = {{MICA_GPT2}};
constexpr Chain kDigitsThenGpt2 = {{"\\p{N}", MICA_GPT2}};
constexpr Chain kLlama3 = {{MICA_LLAMA3("\\p{N}{1,3}")}};
constexpr Chain kQwen2 = {{MICA_LLAMA3("\\p{N}")}};
constexpr Chain kDefault = {{"[\\p{P}$+<=>^~|]+", MICA_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}};

struct Family {
  std::string_view name;
  const Chain* chain;
  bool ignores_merges, adds_bos;
};

constexpr Family kFamilies[] = {
    {"default", &kDefault, false, false},
    {"gpt-2", &kGpt2, false, false},
    {"phi-2", &kGpt2, false, false},
    {"mpt", &kGpt2, false, false},
    {"olmo", &kGpt2, false, false},
    {"jais", &kGpt2, false, false},
    {"gigachat", &kGpt2, false, false},
    {"trillion", &kGpt2, false, false},
    {"exaone4", &kGpt2, false, false},
    {"granite-docling", &kGpt2, false, false},
    {"smollm", &kDigitsThenGpt2, false, false},
    {"starcoder", &kDigitsThenGpt2, false, false},
    {"refact", &kDigitsThenGpt2, false, false},
    {"command-r", &kDigitsThenGpt2, false, false},
    {"codeshell", &kDigitsThenGpt2, false, false},
    {"exaone", &kDigitsThenGpt2, false, false},
    {"minerva-7b", &kDigitsThenGpt2, false, false},
    {"llama-bpe", &kLlama3, true, true},
    {"llama3", &kLlama3, true, true},
    {"llama-v3", &kLlama3, true, true},
    {"falcon3", &kLlama3, true, true},
    {"falcon-h1", &kLlama3, true, true},
    {"pixtral", &kLlama3, true, true},
    {"midm-2.0", &kLlama3, true, true},
    {"lfm2", &kLlama3, true, true},
    {"dbrx", &kLlama3, false, false},
    {"smaug-bpe", &kLlama3, false, false},
    {"qwen2", &kQwen2, false, false},
    {"deepseek-r1-qwen", &kQwen2, false, false},
    {"megrez", &kQwen2, false, false},
    {"stablelm2", &kQwen2, false, false},
    {"hunyuan", &kQwen2, false, false},
    {"solar-open", &kQwen2, false, false},
};

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, FreeCode>;

Code compile(const char* expression, std::string& error) {
  int number = 0;
  PCRE2_SIZE at = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP, &number, &at, nullptr));
  if (!code) {
    if (number == PCRE2_ERROR_HEAP_FAILED) throw std::bad_alloc();
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(number, text, sizeof text);
    error = "PCRE2 does not take a pre-tokenizer's expression: ";
    error.append(reinterpret_cast<const char*>(text));
    return nullptr;
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without JIT it is only slower
  return code;
}

}  // namespace

struct PreTokenizer::Impl {
  const Family* family = nullptr;
  std::vector<Code> codes;
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context;  // read only once created

  // The next match at or after `from`: false when there is none.
  bool next_match(const pcre2_code* code, std::string_view text, size_t from,
                  pcre2_match_data* data, size_t& begin, size_t& end) const {
    const auto match = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data, context.get());
    };
    int rc = match(0);
    // JIT code has a small stack of its own; the interpreter grows its own on the heap.
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) rc = match(PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT) throw std::bad_alloc();
    if (rc < 0) return false;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    begin = range[0];
    end = range[1];
    return end > begin;  // no expression above matches nothing
  }

  void cut(const pcre2_code* code, pcre2_match_data* data, std::string_view word,
           std::vector<std::string_view>& words) const {
    size_t done = 0, begin = 0, end = 0;
    while (done < word.size() && next_match(code, word, done, data, begin, end)) {
      if (begin > done) words.push_back(word.substr(done, begin - done));
      words.push_back(word.substr(begin, end - begin));
      done = end;
    }
    if (done < word.size()) words.push_back(word.substr(done));
  }
};

PreTokenizer::PreTokenizer() : impl_(std::make_unique<Impl>()) {}
PreTokenizer::~PreTokenizer() = default;

std::unique_ptr<PreTokenizer> PreTokenizer::create(std::string_view name, std::string& error) {
  if (name.empty()) name = "default";
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& row) { return row.name == name; });
  if (family == std::end(kFamilies)) {
    error = "unknown pre-tokenizer '" + utf8_excerpt(name) + "' (tokenizer.ggml.pre)";
    return nullptr;
  }
  std::unique_ptr<PreTokenizer> made(new PreTokenizer());
  Impl& impl = *made->impl_;
  impl.family = family;
  for (const char* expression : family->chain->expressions) {
    if (!expression) break;
    impl.codes.push_back(compile(expression, error));
    if (!impl.codes.back()) return nullptr;
  }
  impl.context.reset(pcre2_match_context_create(nullptr));
  if (!impl.context) throw std::bad_alloc();
  // The limit guards against expressions that backtrack without end; these take a bounded number
  // of steps a byte, and a long text needs more than the default in all.
  pcre2_set_match_limit(impl.context.get(), UINT32_MAX);
  return made;
}

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& words) const {
  if (text.empty()) return;
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(pcre2_match_data_create(1, nullptr));
  if (!data) throw std::bad_alloc();
  std::vector<std::string_view> now{text}, next;
  for (const Code& code : impl_->codes) {
    next.clear();
    for (const std::string_view word : now) impl_->cut(code.get(), data.get(), word, next);
    now.swap(next);
  }
  words.insert(words.end(), now.begin(), now.end());
}

bool PreTokenizer::ignores_merges() const { return impl_->family->ignores_merges; }
bool PreTokenizer::adds_bos() const { return impl_->family->adds_bos; }

}  // namespace mica_llama
