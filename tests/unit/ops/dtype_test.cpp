// Data types: the table, f16 and bf16, decoding against golden vectors, encoding by error bounds,
// and the one rule for tensor sizes against 128-bit arithmetic.
#include "core/base/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ops/dtypes/half.h"
#include "ops/dtypes/k_scales.h"

namespace {

__extension__ typedef unsigned __int128 Wide;

using mica::bits_float;
using mica::float_bits;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::string golden_path(const std::string& name) {
  return std::string(MICA_GOLDEN_DIR "/dtypes/") + name;
}

std::vector<float> normal_values(size_t n, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = normal(random);
  return out;
}

std::vector<uint8_t> encode(mica_dtype dtype, const std::vector<float>& x) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  std::vector<uint8_t> out(x.size() / info->block_elems * info->block_bytes);
  EXPECT_EQ(mica_dtype_encode(dtype, x.data(), out.data(), x.size()), MICA_OK) << info->name;
  return out;
}

std::vector<float> decode(mica_dtype dtype, const std::vector<uint8_t>& bytes) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  std::vector<float> out(bytes.size() / info->block_bytes * info->block_elems);
  EXPECT_EQ(mica_dtype_decode(dtype, bytes.data(), out.data(), out.size()), MICA_OK);
  return out;
}

std::vector<float> round_trip(mica_dtype dtype, const std::vector<float>& x) {
  return decode(dtype, encode(dtype, x));
}

