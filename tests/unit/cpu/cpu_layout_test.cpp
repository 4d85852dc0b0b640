// Weights in kLayoutRows16: packing and unpacking are inverse for any bytes, in any pieces;
// decoding a packed row gives what the type's codec gives, on every instruction set of this
// machine.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/cpu/layout.h"
#include "core/base/dtype.h"

namespace mica::cpu {

// Of each instruction set that was built.
#define MICA_KERNEL(isa, name)
#define MICA_ISA_END(isa)
#define MICA_ISA_BEGIN(isa)                                    \
  namespace isa {                                              \
  void decode_row16(const Tensor& w, int64_t row, float* dst); \
  void decode_plain(mica_dtype, const void*, int64_t, float*); \
  }
#include "cpu_kernels.def"
#undef MICA_ISA_BEGIN

namespace {

struct Kernels {
  const char* name;
  bool here;
  void (*decode_row16)(const Tensor& w, int64_t row, float* dst);
  void (*decode_plain)(mica_dtype, const void*, int64_t, float*);
};

std::vector<Kernels> isas() {
  return {
#define MICA_ISA_BEGIN(isa) \
  {#isa, Isa::isa <= cpu_info().best, isa::decode_row16, isa::decode_plain},
#include "cpu_kernels.def"
  };
}

struct Weight {
  mica_b_value value = {};
  const DtypeDef* type;
  int64_t n_rows;
  uint64_t row_bytes;
  std::vector<uint8_t> rows;  // plain
};

Weight make_weight(const DtypeDef* type, std::vector<int64_t> dim, unsigned seed) {
  Weight w;
  w.type = type;
  w.value.dtype = type->info.dtype;
  w.value.rank = static_cast<uint32_t>(dim.size());
  w.n_rows = 1;
  for (size_t i = 0; i < 4; ++i) {
    w.value.dim[i] = i < dim.size() ? dim[i] : 1;
    if (i > 0) w.n_rows *= w.value.dim[i];
  }
  w.row_bytes = row_bytes(type->info, static_cast<uint64_t>(dim[0]));
  w.rows.resize(static_cast<size_t>(w.n_rows) * w.row_bytes);
  std::mt19937 random(seed);
  // Any bytes at all: infinite and NaN scales, every bit of every field.
  for (uint8_t& b : w.rows) b = static_cast<uint8_t>(random());
  return w;
}

std::vector<const DtypeDef*> packed_types() {
  std::vector<const DtypeDef*> list;
  for (uint32_t id = 0; id < 64; ++id) {
    const DtypeDef* type = find_dtype(id);
    if (type != nullptr && id != MICA_I32 && id != MICA_I64) list.push_back(type);
  }
  return list;
}

// Row lengths that are whole blocks: one, two, three, many; of plain types odd ones too.
std::vector<int64_t> lengths(const DtypeDef* type) {
  const int64_t block = type->info.block_elems;
  if (block == 1) return {1, 3, 4, 5, 31, 64, 577};
  return {block, 2 * block, 3 * block, 18 * block};
}

constexpr uint8_t kGuard = 0xa5;

TEST(CpuLayout, UnpackIsTheInverseOfPack) {
  for (const DtypeDef* type : packed_types()) {
    for (int64_t n : lengths(type)) {
      for (int64_t n_rows : {1, 15, 16, 17, 70}) {
        SCOPED_TRACE(std::string(type->info.name) + " " + std::to_string(n) + " x " +
                     std::to_string(n_rows));
        const Weight w = make_weight(type, {n, n_rows}, static_cast<unsigned>(n + n_rows));
        uint64_t bytes = 0;
        uint32_t granule = 0;
        ASSERT_EQ(weight_layout(w.value, &bytes, &granule), kLayoutRows16);
        ASSERT_EQ(granule, 16u);
        ASSERT_GE(bytes, w.rows.size());
        std::vector<uint8_t> packed(bytes + 64, kGuard);
        char* data = reinterpret_cast<char*>(packed.data());
        // In two pieces, the last one first.
        const uint64_t half = static_cast<uint64_t>(n_rows / 32 * 16);
        const uint64_t all = static_cast<uint64_t>(n_rows);
        weight_pack(w.value, data, w.rows.data() + half * w.row_bytes, half, all - half);
        weight_pack(w.value, data, w.rows.data(), 0, half);
        for (size_t i = 0; i < 64; ++i) ASSERT_EQ(packed[bytes + i], kGuard);

        std::vector<uint8_t> back(w.rows.size() + 64, kGuard);
        weight_unpack(w.value, data, back.data(), 0, half);
        weight_unpack(w.value, data, back.data() + half * w.row_bytes, half, all - half);
        ASSERT_EQ(std::memcmp(back.data(), w.rows.data(), w.rows.size()), 0);
        for (size_t i = 0; i < 64; ++i) ASSERT_EQ(back[w.rows.size() + i], kGuard);
      }
    }
  }
}

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, sizeof a) == 0;
}

TEST(CpuLayout, DecodedRowsAreTheCodecs) {
  for (const Kernels& isa : isas()) {
    if (!isa.here) {
      GTEST_LOG_(INFO) << isa.name << " not run: this CPU lacks it";
      continue;
    }
    for (const DtypeDef* type : packed_types()) {
      for (int64_t n : lengths(type)) {
        SCOPED_TRACE(std::string(isa.name) + " " + type->info.name + " " + std::to_string(n));
        const Weight w = make_weight(type, {n, 5, 3, 2}, 77);
        uint64_t bytes = 0;
        uint32_t granule = 0;
        const uint32_t layout = weight_layout(w.value, &bytes, &granule);
        std::vector<char> packed(bytes);
        weight_pack(w.value, packed.data(), w.rows.data(), 0, static_cast<uint64_t>(w.n_rows));
        Tensor tensor{};
        tensor.dtype = type->info.dtype;
        tensor.layout = layout;
        const int64_t dim[] = {n, 5, 3, 2};
        std::copy(dim, dim + 4, tensor.dim);
        tensor.data = packed.data();
        std::vector<float> want(static_cast<size_t>(n));
        for (int64_t row = 0; row < w.n_rows; ++row) {
          const uint8_t* plain_row = w.rows.data() + static_cast<uint64_t>(row) * w.row_bytes;
          type->decode(plain_row, want.data(), static_cast<size_t>(n));
          std::vector<float> got(static_cast<size_t>(n) + 1, 1234.0f);
          isa.decode_row16(tensor, row, got.data());
          for (size_t k = 0; k < want.size(); ++k) ASSERT_TRUE(same(got[k], want[k])) << k;
          ASSERT_EQ(got.back(), 1234.0f);
          isa.decode_plain(type->info.dtype, plain_row, n, got.data());
          for (size_t k = 0; k < want.size(); ++k) ASSERT_TRUE(same(got[k], want[k])) << k;
          ASSERT_EQ(got.back(), 1234.0f);
        }
      }
    }
  }
}

TEST(CpuLayout, OneDimensionalAndIntegerWeightsStayPlain) {
  struct {
    mica_dtype dtype;
    std::vector<int64_t> dim;
  } const cases[] = {{MICA_F32, {37}}, {MICA_Q8_0, {64}}, {MICA_I32, {7, 3}}, {MICA_I64, {5, 2}}};
  for (const auto& c : cases) {
    const Weight w = make_weight(find_dtype(c.dtype), c.dim, 5);
    uint64_t bytes = 0;
    uint32_t granule = 0;
    ASSERT_EQ(weight_layout(w.value, &bytes, &granule), kLayoutPlain);
    EXPECT_EQ(granule, 1u);
    ASSERT_EQ(bytes, w.rows.size());
    std::vector<char> packed(bytes);
    weight_pack(w.value, packed.data(), w.rows.data(), 0, static_cast<uint64_t>(w.n_rows));
    EXPECT_EQ(std::memcmp(packed.data(), w.rows.data(), w.rows.size()), 0);
    std::vector<char> back(bytes);
    weight_unpack(w.value, packed.data(), back.data(), 0, static_cast<uint64_t>(w.n_rows));
    EXPECT_EQ(back, packed);
  }
}

TEST(CpuLayout, SizesThatDoNotFitAreSaid) {
  for (const std::vector<int64_t>& dim :
       {std::vector<int64_t>{1, INT64_MAX / 8}, std::vector<int64_t>{INT64_MAX / 8, 1},
        std::vector<int64_t>{4, INT64_MAX / 32, 2}}) {
    mica_b_value value = {};
    value.dtype = MICA_F32;
    value.rank = static_cast<uint32_t>(dim.size());
    for (size_t i = 0; i < 4; ++i) value.dim[i] = i < dim.size() ? dim[i] : 1;
    uint64_t bytes = 0;
    uint32_t granule = 0;
    weight_layout(value, &bytes, &granule);
    EXPECT_EQ(bytes, UINT64_MAX);
  }
}

}  // namespace
}  // namespace mica::cpu
