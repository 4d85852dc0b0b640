// Checked arithmetic against exact 128-bit arithmetic, on edges and random values.
#include "core/base/checked.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

namespace {

__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 WideUnsigned;

template <class T>
bool fits(Wide v) {
  return v >= static_cast<Wide>(std::numeric_limits<T>::min()) &&
         v <= static_cast<Wide>(std::numeric_limits<T>::max());
}

// Powers of two, limits and their neighbours, and random values of random length.
template <class T>
std::vector<T> values() {
  std::vector<T> out = {std::numeric_limits<T>::min(), std::numeric_limits<T>::max()};
  const int bits = static_cast<int>(sizeof(T) * 8);
  for (int i = 0; i < bits; ++i) {
    for (int delta = -2; delta <= 2; ++delta) {
      out.push_back(static_cast<T>((uint64_t{1} << i) + static_cast<uint64_t>(delta)));
    }
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) {
    out.push_back(static_cast<T>(random() >> (random() % 64)));
  }
  return out;
}

template <class T>
class Checked : public testing::Test {};
using Types = testing::Types<int32_t, uint32_t, int64_t, uint64_t>;
TYPED_TEST_SUITE(Checked, Types);

TYPED_TEST(Checked, AddAndMulAgreeWithExactArithmetic) {
  using T = TypeParam;
  for (const T a : values<T>()) {
    for (const T b : values<T>()) {
      // The product of two 64-bit numbers of equal sign may need 128 unsigned bits.
      using Product = std::conditional_t<std::is_signed_v<T>, Wide, WideUnsigned>;
      const Wide sum = static_cast<Wide>(a) + static_cast<Wide>(b);
      T out = 0;
      ASSERT_EQ(mica::checked_add(a, b, out), fits<T>(sum)) << a << " + " << b;
      if (fits<T>(sum)) {
        ASSERT_EQ(static_cast<Wide>(out), sum);
      }
      const Product product = static_cast<Product>(a) * static_cast<Product>(b);
      const bool product_fits =
          product <= static_cast<Product>(std::numeric_limits<T>::max()) &&
          (!std::is_signed_v<T> || product >= static_cast<Product>(std::numeric_limits<T>::min()));
      ASSERT_EQ(mica::checked_mul(a, b, out), product_fits) << a << " * " << b;
      if (product_fits) {
        ASSERT_EQ(static_cast<Product>(out), product);
      }
    }
  }
}

TEST(CheckedAlign, AgreesWithExactArithmetic) {
  for (const uint64_t v : values<uint64_t>()) {
    for (int shift = 0; shift < 64; ++shift) {
      const uint64_t align = uint64_t{1} << shift;
      const Wide exact = (static_cast<Wide>(v) + align - 1) / align * align;
      // Refusing is right when the value with align - 1 added does not fit, even if v is aligned.
      const bool expected = fits<uint64_t>(static_cast<Wide>(v) + align - 1);
      uint64_t out = 0;
      ASSERT_EQ(mica::checked_align(v, align, out), expected) << v << " " << align;
      if (expected) {
        ASSERT_EQ(static_cast<Wide>(out), exact);
      }
    }
  }
}

TEST(RangeFits, AgreesWithExactArithmetic) {
  std::mt19937_64 random(11);
  const std::vector<uint64_t> all = values<uint64_t>();
  for (const uint64_t offset : all) {
    for (const uint64_t length : all) {
      for (const uint64_t size :
           {uint64_t{0}, all[random() % all.size()], offset, length, offset + length, UINT64_MAX}) {
        const bool expected =
            static_cast<Wide>(offset) + static_cast<Wide>(length) <= static_cast<Wide>(size);
        ASSERT_EQ(mica::range_fits(offset, length, size), expected)
            << offset << " " << length << " " << size;
      }
    }
  }
}

TEST(PowerOfTwo, Edges) {
  EXPECT_FALSE(mica::is_power_of_two(0));
  EXPECT_TRUE(mica::is_power_of_two(1));
  EXPECT_TRUE(mica::is_power_of_two(uint64_t{1} << 63));
  EXPECT_FALSE(mica::is_power_of_two(UINT64_MAX));
}

}  // namespace
