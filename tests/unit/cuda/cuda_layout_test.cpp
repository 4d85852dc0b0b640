// Weights of the CUDA backend: packed rows come back bit by bit, whatever their bytes; what is
// decoded from a packed weight is what the type's codec gives; rows and blocks never share a byte.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "backends/cuda/quant/types.h"
#include "core/base/dtype.h"

namespace mica::cuda {
namespace {

struct Size {
  int64_t blocks, n, slices;
};
const Size kSizes[] = {{1, 1, 1}, {2, 8, 1}, {3, 9, 1}, {5, 17, 3}, {18, 5, 2}};

template <class T>
class CudaLayout : public testing::Test {};
using Types = testing::Types<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K>;
TYPED_TEST_SUITE(CudaLayout, Types);

struct Weight {
  int64_t k, n_rows;
  Packed layout = {};
  std::vector<uint8_t> rows;
  std::vector<uint32_t> packed;  // words: it is read by them
  uint8_t* base() { return reinterpret_cast<uint8_t*>(packed.data()); }
};

template <class T>
Weight make(const Size& size, bool finite) {
  Weight w;
  w.k = size.blocks * T::kBlock;
  w.n_rows = size.n * size.slices;
  EXPECT_TRUE(packed_of(T::kParts, w.k, size.n, size.slices, w.layout));
  w.packed.assign(w.layout.bytes / 4, 0);
  w.rows.resize(static_cast<size_t>(w.n_rows * size.blocks) * T::kBytes);
  std::mt19937 random(7);
  if (!finite) {
    for (uint8_t& b : w.rows) b = static_cast<uint8_t>(random());
    return w;
  }
  std::normal_distribution<float> values(0, 0.05f);
  std::vector<float> x(static_cast<size_t>(w.k * w.n_rows));
  for (float& v : x) v = values(random);
  EXPECT_EQ(mica_dtype_encode(T::kType, x.data(), w.rows.data(), x.size()), MICA_OK);
  return w;
}

template <class T>
void pack(Weight& w, const Size& size) {
  for (int64_t r = 0; r < w.n_rows; ++r)
    for (int64_t i = 0; i < size.blocks; ++i)
      pack_block<T>(w.base(), w.layout, size.n, r, i,
                    w.rows.data() + (r * size.blocks + i) * T::kBytes);
}

TYPED_TEST(CudaLayout, AnyBytesComeBack) {
  for (const Size& size : kSizes) {
    Weight w = make<TypeParam>(size, false);
    pack<TypeParam>(w, size);
    std::vector<uint8_t> block(TypeParam::kBytes);
    for (int64_t r = 0; r < w.n_rows; ++r)
      for (int64_t i = 0; i < size.blocks; ++i) {
        unpack_block<TypeParam>(w.base(), w.layout, size.n, r, i, block.data());
        const uint8_t* want = w.rows.data() + (r * size.blocks + i) * TypeParam::kBytes;
        ASSERT_EQ(std::memcmp(block.data(), want, block.size()), 0)
            << "row " << r << " block " << i << " of " << size.blocks << " x " << size.n;
      }
  }
}

TYPED_TEST(CudaLayout, ValuesAreTheCodecs) {
  const Size size = {3, 11, 2};
  Weight w = make<TypeParam>(size, true);
  pack<TypeParam>(w, size);
  std::vector<float> want(static_cast<size_t>(w.k * w.n_rows));
  ASSERT_EQ(mica_dtype_decode(TypeParam::kType, w.rows.data(), want.data(), want.size()), MICA_OK);
  for (int64_t r = 0; r < w.n_rows; ++r)
    for (int64_t i = 0; i < w.k; ++i) {
      const CellPlace at = place_of<TypeParam>(w.layout, size.n, r, i / 32);
      const Piece<TypeParam> p =
          read_cell<TypeParam>(w.base() + at.chunk, w.base() + at.super, at.cell);
      const float got = value_of<TypeParam>(p, static_cast<int>(i % 32));
      ASSERT_EQ(std::memcmp(&got, &want[static_cast<size_t>(r * w.k + i)], sizeof got), 0)
          << "row " << r << " element " << i;
    }
}

// What pads K and N stays zero: kernels count on that.
TYPED_TEST(CudaLayout, PaddingIsZero) {
  const Size size = {TypeParam::kBlock == 32 ? 5 : 1, 3, 2};
  Weight w = make<TypeParam>(size, false);
  pack<TypeParam>(w, size);
  for (int64_t group = 0; group < w.layout.groups * size.slices; ++group)
    for (int64_t chunk = 0; chunk < w.layout.chunks; ++chunk)
      for (uint32_t cell = 0; cell < kChunkCells; ++cell) {
        const bool row_inside = group % w.layout.groups * 8 + cell % 8 < size.n;
        if (row_inside && (chunk * 4 + cell / 8) * 32 < w.k) continue;
        const uint8_t* at = w.base() + chunk_at(w.layout, TypeParam::kParts, group, chunk);
        const Piece<TypeParam> p = read_cell<TypeParam>(at, at, cell);
        for (const uint32_t q : p.q) EXPECT_EQ(q, 0u);
        EXPECT_EQ(p.s, 0u);
      }
}

TEST(CudaLayoutSize, WhatDoesNotFitIsRefused) {
  Packed p;
  EXPECT_FALSE(packed_of(Q4_0::kParts, INT64_C(1) << 40, INT64_C(1) << 40, 1, p));
  EXPECT_FALSE(packed_of(Q8_0::kParts, INT64_C(1) << 31, INT64_C(1) << 31, 2, p));
  ASSERT_TRUE(packed_of(Q6_K::kParts, 4096, 4096, 1, p));
  EXPECT_EQ(p.bytes, uint64_t{4096} * 4096 / 256 * 210);
}

}  // namespace
}  // namespace mica::cuda
