// The tokenizers: byte-level and SentencePiece-style BPE over small vocabularies, bad vocabularies.
#include "examples/llama/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <thread>

#include "examples/llama/tokenizer/utf8.h"

namespace mica_llama {
namespace {

using Ids = std::vector<int32_t>;

// ---- Vocabularies made here ----

// The alphabet's character of each byte, from the description in OpenAI's GPT-2 code.
std::string byte_character(int byte) {
  std::vector<int> order;
  for (int b = 0; b < 256; ++b) {
    if ((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE) order.push_back(b);
  }
  if (std::find(order.begin(), order.end(), byte) != order.end()) {
    return utf8_encode(static_cast<char32_t>(byte));
  }
  int n_before = 0;
  for (int b = 0; b < byte; ++b)
    n_before += std::find(order.begin(), order.end(), b) == order.end();
  return utf8_encode(static_cast<char32_t>(256 + n_before));
}

// All bytes (ids are the bytes), the results of `merges` in order, then control tokens.
Vocab bpe_vocab(const std::vector<std::string>& merges,
                const std::vector<std::string>& control = {}) {
  Vocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) vocab.tokens.push_back(byte_character(byte));
  for (const std::string& merge : merges) {
    std::string both = merge;
    both.erase(both.find(' '), 1);
    vocab.tokens.push_back(both);
  }
  vocab.types.assign(vocab.tokens.size(), 1);
  for (const std::string& text : control) {
    vocab.tokens.push_back(text);
    vocab.types.push_back(3);
  }
  vocab.merges = merges;
  return vocab;
}

// <unk>, <s>, </s>, 256 byte tokens (ids 3 to 258), then `pieces`, the first with the best score.
Vocab spm_vocab(const std::vector<std::string>& pieces) {
  Vocab vocab;
  vocab.model = "llama";
  vocab.tokens = {"<unk>", "<s>", "</s>"};
  vocab.types = {2, 3, 3};
  const std::string_view hex = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte) {
    vocab.tokens.push_back(std::string("<0x") + hex[byte / 16] + hex[byte % 16] + '>');
    vocab.types.push_back(6);
  }
  vocab.scores.assign(vocab.tokens.size(), 0.0f);
  for (size_t i = 0; i < pieces.size(); ++i) {
    vocab.tokens.push_back(pieces[i]);
    vocab.types.push_back(1);
    vocab.scores.push_back(-static_cast<float>(i));
  }
  return vocab;
}

std::unique_ptr<Tokenizer> make(Vocab vocab) {
  std::string error;
  auto tokenizer = Tokenizer::create(std::move(vocab), error);
  EXPECT_EQ(error, "");
  return tokenizer;
}

std::string error_of(Vocab vocab) {
  std::string error = "left from before";
  const auto tokenizer = Tokenizer::create(std::move(vocab), error);
  EXPECT_EQ(tokenizer, nullptr);
  return error;
}

// ---- Byte-level BPE ----

TEST(Bpe, MergesByRankThenLeftmost) {
  const auto tokenizer = make(bpe_vocab({"b c", "a b", "bc d", "a a", "aa a"}));
  EXPECT_EQ(tokenizer->encode("abcd", true, true), (Ids{'a', 258}));
  EXPECT_EQ(tokenizer->encode("abd", true, true), (Ids{257, 'd'}));
  EXPECT_EQ(tokenizer->encode("aaaa", true, true), (Ids{259, 259}));
  EXPECT_EQ(tokenizer->encode("aaa", true, true), (Ids{260}));
  EXPECT_EQ(tokenizer->encode("a b", true, true), (Ids{'a', ' ', 'b'}));
  EXPECT_EQ(tokenizer->encode("", true, true), Ids{});
}

TEST(Bpe, ARepeatedMergeKeepsItsFirstRank) {
  Vocab vocab = bpe_vocab({"a b", "b c"});
  vocab.merges.push_back("a b");
  EXPECT_EQ(make(vocab)->encode("abc", true, true), (Ids{256, 'c'}));
}

TEST(Bpe, AgreesWithTheObviousAlgorithm) {
  const std::vector<std::string> merges = {"a b", "b a",  "c c",  "ab a", "a c",
                                           "b b", "cc c", "ba b", "a a",  "aba ba"};
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ');
    ranks[{merges[i].substr(0, space), merges[i].substr(space + 1)}] = i;
  }
  const auto tokenizer = make(bpe_vocab(merges));
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) text += static_cast<char>('a' + random() % 3);
    std::vector<std::string> parts;
    for (const char c : text) parts.push_back(std::string(1, c));
    while (true) {
      size_t best = merges.size(), at = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto rank = ranks.find({parts[i], parts[i + 1]});
        if (rank != ranks.end() && rank->second < best) best = rank->second, at = i;
      }
      if (best == merges.size()) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    Ids expected;
    for (const std::string& part : parts) expected.push_back(tokenizer->find(part));
    EXPECT_EQ(tokenizer->encode(text, false, false), expected) << text;
  }
}

