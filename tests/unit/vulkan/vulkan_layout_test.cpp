// Quantized weights in planes: packing and unpacking are inverse for any bytes, planes do not
// overlap, and the bits of a unit lie where quant/<type>.glsl reads them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/vulkan/device.h"
#include "backends/vulkan/layout.h"
#include "core/base/dtype.h"
#include "core/base/vec.h"
#include "mica/mica.h"

namespace mica::vulkan {
namespace {

constexpr mica_dtype kTypes[] = {MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1,
                                 MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};
constexpr uint8_t kGuard = 0xa5;

const mica_dtype_info& info_of(mica_dtype dtype) {
  return find_dtype(static_cast<uint32_t>(dtype))->info;
}

// Any bytes at all: infinite and NaN scales, every bit of every field.
std::vector<uint8_t> random_rows(mica_dtype dtype, int64_t n_elems, uint64_t n_rows) {
  std::vector<uint8_t> rows(row_bytes(info_of(dtype), static_cast<uint64_t>(n_elems)) * n_rows);
  std::mt19937 random(static_cast<unsigned>(n_elems + 7 * static_cast<int64_t>(n_rows)));
  for (uint8_t& b : rows) b = static_cast<uint8_t>(random());
  return rows;
}

template <class Byte>
void places_of_row(const Planes& planes, Byte* base, uint64_t row, Byte** places) {
  for (uint32_t i = 0; i < kPlanes; ++i)
    places[i] = base + planes.offset[i] + row * planes.row_bytes[i];
}

TEST(VulkanLayout, UnpackIsTheInverseOfPack) {
  for (const mica_dtype dtype : kTypes) {
    for (const int64_t blocks : {1, 2, 3, 18}) {
      for (const uint64_t n_rows : {uint64_t{1}, uint64_t{2}, uint64_t{33}}) {
        const int64_t n_elems = blocks * info_of(dtype).block_elems;
        SCOPED_TRACE(std::string(info_of(dtype).name) + " " + std::to_string(n_elems) + " x " +
                     std::to_string(n_rows));
        const std::vector<uint8_t> rows = random_rows(dtype, n_elems, n_rows);
        const uint64_t bytes = rows.size() / n_rows;
        Planes planes;
        ASSERT_TRUE(planes_of(dtype, n_elems, n_rows, planes));
        // Nothing but the padding of rows to 4 bytes and of planes to 16.
        EXPECT_GE(planes.bytes, rows.size());
        EXPECT_LE(planes.bytes, rows.size() + (2 * 3 * n_rows) + 3 * 15);
        std::vector<uint8_t> packed(planes.bytes + 64, kGuard);
        for (uint64_t r = n_rows; r-- > 0;) {  // in any order
          uint8_t* places[kPlanes];
          places_of_row(planes, packed.data(), r, places);
          pack_row(dtype, n_elems, rows.data() + r * bytes, places);
        }
        for (size_t i = 0; i < 64; ++i) ASSERT_EQ(packed[planes.bytes + i], kGuard);
        std::vector<uint8_t> back(rows.size() + 64, kGuard);
        for (uint64_t r = 0; r < n_rows; ++r) {
          const uint8_t* places[kPlanes];
          places_of_row<const uint8_t>(planes, packed.data(), r, places);
          unpack_row(dtype, n_elems, places, back.data() + r * bytes);
        }
        ASSERT_EQ(std::memcmp(back.data(), rows.data(), rows.size()), 0);
        for (size_t i = 0; i < 64; ++i) ASSERT_EQ(back[rows.size() + i], kGuard);
      }
    }
  }
}

uint32_t word_at(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
float half_at(const uint8_t* p) {
  float f;
  find_dtype(MICA_F16)->decode(p, &f, 1);
  return f;
}

// Element e of a row, read as quant/weight.glsl and quant/<type>.glsl do.
float decode_element(mica_dtype dtype, const uint8_t* const* p, uint32_t e) {
  const uint32_t u = e / 32, i = e % 32;
  if (dtype == MICA_Q8_0) {
    int8_t q;
    std::memcpy(&q, p[0] + e, 1);
    return half_at(p[1] + 2 * u) * static_cast<float>(q);
  }
  const uint32_t j = i / 4, byte = i % 4;
  uint32_t q = word_at(p[0] + 16 * u + j % 4 * 4) >> (8 * byte + (j < 4 ? 0 : 4)) & 15u;
  const bool five = dtype == MICA_Q5_0 || dtype == MICA_Q5_1 || dtype == MICA_Q5_K;
  if (five) q |= (word_at(p[2] + 4 * u) >> (8 * byte + j) & 1u) << 4;
  if (dtype == MICA_Q6_K)
    q |= (word_at(p[2] + 8 * u + j / 4 * 4) >> (8 * byte + 2 * (j % 4)) & 3u) << 4;
  const auto value = static_cast<float>(q);
  switch (dtype) {
    case MICA_Q4_0:
      return half_at(p[1] + 2 * u) * (value - 8);
    case MICA_Q5_0:
      return half_at(p[1] + 2 * u) * (value - 16);
    case MICA_Q4_1:
    case MICA_Q5_1:
      return half_at(p[1] + 4 * u) * value + half_at(p[1] + 4 * u + 2);
    case MICA_Q6_K: {
      int8_t scale;
      std::memcpy(&scale, p[1] + 2 * u + i / 16, 1);
      return half_at(p[3] + u / 8 * 2) * static_cast<float>(scale) * (value - 32);
    }
    default: {
      const uint8_t* s = p[1] + u / 8 * 16;
      const uint32_t low = s[4 + u % 8], high = word_at(s + 12) >> (4 * (u % 8));
      const uint32_t step = (low & 15u) | (high & 3u) << 4;
      const uint32_t shift = low >> 4 | (high & 12u) << 2;
      return half_at(s) * static_cast<float>(step) * value -
             half_at(s + 2) * static_cast<float>(shift);
    }
  }
}

TEST(VulkanLayout, ElementsLieWhereTheShadersReadThem) {
  for (const mica_dtype dtype : kTypes) {
    const int64_t n_elems = 3 * 256;
    SCOPED_TRACE(info_of(dtype).name);
    const std::vector<uint8_t> rows = random_rows(dtype, n_elems, 5);
    const uint64_t bytes = rows.size() / 5;
    Planes planes;
    ASSERT_TRUE(planes_of(dtype, n_elems, 5, planes));
    std::vector<uint8_t> packed(planes.bytes);
    for (uint64_t r = 0; r < 5; ++r) {
      uint8_t* places[kPlanes];
      places_of_row(planes, packed.data(), r, places);
      pack_row(dtype, n_elems, rows.data() + r * bytes, places);
      std::vector<float> want(static_cast<size_t>(n_elems));
      find_dtype(static_cast<uint32_t>(dtype))
          ->decode(rows.data() + r * bytes, want.data(), want.size());
      const uint8_t* from[kPlanes];
      places_of_row<const uint8_t>(planes, packed.data(), r, from);
      for (uint32_t e = 0; e < want.size(); ++e) {
        const float got = decode_element(dtype, from, e);
        if (got != got && want[e] != want[e]) continue;
        ASSERT_EQ(std::memcmp(&got, &want[e], 4), 0) << "row " << r << " element " << e;
      }
    }
  }
}

TEST(VulkanLayout, PlanesAreOfQuantizedTypesThatFit) {
  Planes planes;
  for (const mica_dtype dtype : {MICA_F32, MICA_F16, MICA_BF16, MICA_I32, MICA_I64})
    EXPECT_FALSE(planes_of(dtype, 64, 4, planes));
  EXPECT_FALSE(planes_of(MICA_Q8_0, 32, uint64_t{1} << 60, planes));
  EXPECT_FALSE(planes_of(MICA_Q8_0, int64_t{1} << 62, 4, planes));
  ASSERT_TRUE(planes_of(MICA_Q4_K, 16384, uint64_t{1} << 20, planes));  // more than 4 GiB
  EXPECT_EQ(planes.bytes, (uint64_t{1} << 20) * 16384 / 256 * 144);
}

// A weight on Mesa's llvmpipe, where it is installed.
class VulkanWeight : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = mica_backend_vulkan();
    if (backend_ == nullptr) GTEST_SKIP() << "this build has no Vulkan backend";
    host_.struct_size = sizeof host_;
    host_.allocator = &default_allocator();
    host_.log = [](void*, mica_log_level, const char*) {};
    host_.set_error = [](void*, mica_status, const char*) {};
    if (backend_->device_open(&host_, "llvmpipe", &device_) != MICA_OK)
      GTEST_SKIP() << "there is no llvmpipe here";
  }
  void TearDown() override {
    if (buffer_ != nullptr) backend_->buffer_free(buffer_);
    if (device_ != nullptr) backend_->device_close(device_);
  }
  void make(mica_dtype dtype, int64_t n_elems, int64_t n_rows) {
    if (buffer_ != nullptr) backend_->buffer_free(buffer_);
    buffer_ = nullptr;
    weight_ = {};
    weight_.dtype = dtype;
    weight_.rank = 3;
    weight_.dim[0] = n_elems;
    weight_.dim[1] = n_rows;
    weight_.dim[2] = 2;
    weight_.dim[3] = 1;
    uint32_t granule = 0;
    ASSERT_EQ(backend_->weight_layout(device_, &weight_, &weight_.layout, &weight_.bytes, &granule),
              MICA_OK);
    ASSERT_EQ(granule, 1u);
    weight_.offset = 64;
    ASSERT_EQ(backend_->buffer_create(device_, weight_.offset + weight_.bytes + 64, &buffer_),
              MICA_OK);
    const std::vector<uint8_t> guard(64 + weight_.bytes + 64, kGuard);
    ASSERT_EQ(backend_->buffer_write(buffer_, 0, guard.data(), guard.size()), MICA_OK);
  }
  void expect_guards() {
    uint8_t ends[128];
    ASSERT_EQ(backend_->buffer_read(buffer_, 0, ends, 64), MICA_OK);
    ASSERT_EQ(backend_->buffer_read(buffer_, 64 + weight_.bytes, ends + 64, 64), MICA_OK);
    for (const uint8_t byte : ends) ASSERT_EQ(byte, kGuard);
  }