TEST(DtypeTable, MatchesDtypeDef) {
  uint32_t n = 0;
#define MICA_DTYPE(NAME, name_, id, elems, bytes)               \
  {                                                             \
    const mica_dtype_info* info = mica_dtype_get(MICA_##NAME);  \
    ASSERT_NE(info, nullptr);                                   \
    EXPECT_EQ(info->dtype, id);                                 \
    EXPECT_STREQ(info->name, #name_);                           \
    EXPECT_EQ(info->block_elems, static_cast<uint32_t>(elems)); \
    EXPECT_EQ(info->block_bytes, static_cast<uint32_t>(bytes)); \
    EXPECT_EQ(info->is_quantized, (elems) > 1 ? 1u : 0u);       \
    EXPECT_EQ(mica_dtype_find(#name_), info);                   \
    EXPECT_EQ(mica_dtype_find(#NAME), info);                    \
    EXPECT_EQ(mica_dtype_at(n++), info);                        \
  }
#include "mica/dtype.def"
#undef MICA_DTYPE
  EXPECT_EQ(mica_dtype_at(n), nullptr);
  EXPECT_EQ(mica_dtype_at(UINT32_MAX), nullptr);
}

TEST(DtypeTable, HolesAndNonsenseAreNoTypes) {
  int known = 0;
  for (uint32_t id = 0; id < 100000; ++id) known += mica::find_dtype(id) != nullptr ? 1 : 0;
  EXPECT_EQ(known, 13);
  for (const uint32_t id : {4u, 5u, 31u, 0x80000000u, UINT32_MAX}) {
    EXPECT_EQ(mica::find_dtype(id), nullptr);
  }
  for (const char* name : {"", "q4", "q4_00", "q4_0 ", "Q4_K_M", "x"}) {
    EXPECT_EQ(mica_dtype_find(name), nullptr) << name;
  }
  EXPECT_EQ(mica_dtype_find(nullptr), nullptr);
  EXPECT_NE(mica_dtype_find("q4_K"), nullptr);
}

TEST(DtypeTable, Misuse) {
  float x[32] = {};
  uint8_t block[34] = {};
  const auto unknown = static_cast<mica_dtype>(5);
  EXPECT_EQ(mica_dtype_decode(unknown, block, x, 32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_encode(unknown, x, block, 32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_decode(MICA_Q8_0, block, x, 31), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_decode(MICA_Q8_0, nullptr, x, 32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_decode(MICA_Q8_0, block, nullptr, 32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_encode(MICA_Q8_0, nullptr, block, 32), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(mica_dtype_encode(MICA_I32, x, block, 1), MICA_UNSUPPORTED);
  EXPECT_EQ(mica_dtype_encode(MICA_I64, x, block, 1), MICA_UNSUPPORTED);
  EXPECT_EQ(mica_dtype_decode(MICA_Q8_0, nullptr, nullptr, 0), MICA_OK);
}

// The value of an f16 from its definition.
double f16_value(uint32_t h) {
  const int exponent = static_cast<int>(h >> 10 & 31);
  const int fraction = static_cast<int>(h & 1023);
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(Half, DecodesEveryF16) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = mica::f16_to_f32(static_cast<uint16_t>(h));
    const double expected = f16_value(h);
    if (std::isnan(expected)) {
      EXPECT_EQ(float_bits(f), (h & 0x8000) << 16 | 0x7fc00000u | (h & 0x3ff) << 13);
    } else {
      ASSERT_EQ(static_cast<double>(f), expected) << h;
      ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
      ASSERT_EQ(mica::f32_to_f16(f), h);
    }
  }
}

TEST(Half, RoundsToEvenBetweenEveryTwoF16) {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const double low = f16_value(h);
    const double high = h + 1 < 0x7c00 ? f16_value(h + 1) : 65536.0;  // 65536 stands for infinity
    const auto middle = static_cast<float>((low + high) / 2);         // exact in f32
    const uint32_t even = (h & 1) == 0 ? h : h + 1;
    ASSERT_EQ(mica::f32_to_f16(middle), even) << h;
    ASSERT_EQ(mica::f32_to_f16(std::nextafterf(middle, 0.0f)), h) << h;
    ASSERT_EQ(mica::f32_to_f16(std::nextafterf(middle, kInf)), h + 1) << h;
    ASSERT_EQ(mica::f32_to_f16(-middle), even | 0x8000) << h;
  }
  EXPECT_EQ(mica::f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(mica::f32_to_f16(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(mica::f32_to_f16(-kInf), 0xfc00);
  EXPECT_EQ(mica::f32_to_f16(kNan), 0x7e00);
  EXPECT_EQ(mica::f32_to_f16(bits_float(0xff802000)), 0xfe01);
}

TEST(Half, Bf16EveryValueAndRounding) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = mica::bf16_to_f32(static_cast<uint16_t>(h));
    ASSERT_EQ(float_bits(f), h << 16);
    if (std::isnan(f)) {
      EXPECT_EQ(mica::f32_to_bf16(f), h | 0x40);
      continue;
    }
    ASSERT_EQ(mica::f32_to_bf16(f), h);
    if (std::isinf(f)) continue;
    const uint32_t bits = h << 16;
    ASSERT_EQ(mica::f32_to_bf16(bits_float(bits | 0x7fff)), h);
    ASSERT_EQ(mica::f32_to_bf16(bits_float(bits | 0x8000)), (h & 1) == 0 ? h : h + 1);
    ASSERT_EQ(mica::f32_to_bf16(bits_float(bits | 0x8001)), h + 1);
  }
  EXPECT_EQ(mica::f32_to_bf16(bits_float(0x7f800001)), 0x7fc0);  // no NaN becomes infinity
  EXPECT_EQ(mica::f32_to_bf16(bits_float(0x7fffffff)), 0x7fff);
}

TEST(Half, RoundEven) {
  for (int i = -300; i <= 300; ++i) {
    const auto f = static_cast<float>(i);
    EXPECT_EQ(mica::round_even(f), i);
    EXPECT_EQ(mica::round_even(f + 0.5f), i % 2 == 0 ? i : i + 1);
    EXPECT_EQ(mica::round_even(f + 0.49f), i);
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("f16c"))) uint16_t hardware_f16(float f) {
  using Four = float __attribute__((vector_size(16)));
  const Four v = {f, 0, 0, 0};
  return static_cast<uint16_t>(__builtin_ia32_vcvtps2ph(v, 0)[0]);
}

TEST(Half, AgreesWithTheProcessor) {
  // What has AVX2 has F16C; not every compiler knows the latter's name here.
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no F16C";
  uint32_t wrong = 0;
  for (uint64_t i = 0; i < uint64_t{1} << 32; i += 641) {  // an odd step: all low bits occur
    const float f = bits_float(static_cast<uint32_t>(i));
    wrong += mica::f32_to_f16(f) != hardware_f16(f) ? 1 : 0;
  }
  EXPECT_EQ(wrong, 0u);
}
#endif

TEST(Golden, DecodeIsBitExact) {
  for (const char* name :
       {"f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"}) {
    const mica_dtype_info* info = mica_dtype_find(name);
    ASSERT_NE(info, nullptr);
    std::ifstream file(golden_path(std::string(name) + ".bin"), std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    const size_t unit = info->block_bytes + size_t{4} * info->block_elems;
    ASSERT_GT(bytes.size(), 0u) << golden_path(name);
    ASSERT_EQ(bytes.size() % unit, 0u);
    const size_t n_blocks = bytes.size() / unit;
    const size_t n = n_blocks * info->block_elems;
    std::vector<float> expected(n);
    std::memcpy(expected.data(), bytes.data() + n_blocks * info->block_bytes, n * 4);
    // At an odd address too: blocks in a file may lie anywhere.
    std::vector<char> shifted(n_blocks * info->block_bytes + 1);
    std::memcpy(shifted.data() + 1, bytes.data(), shifted.size() - 1);
    for (const char* blocks : {bytes.data(), static_cast<const char*>(shifted.data() + 1)}) {
      std::vector<float> got(n, kNan);
      ASSERT_EQ(mica_dtype_decode(info->dtype, blocks, got.data(), n), MICA_OK);
      for (size_t i = 0; i < n; ++i) {
        // f16 infinities and NaN are not in the vectors; zeros may differ in sign.
        ASSERT_EQ(got[i], expected[i]) << name << " element " << i;
      }
    }
  }
}

TEST(Golden, IntegersByValue) {
  const int32_t small[] = {0, 1, -1, 16777217, INT32_MAX, INT32_MIN};
  float got[6];
  ASSERT_EQ(mica_dtype_decode(MICA_I32, small, got, 6), MICA_OK);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(got[i], static_cast<float>(small[i]));
  const int64_t big[] = {0, -5, INT64_MAX, INT64_MIN};
  ASSERT_EQ(mica_dtype_decode(MICA_I64, big, got, 4), MICA_OK);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(got[i], static_cast<float>(big[i]));
}

TEST(KScales, EveryNumberRoundTrips) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    uint8_t scale[8], min[8], packed[12], scale2[8], min2[8];
    for (int i = 0; i < 8; ++i) {
      scale[i] = static_cast<uint8_t>(random() % 64);
      min[i] = static_cast<uint8_t>(random() % 64);
    }
    mica::pack_k_scales(scale, min, packed);
    mica::unpack_k_scales(packed, scale2, min2);
    ASSERT_EQ(std::memcmp(scale, scale2, 8), 0);
    ASSERT_EQ(std::memcmp(min, min2, 8), 0);
  }
}

struct EncodeBound {
  mica_dtype dtype;
  double nrmse;  // of normally distributed values: root of the error's over the values' energy
  double step;   // largest error as a share of the block's (K: group's) range
  uint32_t group;
};
// nrmse: what was measured plus 3 %. step: half a quant; a whole one for q4_0 and q5_0, whose far
// end has one quant less; more for the K types, whose least-squares scales may clip the ends and
// whose scales are rounded to 6 or 8 bits; and the rounding of d to f16.
const EncodeBound kBounds[] = {
    {MICA_Q4_0, 0.0884, 1.0 / 8 * 1.01, 32},   {MICA_Q4_1, 0.0808, 0.5 / 15 * 1.02, 32},
    {MICA_Q5_0, 0.0439, 1.0 / 16 * 1.01, 32},  {MICA_Q5_1, 0.0392, 0.5 / 31 * 1.04, 32},
    {MICA_Q8_0, 0.0055, 0.5 / 127 * 1.13, 32}, {MICA_Q4_K, 0.0734, 0.75 / 15, 32},
    {MICA_Q5_K, 0.0360, 0.78 / 31, 32},        {MICA_Q6_K, 0.0175, 0.75 / 32, 16},
};

TEST(Encode, ErrorBounds) {
  for (const EncodeBound& bound : kBounds) {
    const char* name = mica_dtype_get(bound.dtype)->name;
    for (const float scale : {1.0f, 0.02f, 300.0f}) {
      const std::vector<float> x = normal_values(256 * 200, scale, 17);
      const std::vector<float> y = round_trip(bound.dtype, x);
      double error = 0;
      double energy = 0;
      double worst = 0;
      for (size_t g = 0; g < x.size(); g += bound.group) {
        float low = 0;
        float high = 0;
        float largest = 0;
        for (size_t i = g; i < g + bound.group; ++i) {
          low = std::min(low, x[i]);
          high = std::max(high, x[i]);
          largest = std::max(largest, std::fabs(x[i] - y[i]));
          error += std::pow(x[i] - y[i], 2);
          energy += std::pow(x[i], 2);
        }
        // The symmetric types spread their quants over the magnitude, not the range.
        const bool symmetric = bound.dtype == MICA_Q4_0 || bound.dtype == MICA_Q5_0 ||
                               bound.dtype == MICA_Q8_0 || bound.dtype == MICA_Q6_K;
        const float unit = symmetric ? std::max(high, -low) : high - low;
        worst = std::max(worst, static_cast<double>(largest / unit));
      }
      const double nrmse = std::sqrt(error / energy);
      EXPECT_LT(nrmse, bound.nrmse) << name << " scale " << scale;
      EXPECT_LT(worst, bound.step) << name << " scale " << scale;
      if (scale == 1.0f) RecordProperty(name, std::to_string(nrmse) + " " + std::to_string(worst));
    }
  }
}

TEST(Encode, DecodedBlocksEncodeToThemselves) {
  std::mt19937 random(5);
  for (const mica_dtype dtype : {MICA_Q8_0, MICA_Q4_0, MICA_Q5_0}) {
    const mica_dtype_info* info = mica_dtype_get(dtype);
    for (int round = 0; round < 300; ++round) {
      std::vector<uint8_t> block(info->block_bytes);
      for (uint8_t& b : block) b = static_cast<uint8_t>(random());
      // A scale in the normal range, and one quant at the end that fixes the scale.
      const auto d = static_cast<uint16_t>(0x1400 + random() % 0x5000);
      std::memcpy(block.data(), &d, 2);
      if (dtype == MICA_Q8_0) {
        for (size_t i = 2; i < block.size(); ++i) block[i] = block[i] == 0x80 ? 0x81 : block[i];
        block[2] = 127;
      } else {
        block[block.size() - 16] &= 0xf0;
        if (dtype == MICA_Q5_0) block[2] &= 0xfe;
      }
      EXPECT_EQ(encode(dtype, decode(dtype, block)), block) << info->name;
    }
  }
}

TEST(Encode, HalfToEven) {
  // d = 1: the largest magnitude is 127 (q8_0), -8 (q4_0).
  std::vector<float> x(32, 0.0f);
  const float ties[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f};
  const float even[] = {0, 2, 2, -0.0f, -2, -2};
  x[0] = 127;
  for (size_t i = 0; i < 6; ++i) x[i + 1] = ties[i];
  const std::vector<float> q8 = round_trip(MICA_Q8_0, x);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(q8[i + 1], even[i]);
  x[0] = -8;
  const std::vector<float> q4 = round_trip(MICA_Q4_0, x);
  EXPECT_EQ(q4[0], -8);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(q4[i + 1], even[i]);
}

TEST(Encode, ScalesAreTheFieldsFormula) {
  const std::vector<float> x = normal_values(32, 1.0f, 23);
  float largest = 0;
  for (const float v : x) largest = std::fabs(v) > std::fabs(largest) ? v : largest;
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const auto stored = [&](mica_dtype dtype, size_t at) {
    const std::vector<uint8_t> block = encode(dtype, x);
    return static_cast<uint16_t>(block[at] | block[at + 1] << 8);
  };
  EXPECT_EQ(stored(MICA_Q8_0, 0), mica::f32_to_f16(std::fabs(largest) / 127.0f));
  EXPECT_EQ(stored(MICA_Q4_0, 0), mica::f32_to_f16(largest / -8.0f));
  EXPECT_EQ(stored(MICA_Q5_0, 0), mica::f32_to_f16(largest / -16.0f));
  EXPECT_EQ(stored(MICA_Q4_1, 0), mica::f32_to_f16((*high - *low) / 15.0f));
  EXPECT_EQ(stored(MICA_Q4_1, 2), mica::f32_to_f16(*low));
  EXPECT_EQ(stored(MICA_Q5_1, 0), mica::f32_to_f16((*high - *low) / 31.0f));
}

TEST(Encode, OddInputStaysFinite) {
  const float least = std::numeric_limits<float>::denorm_min();
  const float most = std::numeric_limits<float>::max();
  std::vector<std::vector<float>> inputs;
  for (const float v : {0.0f, -0.0f, kNan, kInf, -kInf, most, -most, least, 1e-38f, 1e-7f, -1e-7f,
                        65504.0f, 1e6f, -1e6f, 1.0f, -1.0f}) {
    inputs.push_back(std::vector<float>(256, v));
    std::vector<float> mixed = normal_values(256, 1.0f, 29);
    mixed[100] = v;
    mixed[101] = -v;
    inputs.push_back(mixed);
  }
  std::mt19937 random(31);
  for (int round = 0; round < 500; ++round) {  // any bit patterns
    std::vector<float> x(256);
    for (float& v : x) v = bits_float(static_cast<uint32_t>(random()));
    inputs.push_back(x);
  }
  for (const EncodeBound& bound : kBounds) {
    for (const std::vector<float>& x : inputs) {
      for (const float y : round_trip(bound.dtype, x)) {
        ASSERT_TRUE(std::isfinite(y)) << mica_dtype_get(bound.dtype)->name << " " << x[0];
      }
    }
  }
}

TEST(Encode, NanIsZeroAndInfinityIsTheLimit) {
  std::vector<float> x(256, 1.0f);
  x[0] = kNan;
  for (const EncodeBound& bound : kBounds) {
    const std::vector<float> y = round_trip(bound.dtype, x);
    EXPECT_NEAR(y[0], 0.0, 0.07) << mica_dtype_get(bound.dtype)->name;
    EXPECT_NEAR(y[1], 1.0, 0.07) << mica_dtype_get(bound.dtype)->name;
  }
  x.assign(256, 0.0f);
  x[7] = -kInf;
  EXPECT_EQ(round_trip(MICA_Q8_0, x)[7], -127 * 65504.0f);
  EXPECT_EQ(round_trip(MICA_Q4_0, x)[7], -8 * 65504.0f);
  EXPECT_EQ(round_trip(MICA_Q5_0, x)[7], -16 * 65504.0f);
  EXPECT_EQ(round_trip(MICA_Q4_1, x)[7], -65504.0f);
  EXPECT_NEAR(round_trip(MICA_Q4_K, x)[7] / (-8 * 65504.0f), 1.0, 0.01);
  EXPECT_NEAR(round_trip(MICA_Q6_K, x)[7] / (-8 * 65504.0f), 1.0, 0.01);
  const float plain[] = {kInf, -kInf, kNan, 1e9f};
  float back[4];
  uint16_t stored[4];
  ASSERT_EQ(mica_dtype_encode(MICA_F16, plain, stored, 4), MICA_OK);  // f16 keeps them
  ASSERT_EQ(mica_dtype_decode(MICA_F16, stored, back, 4), MICA_OK);
  EXPECT_EQ(back[0], kInf);
  EXPECT_EQ(back[1], -kInf);
  EXPECT_TRUE(std::isnan(back[2]));
  EXPECT_EQ(back[3], kInf);
}

TEST(Encode, KTypesKeepSpecialGroups) {
  // One-sided, flat and zero groups: where a min that must be >= 0 or a zero scale could go wrong.
  std::vector<float> x(256);
  for (size_t i = 0; i < 256; ++i) {
    const auto t = static_cast<float>(i % 32) / 31.0f;
    const float groups[] = {t, -t, 1.0f, -1.0f, 0.0f, 1.0f + t, -1.0f - t, t - 0.5f};
    x[i] = groups[i / 32];
  }
  for (const mica_dtype dtype : {MICA_Q4_K, MICA_Q5_K, MICA_Q6_K}) {
    const std::vector<float> y = round_trip(dtype, x);
    for (size_t i = 0; i < 256; ++i) {
      EXPECT_NEAR(y[i], x[i], 0.085) << mica_dtype_get(dtype)->name << " " << i;
    }
    for (size_t i = 128; i < 160; ++i) EXPECT_EQ(y[i], 0.0f);
  }
}

TEST(TensorBytes, AgreesWithExactArithmetic) {
  std::mt19937_64 random(41);
  for (uint32_t t = 0; mica_dtype_at(t) != nullptr; ++t) {
    const mica_dtype_info& info = *mica_dtype_at(t);
    for (int round = 0; round < 20000; ++round) {
      const auto rank = static_cast<uint32_t>(random() % 6);
      int64_t dim[6] = {};
      bool expected = rank >= 1 && rank <= 4;
      Wide elems = 1;
      bool small = true;  // every product so far is below 2^63, so the next fits in 128 bits
      for (uint32_t i = 0; i < rank; ++i) {
        dim[i] = static_cast<int64_t>(random() >> (random() % 64));
        if (i == 0 && round % 2 == 0) dim[0] &= ~int64_t{255};
        if (dim[i] < 1) expected = false;
        elems *= static_cast<Wide>(dim[i] < 1 ? 1 : dim[i]);
        if (elems > static_cast<Wide>(INT64_MAX)) small = false, elems = 1;
      }
      if (rank >= 1 && dim[0] % info.block_elems != 0) expected = false;
      const Wide bytes = elems / info.block_elems * info.block_bytes;
      if (!small || bytes > static_cast<Wide>(INT64_MAX)) expected = false;
      mica::Error error;
      uint64_t got = 0;
      ASSERT_EQ(mica::tensor_bytes(info, rank, dim, got, error), expected)
          << info.name << " rank " << rank << " " << dim[0] << " " << dim[1] << " " << dim[2];
      if (expected) {
        ASSERT_EQ(static_cast<Wide>(got), bytes);
      } else {
        ASSERT_STRNE(error.text(), "");
      }
    }
  }
}

}  // namespace