TEST(Bpe, EveryByteGoesInAndComesOut) {
  const auto tokenizer = make(bpe_vocab({"\u00c3 \u00a9"}));  // é
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (size_t n = random() % 60; n > 0; --n) {
      text += random() % 3 ? static_cast<char>(random()) : "\xC3\xA9 1a"[random() % 5];
    }
    const Ids ids = tokenizer->encode(text, true, true);
    EXPECT_EQ(tokenizer->decode(ids, false), text);
    std::string pieces;
    for (const int32_t id : ids) pieces += tokenizer->piece(id, false);
    EXPECT_EQ(pieces, text);
  }
  EXPECT_EQ(tokenizer->encode("\u00e9\xC3", true, true), (Ids{256, 0xC3}));
}

TEST(Bpe, InvalidBytesDoNotDisturbTheWordsAround) {
  const auto tokenizer = make(bpe_vocab({"\u0120 a", "a b"}));  // U+0120 is the space
  EXPECT_EQ(tokenizer->encode("ab a\xFF\xFE ab", true, true),
            (Ids{257, 256, 0xFF, 0xFE, 256, 'b'}));
}

TEST(Bpe, AMergeBeyondTheVocabularyFallsBackToBytes) {
  Vocab vocab = bpe_vocab({"a b", "ab c"});
  vocab.tokens.replace(256, "something else");  // ab is no token; abc still is
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->encode("abc", true, true), (Ids{257}));
  EXPECT_EQ(tokenizer->encode("abd", true, true), (Ids{'a', 'b', 'd'}));
}

TEST(Bpe, AByteWithoutTokenIsLeftOut) {
  Vocab vocab = bpe_vocab({});
  vocab.tokens.replace('b', "");
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->encode("abc", true, true), (Ids{'a', 'c'}));
  EXPECT_EQ(tokenizer->find(""), -1);
}

TEST(Bpe, OnlyLlama3TakesWholeWordsWithoutMerges) {
  Vocab vocab = bpe_vocab({}, {"<|begin|>"});
  vocab.tokens.push_back("\u0120quux");
  vocab.types.push_back(1);
  vocab.bos = 256;
  EXPECT_EQ(make(vocab)->encode(" quux", true, true).size(), 5u);
  vocab.pre = "llama-bpe";
  EXPECT_EQ(make(vocab)->encode(" quux", true, true), (Ids{256, 257}));
  EXPECT_EQ(make(vocab)->encode(" quux", false, true), (Ids{257}));
  EXPECT_TRUE(make(vocab)->adds_bos());
  vocab.add_bos = false;
  EXPECT_EQ(make(vocab)->encode(" quux", true, true), (Ids{257}));
}