  const mica_backend* backend_ = nullptr;
  mica_host host_ = {};
  mica_b_device* device_ = nullptr;
  mica_b_buffer* buffer_ = nullptr;
  mica_b_value weight_ = {};
};

TEST_F(VulkanWeight, ComesBackAsItWent) {
  for (const mica_dtype dtype : {MICA_F32, MICA_BF16, MICA_Q4_0, MICA_Q5_1, MICA_Q5_K, MICA_Q6_K}) {
    SCOPED_TRACE(info_of(dtype).name);
    const int64_t n_elems = info_of(dtype).block_elems * 3;
    make(dtype, n_elems, 7);
    const std::vector<uint8_t> rows = random_rows(dtype, n_elems, 14);
    const uint64_t row = rows.size() / 14;
    ASSERT_EQ(backend_->weight_pack(device_, &weight_, buffer_, rows.data() + 5 * row, 5, 9),
              MICA_OK);
    ASSERT_EQ(backend_->weight_pack(device_, &weight_, buffer_, rows.data(), 0, 5), MICA_OK);
    std::vector<uint8_t> back(rows.size());
    ASSERT_EQ(backend_->weight_unpack(device_, &weight_, buffer_, back.data(), 0, 3), MICA_OK);
    ASSERT_EQ(backend_->weight_unpack(device_, &weight_, buffer_, back.data() + 3 * row, 3, 11),
              MICA_OK);
    EXPECT_EQ(back, rows);
    expect_guards();
  }
}

// Another context on the same GPU unpacks without the device that packed, which its own thread may
// be using. Here that one refuses everything.
TEST_F(VulkanWeight, ComesBackThroughAnotherContext) {
  mica_b_device* other = nullptr;
  ASSERT_EQ(backend_->device_open(&host_, "llvmpipe", &other), MICA_OK);
  for (const mica_dtype dtype : {MICA_F32, MICA_Q4_0, MICA_Q6_K}) {
    SCOPED_TRACE(info_of(dtype).name);
    const int64_t n_elems = info_of(dtype).block_elems * 3;
    make(dtype, n_elems, 7);
    const std::vector<uint8_t> rows = random_rows(dtype, n_elems, 14);
    ASSERT_EQ(backend_->weight_pack(device_, &weight_, buffer_, rows.data(), 0, 14), MICA_OK);
    std::vector<uint8_t> back(rows.size());
    const uint64_t last_use = of(buffer_).last_use;
    of(device_).lost = true;
    EXPECT_EQ(backend_->weight_unpack(other, &weight_, buffer_, back.data(), 0, 14), MICA_OK);
    of(device_).lost = false;
    EXPECT_EQ(back, rows);
    EXPECT_EQ(of(buffer_).last_use, last_use);
  }
  backend_->device_close(other);
}

// Mean and standard deviation of all elements, in double.
void measure(mica_dtype dtype, const std::vector<uint8_t>& rows, double& mean, double& sd) {
  const size_t n = rows.size() / info_of(dtype).block_bytes * info_of(dtype).block_elems;
  std::vector<float> values(n);
  find_dtype(static_cast<uint32_t>(dtype))->decode(rows.data(), values.data(), n);
  double sum = 0, squares = 0;
  for (const float v : values) sum += static_cast<double>(v);
  mean = sum / static_cast<double>(n);
  for (const float v : values) squares += (v - mean) * (v - mean);
  sd = std::sqrt(squares / static_cast<double>(n));
}

TEST_F(VulkanWeight, RandomValuesHaveTheSizeWanted) {
  for (const mica_dtype dtype : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0,
                                 MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K}) {
    SCOPED_TRACE(info_of(dtype).name);
    constexpr int64_t kElems = 768, kRows = 33;
    make(dtype, kElems, kRows);
    const uint64_t row = row_bytes(info_of(dtype), kElems);
    std::vector<uint8_t> rows[3];
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(backend_->weight_random(device_, &weight_, buffer_, i == 2 ? 8 : 7), MICA_OK);
      rows[i].resize(row * 2 * kRows);
      ASSERT_EQ(backend_->weight_unpack(device_, &weight_, buffer_, rows[i].data(), 0, 2 * kRows),
                MICA_OK);
    }
    EXPECT_EQ(rows[0], rows[1]);
    EXPECT_NE(rows[0], rows[2]);
    double mean = 0, sd = 0;
    measure(dtype, rows[0], mean, sd);
    EXPECT_NEAR(mean, 0, 0.0025);
    EXPECT_NEAR(sd, 0.02, 0.001);
    expect_guards();
  }
}

}  // namespace
}  // namespace mica::vulkan
