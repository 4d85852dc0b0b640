// Formatting without the C library: numbers, byte counts, hostile names, bounded errors.
#include "core/base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>

#include "core/base/vec.h"

namespace {

using mica::Error;
using mica::Writer;

template <class... Parts>
std::string text(Parts... parts) {
  char buffer[512];
  Writer w(buffer, sizeof buffer);
  w.put("", parts...);
  EXPECT_EQ(w.size(), std::strlen(buffer));
  return buffer;
}
std::string bytes(uint64_t n) {
  char buffer[64];
  Writer(buffer, sizeof buffer).put_bytes(n);
  return buffer;
}

TEST(TextNumbers, Integers) {
  EXPECT_EQ(text(0), "0");
  EXPECT_EQ(text(-1), "-1");
  EXPECT_EQ(text(INT64_MIN), "-9223372036854775808");
  EXPECT_EQ(text(INT64_MAX), "9223372036854775807");
  EXPECT_EQ(text(UINT64_MAX), "18446744073709551615");
  EXPECT_EQ(text(INT32_MIN), "-2147483648");
}

TEST(TextNumbers, Doubles) {
  EXPECT_EQ(text(0.0), "0");
  EXPECT_EQ(text(0.5), "0.5");
  EXPECT_EQ(text(-2.25), "-2.25");
  EXPECT_EQ(text(1e-5), "1e-5");
  EXPECT_EQ(text(10000.0), "10000");
  EXPECT_EQ(text(std::nan("")), "nan");
  EXPECT_EQ(text(static_cast<double>(INFINITY)), "inf");
  EXPECT_EQ(text(-static_cast<double>(INFINITY)), "-inf");
  std::mt19937_64 rng(5);
  std::uniform_real_distribution<double> exponent(-250, 250), sign(-1, 1);
  for (int i = 0; i < 20000; ++i) {
    const double x =
        std::copysign(std::pow(10.0, exponent(rng) * (i % 2 == 0 ? 1 : 0.03)), sign(rng));
    const double back = std::strtod(text(x).c_str(), nullptr);
    ASSERT_NEAR(back / x, 1, 1.1e-5) << text(x);
  }
}

TEST(TextNumbers, Bytes) {
  EXPECT_EQ(bytes(0), "0 B");
  EXPECT_EQ(bytes(1023), "1023 B");
  EXPECT_EQ(bytes(1024), "1.0 KiB");
  EXPECT_EQ(bytes(3u << 19), "1.5 MiB");
  EXPECT_EQ(bytes(uint64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(bytes(98362432), "93.8 MiB");
  EXPECT_EQ(bytes(1048524), "1023.9 KiB");
  EXPECT_EQ(bytes(1048550), "1.0 MiB");
  EXPECT_EQ(bytes(uint64_t{1} << 60), "1.0 EiB");
  EXPECT_EQ(bytes(uint64_t{4} << 60), "4.0 EiB");
  EXPECT_EQ(bytes(UINT64_MAX / 10), "1.6 EiB");
  EXPECT_EQ(bytes(UINT64_MAX), "16.0 EiB");
}

TEST(TextNames, AreEscapedAndCut) {
  EXPECT_EQ(text(mica::quoted("blk.3")), "'blk.3'");
  EXPECT_EQ(text(mica::quoted("a'b\\\n\x1b\xff")), "'a\\x27b\\x5c\\x0a\\x1b\\xff'");
  const std::string longer(100, 'x');
  EXPECT_EQ(text(mica::quoted(longer.c_str())), "'" + std::string(64, 'x') + "...'");
}

TEST(TextWriter, CutsAndCounts) {
  char buffer[6] = "zzzzz";
  Writer w(buffer, 4);
  w.put("abcdef", 12);
  EXPECT_STREQ(buffer, "abc");
  EXPECT_EQ(w.size(), 8u);
  EXPECT_EQ(buffer[4], 'z');
  Writer none(nullptr, 0);
  none.put("length only");
  EXPECT_EQ(none.size(), 11u);
  char one = 'z';
  Writer(&one, 1).put("x");
  EXPECT_EQ(one, '\0');
}

TEST(TextErrors, KeepCodeAndSentence) {
  Error e;
  EXPECT_EQ(e.code(), MICA_OK);
  EXPECT_STREQ(e.text(), "");
  EXPECT_EQ(e.fail(MICA_IO, "byte ", uint64_t{7}, " of ", mica::quoted("f")), MICA_IO);
  EXPECT_STREQ(e.text(), "byte 7 of 'f'");
  EXPECT_EQ(e.prefix("reading"), MICA_IO);
  EXPECT_STREQ(e.text(), "reading: byte 7 of 'f'");
  const std::string endless(2000, 'y');
  EXPECT_EQ(e.fail(MICA_BAD_FILE, endless.c_str()), MICA_BAD_FILE);
  EXPECT_LT(std::strlen(e.text()), 480u);
  EXPECT_EQ(e.prefix("and more"), MICA_BAD_FILE);
  EXPECT_LT(std::strlen(e.text()), 480u);
  e.clear();
  EXPECT_EQ(e.code(), MICA_OK);
  EXPECT_STREQ(e.text(), "");
}

TEST(TextStatus, EveryCodeHasANameAndASentence) {
#define MICA_CHECK_STATUS(name, number, sentence)        \
  EXPECT_STREQ(mica_status_name(MICA_##name), #name);    \
  EXPECT_STREQ(mica_status_text(MICA_##name), sentence); \
  EXPECT_EQ(static_cast<int>(MICA_##name), number);
  MICA_STATUS_LIST(MICA_CHECK_STATUS)
#undef MICA_CHECK_STATUS
  EXPECT_STREQ(mica_status_name(static_cast<mica_status>(77)), "UNKNOWN");
  EXPECT_NE(mica_status_text(static_cast<mica_status>(54321)), nullptr);
}

TEST(TextOwned, HoldsNulBytes) {
  mica::Text t(mica::default_allocator());
  EXPECT_STREQ(t.c_str(), "");
  EXPECT_EQ(t.size(), 0u);
  ASSERT_TRUE(t.assign("a\0b", 3));
  EXPECT_EQ(t.size(), 3u);
  EXPECT_STREQ(t.c_str(), "a");
  ASSERT_TRUE(t.assign("name"));
  EXPECT_STREQ(t.c_str(), "name");
}

}  // namespace