TEST(Bpe, SpecialTokensInsideText) {
  Vocab vocab = bpe_vocab({"i m"}, {"<|im_start|>", "<|im_end|>"});
  vocab.tokens.push_back("<tool>");
  vocab.types.push_back(4);
  vocab.bos = 257;
  vocab.eos = 258;
  vocab.add_bos = vocab.add_eos = true;
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->encode("im<|im_end|>im", true, true), (Ids{257, 256, 258, 256, 258}));
  EXPECT_EQ(tokenizer->encode("<|im_end|>", false, false),
            (Ids{'<', '|', 256, '_', 'e', 'n', 'd', '|', '>'}));
  EXPECT_EQ(tokenizer->encode("<tool>", false, false), (Ids{259}));
  EXPECT_EQ(tokenizer->decode(Ids{257, 256, 259, 258}, false), "im<tool>");
  EXPECT_EQ(tokenizer->decode(Ids{257, 256, 259, 258}, true), "<|im_start|>im<tool><|im_end|>");
}

TEST(Bpe, LongWordsDoNotHang) {
  const auto tokenizer = make(bpe_vocab({"a a", "aa aa", "aaaa aaaa", "b a", "ab a"}));
  EXPECT_EQ(tokenizer->encode(std::string(400000, 'a'), true, true).size(), 50000u);
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "ab";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true, true), true), text);
  EXPECT_EQ(tokenizer->encode(std::string(400000, ' ') + "x", true, true).size(), 400001u);
}

// ---- SentencePiece-style BPE ----

TEST(Spm, MergesByScoreThenLeftmost) {
  Vocab vocab = spm_vocab({"bc", "ab", "bcd", "\u2581", "a", "b", "c", "d", "aa"});
  vocab.add_bos = vocab.add_space_prefix = false;
  const auto tokenizer = make(vocab);
  const auto id = [&](const char* text) { return tokenizer->find(text); };
  EXPECT_EQ(tokenizer->encode("abcd", true, true), (Ids{id("a"), id("bcd")}));
  EXPECT_EQ(tokenizer->encode("abd", true, true), (Ids{id("ab"), id("d")}));
  EXPECT_EQ(tokenizer->encode("aaa", true, true), (Ids{id("aa"), id("a")}));
}

TEST(Spm, PutsASpaceInFrontAndAfterSpecialTokens) {
  const auto tokenizer =
      make(spm_vocab({"\u2581"
                      "a",
                      "\u2581", "a", "b"}));
  const int32_t space_a = 259, space = 260, a = 261, b = 262;
  EXPECT_EQ(tokenizer->encode("", true, true), (Ids{1}));
  EXPECT_EQ(tokenizer->encode("", false, true), Ids{});
  EXPECT_EQ(tokenizer->encode("ab", true, true), (Ids{1, space_a, b}));
  EXPECT_EQ(tokenizer->encode(" ab", true, true), (Ids{1, space, space_a, b}));
  EXPECT_EQ(tokenizer->encode("b</s>a</s>", false, true), (Ids{space, b, 2, space_a, 2}));
  EXPECT_EQ(tokenizer->encode("<s></s> a", false, true), (Ids{1, 2, space, space_a}));
  EXPECT_EQ(tokenizer->encode("a a", false, true), (Ids{space_a, space_a}));
  EXPECT_EQ(tokenizer->encode("\u2581"
                              "a",
                              false, true),
            (Ids{space, space_a}));
  EXPECT_EQ(tokenizer->decode(Ids{1, space_a, space_a, a}, false), "a aa");
  EXPECT_EQ(tokenizer->decode(Ids{1, space_a, 2, b}, true), "<s>a</s>b");
  EXPECT_EQ(tokenizer->piece(space_a, false), " a");
}

