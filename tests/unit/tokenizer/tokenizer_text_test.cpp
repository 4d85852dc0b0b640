// What the tokenizers stand on: UTF-8, ChatML, special tokens inside text, pre-tokenizers.
#include <gtest/gtest.h>

#include "examples/llama/tokenizer/chat.h"
#include "examples/llama/tokenizer/pretokenizer.h"
#include "examples/llama/tokenizer/special_tokens.h"
#include "examples/llama/tokenizer/utf8.h"

namespace mica_llama {
namespace {

// ---- UTF-8 ----

TEST(Utf8, ClassifiesByTheStandardsTable) {
  const auto kind = [](std::string_view text) { return utf8_step(text).kind; };
  const auto n_bytes = [](std::string_view text) { return utf8_step(text).n_bytes; };
  for (const std::string_view whole : {"a", "\u00e9", "\u2581", "\U0001F642", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(kind(whole), Utf8Kind::kValid) << whole;
    EXPECT_EQ(n_bytes(whole), whole.size());
    for (size_t n = 1; n < whole.size(); ++n) {
      EXPECT_EQ(kind(whole.substr(0, n)), Utf8Kind::kIncomplete);
      EXPECT_EQ(n_bytes(whole.substr(0, n)), n);
    }
  }
  // Lone continuation, overlong, surrogate, above U+10FFFF, never used.
  for (const std::string_view bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                                     "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5", "\xFF"}) {
    EXPECT_EQ(kind(bad), Utf8Kind::kInvalid);
    EXPECT_EQ(n_bytes(bad), 1u);
  }
  EXPECT_EQ(kind("\xF0\x9F\x99"
                 "a"),
            Utf8Kind::kInvalid);
  EXPECT_EQ(n_bytes("\xF0\x9F\x99"
                    "a"),
            3u);
  EXPECT_EQ(utf8_run("a\u00e9\xFF\xFE"
                     "b",
                     true),
            3u);
  EXPECT_EQ(utf8_run("\xFF\xFE\xC3"
                     "b",
                     false),
            3u);
  EXPECT_EQ(utf8_encode(0x2581), "\u2581");
  EXPECT_EQ(utf8_encode(0x1F642), "\U0001F642");
}

TEST(Utf8, AnExcerptIsShortAndPrintable) {
  EXPECT_EQ(utf8_excerpt("a\u00e9 \n\xFF\x7F"
                         "b"),
            "a\u00e9 ???b");
  EXPECT_EQ(utf8_excerpt(""), "");
  for (size_t n = 0; n < 70; ++n) {
    const std::string text = std::string(n, 'x') + "\U0001F642\U0001F642\xF0\x9F";
    const std::string shown = utf8_excerpt(text);
    EXPECT_LE(shown.size(), 60u);
    EXPECT_EQ(utf8_run(shown, true), shown.size()) << n;
    EXPECT_EQ(shown.ends_with("..."), n > 48) << n;
  }
}

TEST(Utf8, StreamGivesTheSameTextHoweverItIsCut) {
  const std::string bytes =
      "a\u00e9\u65e5\U0001F642\xF0\x9F"
      "x\xFF\xED\xA0\x80 \xC3";
  const std::string whole = "a\u00e9\u65e5\U0001F642\uFFFDx\uFFFD\uFFFD\uFFFD\uFFFD \uFFFD";
  for (size_t first = 0; first <= bytes.size(); ++first) {
    for (size_t second = first; second <= bytes.size(); ++second) {
      Utf8Stream stream;
      std::string text;
      for (const auto& [from, to] : {std::pair{size_t{0}, first}, std::pair{first, second},
                                     std::pair{second, bytes.size()}}) {
        const std::string part = stream.push(std::string_view(bytes).substr(from, to - from));
        EXPECT_EQ(utf8_run(part, true), part.size());
        text += part;
      }
      EXPECT_EQ(text + stream.flush(), whole);
      EXPECT_EQ(stream.flush(), "");
    }
  }
}

TEST(Utf8, StreamHoldsBackOnlyAnUnfinishedCharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("x\xF0\x9F"), "x");
  EXPECT_EQ(stream.push("\x99"), "");
  EXPECT_EQ(stream.push("\x82!"), "\U0001F642!");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
}

// ---- ChatML ----

constexpr std::string_view kSmolTemplate =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}";

