// The CUDA backend's codecs and KV pages, as the host sees them: what the kernels compute is the
// same code.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "backends/cuda/encode.cuh"
#include "backends/cuda/kv.h"
#include "core/base/dtype.h"
#include "ops/dtypes/half.h"
#include "tests/unit/plan/odd_value.h"

namespace {

using namespace mica;

constexpr mica_dtype kBlocks[] = {MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1,
                                  MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};
constexpr mica_dtype kPages[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                 MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1};

TEST(CudaEncode, NarrowFloatsAreTheReferences) {
  std::mt19937 random(1);
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto h = static_cast<uint16_t>(i);
    ASSERT_EQ(cuda::bits_of(cuda::f16_to_f32(h)), float_bits(f16_to_f32(h)));
    ASSERT_EQ(cuda::bits_of(cuda::bf16_to_f32(h)), float_bits(bf16_to_f32(h)));
  }
  for (int i = 0; i < 400000; ++i) {
    const float f = bits_float(static_cast<uint32_t>(random()));
    ASSERT_EQ(cuda::f32_to_f16(f), f32_to_f16(f));
    ASSERT_EQ(cuda::f32_to_bf16(f), f32_to_bf16(f));
  }
}

TEST(CudaEncode, BlocksAreTheReferencesBitByBit) {
  std::mt19937 random(2);
  for (const mica_dtype dtype : kBlocks) {
    const DtypeDef& def = *find_dtype(dtype);
    const cuda::BlockInfo info = cuda::block_info(dtype);
    ASSERT_EQ(info.elems, def.info.block_elems);
    ASSERT_EQ(info.bytes, def.info.block_bytes);
    for (int round = 0; round < 3000; ++round) {
      float x[256];
      const float sigma = std::pow(10.0f, static_cast<float>(random() % 14) - 8);
      const bool odd = round % 3 == 0;
      std::normal_distribution<float> normal(0, sigma);
      for (float& v : x) v = odd ? odd_value(random, sigma) : normal(random);
      if (round % 50 == 1)
        for (float& v : x) v = sigma;
      if (round % 50 == 2)
        for (float& v : x) v = 0;
      uint8_t want[256] = {}, got[256] = {};
      def.encode(x, want, info.elems);
      cuda::encode_block(dtype, x, got);
      ASSERT_EQ(std::memcmp(want, got, info.bytes), 0) << def.info.name << " round " << round;
      float decoded[256];
      def.decode(want, decoded, info.elems);
      for (uint32_t i = 0; i < info.elems; ++i)
        ASSERT_EQ(cuda::bits_of(cuda::decode_element(dtype, want, static_cast<int>(i))),
                  float_bits(decoded[i]))
            << def.info.name << "[" << i << "]";
    }
  }
}

TEST(CudaKvPage, PiecesCoverThePageOnceAndComeBack) {
  std::mt19937 random(3);
  for (const mica_dtype dtype : kPages) {
    for (const uint32_t head_dim : {1u, 33u, 64u, 80u, 128u, 256u}) {
      cuda::KvPage page;
      ASSERT_TRUE(cuda::kv_page(dtype, head_dim, 3, page));
      EXPECT_EQ(page.head_bytes % 128, 0u);
      EXPECT_EQ(page.page_bytes, uint64_t{page.head_bytes} * 3);
      for (const uint32_t at : {page.fifth_at, page.d_at, page.m_at}) EXPECT_EQ(at % 128, 0u);
      const DtypeDef& def = *find_dtype(dtype);
      const uint32_t blocks = (head_dim + def.info.block_elems - 1) / def.info.block_elems;
      ASSERT_EQ(page.plain_bytes, blocks * def.info.block_bytes);
      std::vector<char> rows(size_t{64} * 3 * page.plain_bytes);
      for (char& c : rows) c = static_cast<char>(random());
      std::vector<char> seen(page.page_bytes, 0);
      cuda::kv_visit_page(page, [&](uint64_t at, uint64_t, uint64_t bytes) {
        ASSERT_LE(at + bytes, page.page_bytes);
        for (uint64_t i = at; i < at + bytes; ++i) ASSERT_EQ(seen[i]++, 0);
      });
      std::vector<char> bytes(page.page_bytes, 0x55), back(rows.size());
      cuda::kv_rows_to_page(page, rows.data(), bytes.data());
      cuda::kv_page_to_rows(page, bytes.data(), back.data());
      ASSERT_TRUE(back == rows);
    }
  }
  cuda::KvPage page;
  EXPECT_FALSE(cuda::kv_page(MICA_Q4_K, 256, 1, page));
  EXPECT_FALSE(cuda::kv_page(MICA_I32, 64, 1, page));
}

// A stored element, decoded from its planes, is the plain block's.
TEST(CudaKvPage, PlanesDecodeToTheBlocks) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (const mica_dtype dtype : {MICA_Q8_0, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1}) {
    cuda::KvPage page;
    ASSERT_TRUE(cuda::kv_page(dtype, 80, 2, page));
    const DtypeDef& def = *find_dtype(dtype);
    std::vector<char> rows(size_t{64} * 2 * page.plain_bytes), bytes(page.page_bytes);
    for (size_t i = 0; i < size_t{64} * 2 * page.n_blocks; ++i) {
      float x[32];
      for (float& v : x) v = normal(random);
      def.encode(x, rows.data() + i * def.info.block_bytes, 32);
    }
    cuda::kv_rows_to_page(page, rows.data(), bytes.data());
    for (uint32_t cell = 0; cell < 64; ++cell)
      for (uint32_t head = 0; head < 2; ++head) {
        const char* part = bytes.data() + size_t{head} * page.head_bytes;
        for (uint32_t i = 0; i < page.row_elems; ++i) {
          const size_t at = ((size_t{cell} * 2 + head) * page.n_blocks + i / 32);
          const auto* block =
              reinterpret_cast<const uint8_t*>(rows.data()) + at * def.info.block_bytes;
          ASSERT_EQ(cuda::kv_element(page, part, cell, i),
                    cuda::decode_element(dtype, block, static_cast<int>(i % 32)));
        }
      }
  }
}

}  // namespace