TEST(Spm, UnknownCharactersBecomeBytes) {
  const auto tokenizer = make(spm_vocab({"\u2581", "a"}));
  EXPECT_EQ(tokenizer->encode("a\u00e9\n", false, true),
            (Ids{259, 260, 3 + 0xC3, 3 + 0xA9, 3 + 10}));
  EXPECT_EQ(tokenizer->encode("\xFF\xC3"
                              "a",
                              false, true),
            (Ids{259, 3 + 0xFF, 3 + 0xC3, 260}));
  EXPECT_EQ(tokenizer->piece(3 + 0xC3, false), "\xC3");
  std::mt19937 random(9);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (size_t n = random() % 50; n > 0; --n) text += static_cast<char>(random());
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true, false), false), text);
  }
}

TEST(Spm, WithoutByteTokensTheUnknownTokenServes) {
  Vocab vocab;
  vocab.model = "llama";
  vocab.tokens = {"<unk>", "a", "<0x0A>"};
  vocab.types = {2, 1, 6};
  vocab.add_space_prefix = false;
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->encode("a\u00e9\n\u00e9\u00e9", true, true), (Ids{1, 0, 2, 0, 0}));
  EXPECT_EQ(tokenizer->bos(), -1);
  EXPECT_FALSE(tokenizer->adds_bos());
}

TEST(Spm, LongTextsDoNotHang) {
  const auto tokenizer = make(spm_vocab({"aa", "aaaa", "\u2581", "a"}));
  EXPECT_EQ(tokenizer->encode(std::string(400000, 'a'), false, true).size(), 100001u);
}

// ---- What holds for both ----

TEST(Tokenizer, EndsAtWhatTheFileAndTheTextsSay) {
  Vocab vocab = bpe_vocab({"x y"}, {"<|a|>", "<|eos|>", "<|eot_id|>", "<|eot|>"});
  vocab.eos = 258;
  vocab.eot = 260;
  vocab.tokens.push_back("<|im_end|>");  // a converter left it normal
  vocab.types.push_back(1);
  const auto tokenizer = make(vocab);
  for (int32_t id = -2; id < tokenizer->n_vocab() + 2; ++id) {
    EXPECT_EQ(tokenizer->is_end(id), id >= 258 && id <= 261) << id;
  }
  EXPECT_EQ(tokenizer->encode("<|im_end|>", false, true), (Ids{261}));
  EXPECT_EQ(tokenizer->piece(261, false), "");
  EXPECT_EQ(tokenizer->eos(), 258);
}

TEST(Tokenizer, PiecesByType) {
  Vocab vocab =
      spm_vocab({"\u2581"
                 "a"});
  for (const int32_t type : {0, 4, 5, 99}) {
    vocab.tokens.push_back("\u2581" + std::to_string(type));
    vocab.types.push_back(type);
    vocab.scores.push_back(-9.0f);
  }
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->piece(0, false), "");
  EXPECT_EQ(tokenizer->piece(0, true), "<unk>");
  EXPECT_EQ(tokenizer->piece(1, true), "<s>");
  EXPECT_EQ(tokenizer->piece(260, false), " 0");
  EXPECT_EQ(tokenizer->piece(261, false),
            "\u2581"
            "4");
  EXPECT_EQ(tokenizer->piece(262, true), "");
  EXPECT_EQ(tokenizer->piece(263, false), " 99");
  for (const int32_t id : {-1, 264, INT32_MAX, INT32_MIN})
    EXPECT_EQ(tokenizer->piece(id, true), "");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 259, 1000}, false), "a");
}

TEST(Tokenizer, OfEqualTextsTheFirstIsFound) {
  Vocab vocab = bpe_vocab({"a b"}, {"<|x|>", "<|x|>"});
  vocab.tokens.push_back("ab");
  vocab.types.push_back(1);
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->find("ab"), 256);
  EXPECT_EQ(tokenizer->encode("ab<|x|>", true, true), (Ids{256, 257}));
  EXPECT_EQ(tokenizer->piece(259, false), "ab");
  EXPECT_EQ(tokenizer->find("abc"), -1);
  EXPECT_EQ(tokenizer->find(std::string(100000, 'a')), -1);
}