TEST(Chat, WrapsWithTheTemplatesOwnSystemMessage) {
  EXPECT_TRUE(is_chatml(kSmolTemplate));
  EXPECT_FALSE(is_chatml("{{ bos_token }}[INST] {{ message['content'] }} [/INST]"));
  EXPECT_FALSE(is_chatml(""));
  EXPECT_EQ(wrap_chatml(kSmolTemplate, "Hi\n<3", ""),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi\n<3<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(wrap_chatml(kSmolTemplate, "Hi", "Be brief."),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(Chat, FindsTheDefaultInTheFormsThatTemplatesHave) {
  // Qwen2.5: escapes in the literal, and first a turn whose text is an expression.
  EXPECT_EQ(chatml_default_system(
                R"({%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + )"
                R"(messages[0].content + '<|im_end|>\n' }}{%- else %}{{- '<|im_start|>system\n)"
                R"(You\'re Qwen.<|im_end|>\n' }}{%- endif %})"),
            "You're Qwen.");
  EXPECT_EQ(chatml_default_system("{% if x %}<|im_start|>system\nPlain.<|im_end|>\n{% endif %}"),
            "Plain.");
  EXPECT_EQ(chatml_default_system(R"({{ "<|im_start|>system\nIt's \"A\".<|im_end|>" }})"),
            "It's \"A\".");
  for (const std::string_view none :
       {"", "<|im_start|>system", "<|im_start|>system\n", "<|im_start|>system\n<|im_end|>",
        "{{'<|im_start|>' + role + '\n' + content + '<|im_end|>'}}",
        "{{'<|im_start|>system\n' + content + '<|im_end|>'}}",
        "<|im_start|>system\n{{ content }}<|im_end|>", "<|im_start|>systematic<|im_end|>"}) {
    EXPECT_EQ(chatml_default_system(none), "") << none;
  }
  EXPECT_EQ(wrap_chatml("<|im_start|>", "u", ""),
            "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
}

// ---- Special tokens ----

std::string show(const std::vector<Fragment>& fragments) {
  std::string text;
  for (const Fragment& fragment : fragments) {
    text += fragment.id >= 0 ? "<" + std::to_string(fragment.id) + ">"
                             : "[" + std::string(fragment.text) + "]";
  }
  return text;
}

TEST(SpecialTokens, TheLongestGoesFirstOverTheWholeText) {
  SpecialTokens specials;
  specials.add("ab", 1, true);
  specials.add("bcd", 2, true);
  specials.add("<|x|>", 3, false);
  specials.add("<|x|><|y|>", 4, false);
  specials.add("", 5, true);
  specials.add("ab", 6, true);
  specials.add("aa", 7, true);
  specials.finish();
  EXPECT_EQ(show(specials.partition("", true)), "");
  EXPECT_EQ(show(specials.partition("xyz", true)), "[xyz]");
  EXPECT_EQ(show(specials.partition("abcd", true)), "[a]<2>");
  EXPECT_EQ(show(specials.partition("abc", true)), "<1>[c]");
  EXPECT_EQ(show(specials.partition("aaab", true)), "<7><1>");
  EXPECT_EQ(show(specials.partition("aaaaa", true)), "<7><7>[a]");
  EXPECT_EQ(show(specials.partition("<|x|><|x|><|y|>!", true)), "<3><4>[!]");
  EXPECT_EQ(show(specials.partition("<|x|><|x|><|", true)), "<3><3>[<|]");
  EXPECT_EQ(show(specials.partition("<|x|>ab", false)), "[<|x|>]<1>");
}

TEST(SpecialTokens, AShorterTokenServesWhereTheLongerOverlapsWhatIsTaken) {
  SpecialTokens specials;
  specials.add("abc", 1, true);
  specials.add("bcdef", 2, true);
  specials.add("a", 3, true);
  specials.finish();
  EXPECT_EQ(show(specials.partition("abcdefabc", true)), "<3><2><1>");
}

TEST(SpecialTokens, ALongTextOfCandidatesTakesLinearTime) {
  SpecialTokens specials;
  const std::string text(1000003, ' ');
  for (int32_t n = 1; n <= 31; ++n)
    specials.add(std::string_view(text).substr(0, static_cast<size_t>(n)), n, true);
  specials.finish();
  const auto fragments = specials.partition(text, true);
  ASSERT_EQ(fragments.size(), 1000003u / 31 + 1);
  EXPECT_EQ(fragments.front().id, 31);
  EXPECT_EQ(fragments.back().id, 1000003 % 31);
}

TEST(SpecialTokens, AShorterOneIsFoundThroughThoseThatBeginWithIt) {
  const std::vector<std::string> texts = {"a", "ab", "abc", "abcx", "abz", "b", "abca"};
  SpecialTokens specials;
  for (size_t i = 0; i < texts.size(); ++i) specials.add(texts[i], static_cast<int32_t>(i), false);
  specials.add("ab", 9, true);
  specials.finish();
  EXPECT_EQ(show(specials.partition("abcd", true)), "<2>[d]");
  EXPECT_EQ(show(specials.partition("abw", true)), "<1>[w]");  // of equal texts, the lowest id
  EXPECT_EQ(show(specials.partition("abw", false)), "<9>[w]");
  EXPECT_EQ(show(specials.partition("azabcy", true)), "<0>[z]<2>[y]");
  EXPECT_EQ(show(specials.partition("abcabcx", true)), "<2><3>");
  EXPECT_EQ(show(specials.partition("abca", true)), "<6>");
  EXPECT_EQ(show(specials.partition("zz", true)), "[zz]");
}

TEST(Utf8, ControlCharactersAreNotPrinted) {
  const std::string text = "a\x1b[1m\x7f\u009b\u00a0\n\t\xff\u0085z";
  EXPECT_EQ(utf8_printable(text), "a?[1m??\u00a0\n\t??z");
  EXPECT_EQ(utf8_excerpt(text), "a?[1m??\u00a0????z");
}

// ---- Pre-tokenizers ----

std::string cut(std::string_view name, std::string_view text) {
  std::string error, shown;
  const auto pre = PreTokenizer::create(name, error);
  if (!pre) return error;
  std::vector<std::string_view> words;
  pre->split(text, words);
  for (const std::string_view word : words) shown.append(shown.empty() ? "" : "|").append(word);
  return shown;
}

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(cut("gpt-2", "Hello world's  12345 a'LL!?\n\nx "),
            "Hello| world|'s| | 12345| a|'|LL|!?|\n|\n|x| ");
  EXPECT_EQ(cut("gpt-2", "\u00fcber 42\u00bd caf\u00e9"), "\u00fcber| 42\u00bd| caf\u00e9");
  EXPECT_EQ(cut("gpt-2", "   "), "   ");
  EXPECT_EQ(cut("gpt-2", ""), "");
}

TEST(PreTokenizer, SmollmTakesDigitsOneByOne) {
  EXPECT_EQ(cut("smollm", "in 2026, x1\u00bd"), "in| |2|0|2|6|,| x|1|\u00bd");
}

TEST(PreTokenizer, Llama3) {
  EXPECT_EQ(cut("llama-bpe", "I'LL pay $12345!\n\n  (you)\t\tx"),
            "I|'LL| pay| $|123|45|!\n\n| | (|you|)|\t|\tx");
  EXPECT_EQ(cut("llama3", "a \n \n  b"), "a| \n \n| | b");
  // Not folded to s: U+017F LATIN SMALL LETTER LONG S.
  EXPECT_EQ(cut("llama-v3", "it'\u017f"), "it|'\u017f");
}

TEST(PreTokenizer, Qwen2) { EXPECT_EQ(cut("qwen2", "I'm 123.\n_x"), "I|'m| |1|2|3|.\n|_x"); }

TEST(PreTokenizer, Default) {
  EXPECT_EQ(cut("", "a+b, 12345"), "a|+|b|,| |123|45");
  EXPECT_EQ(cut("default", "a+b, 12345"), cut("", "a+b, 12345"));
}

TEST(PreTokenizer, SpaceIsUnicodesWhiteSpace) {
  EXPECT_EQ(cut("gpt-2", "a\u3000\u3000b"), "a|\u3000|\u3000|b");
  EXPECT_EQ(cut("gpt-2", "a\u180e!b"), "a|\u180e!|b");  // a format character since Unicode 6.3
}

}  // namespace
}  // namespace mica_llama