TEST(Tokenizer, ThreadsMayShareOne) {
  const auto tokenizer = make(bpe_vocab({"a b", "\u0120 a", "ab c"}, {"<|x|>"}));
  const std::string text = "abc ab abca <|x|> 123's\n\n\xFFz";
  const Ids expected = tokenizer->encode(text, true, true);
  std::vector<int> n_wrong(4);
  std::vector<std::thread> threads;
  for (int& count : n_wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += tokenizer->encode(text, true, true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, std::vector<int>(4));
}

TEST(Tokenizer, ABadVocabularyIsOneSentence) {
  const auto bad = [](Vocab vocab, const auto& change) {
    change(vocab);
    return error_of(std::move(vocab));
  };
  const Vocab bpe = bpe_vocab({"a b"}), spm = spm_vocab({"a"});
  EXPECT_EQ(error_of({}), "unknown tokenizer model '', known are llama and gpt2");
  EXPECT_EQ(bad(bpe, [](Vocab& v) { v.model = "bert"; }),
            "unknown tokenizer model 'bert', known are llama and gpt2");
  EXPECT_EQ(bad(bpe, [](Vocab& v) { v.pre = "tekken"; }),
            "unknown pre-tokenizer 'tekken' (tokenizer.ggml.pre)");
  EXPECT_EQ(bad(bpe, [](Vocab& v) { v.tokens = {}; }), "the vocabulary has no tokens");
  EXPECT_EQ(bad(bpe, [](Vocab& v) { v.types.pop_back(); }),
            "token_type has 256 entries, tokens has 257");
  EXPECT_EQ(bad(spm, [](Vocab& v) { v.scores.push_back(0); }),
            "scores has 261 entries, tokens has 260");
  EXPECT_EQ(bad(spm, [](Vocab& v) { v.scores[7] = std::nanf(""); }),
            "the score of token 7 is not a number");
  EXPECT_EQ(bad(spm, [](Vocab& v) { v.bos = 260; }), "bos is token 260, the vocabulary has 260");
  EXPECT_EQ(bad(bpe, [](Vocab& v) { v.eot = -2; }), "eot is token -2, the vocabulary has 257");
  EXPECT_EQ(bad(spm, [](Vocab& v) { v.tokens.replace(3, "<0x0a>"); }),
            "token 3 is a byte, but its text '<0x0a>' is not <0xHH>");
  EXPECT_EQ(bad(spm,
                [](Vocab& v) {
                  v.tokens.replace(0, "x");
                  v.tokens.replace(3, "x");
                  v.types[0] = v.types[3] = 1;
                }),
            "the vocabulary has neither all byte tokens <0x00> to <0xFF> nor an unknown token");
  for (const std::string merge : {"", " ", "ab", "a ", " b"}) {
    EXPECT_EQ(bad(bpe, [&](Vocab& v) { v.merges.push_back(merge); }),
              "merge 1 '" + merge + "' is not two parts with a space");
  }
  Vocab pad = bpe;
  pad.pad = 100000;
  EXPECT_NE(make(pad), nullptr);
}

TEST(Tokenizer, OddButUsableVocabularies) {
  Vocab vocab = spm_vocab({"\u2581", "a"});
  vocab.scores.assign(vocab.tokens.size(), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(make(vocab)->encode("aa", false, true).size(), 3u);
  vocab.scores.clear();
  vocab.types.clear();  // no types: byte tokens are known by their text
  const auto tokenizer = make(vocab);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\u00e9", false, true), false), "a\u00e9");
  Vocab one;
  one.model = "gpt2";
  one.tokens = {"a"};
  EXPECT_EQ(make(one)->encode("banana", true, true), (Ids{0, 0, 0}));
}

}  // namespace
}  // namespace mica_llama
