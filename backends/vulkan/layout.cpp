// Weights to and from device memory: rows are split into planes on the host, a few at a time.
#include "backends/vulkan/layout.h"

#include <cstring>

#include "backends/vulkan/device.h"
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/one_time.h"
#include "core/base/checked.h"
#include "core/base/dtype.h"
#include "core/base/vec.h"

MICA_VULKAN_SHADER(weight_random)

namespace mica::vulkan {
namespace {

constexpr uint64_t kStagingBytes = uint64_t{4} << 20;

struct Shape {
  int64_t n_elems;  // of a row
  uint64_t n_rows;
  uint64_t row_bytes;  // plain
};

bool shape_of(const mica_b_value& w, Shape& s) {
  const DtypeDef* type = find_dtype(static_cast<uint32_t>(w.dtype));
  if (type == nullptr) return false;
  int64_t n_rows = 1, bytes = 0;
  for (uint32_t i = 1; i < w.rank; ++i)
    if (!checked_mul(n_rows, w.dim[i], n_rows)) return false;
  s.n_elems = w.dim[0];
  s.n_rows = static_cast<uint64_t>(n_rows);
  const int64_t n_blocks = w.dim[0] / type->info.block_elems;
  if (!checked_mul(n_blocks, static_cast<int64_t>(type->info.block_bytes), bytes)) return false;
  s.row_bytes = static_cast<uint64_t>(bytes);
  return checked_mul(bytes, n_rows, bytes);
}

bool has_planes(const mica_b_value& w, const Shape& s, Planes& planes) {
  return w.rank >= 2 && planes_of(w.dtype, s.n_elems, s.n_rows, planes);
}

mica_status too_large(Device& device) {
  Error error;
  error.fail(MICA_INVALID_ARGUMENT, "a weight's size does not fit in 63 bits");
  return device.fail(error);
}

// Planes of a few rows in host memory.
class Staging {
 public:
  Staging(Device& device, const Planes& planes, uint64_t n_rows)
      : device_(device), planes_(planes), bytes_(device.allocator) {
    uint64_t row = 0;
    for (const uint64_t b : planes.row_bytes) row += b;
    rows_ = row == 0 || kStagingBytes / row == 0 ? 1 : kStagingBytes / row;
    if (rows_ > n_rows) rows_ = n_rows;
    if (!bytes_.resize(static_cast<size_t>(row * rows_))) rows_ = 0;
  }
  uint64_t rows() const { return rows_; }  // 0: out of memory
  mica_status out_of_memory() const {
    Error error;
    error.out_of_memory("staging of weights");
    return device_.fail(error);
  }
  uint8_t* plane(uint32_t i) {
    uint64_t at = 0;
    for (uint32_t j = 0; j < i; ++j) at += planes_.row_bytes[j] * rows_;
    return bytes_.data() + at;
  }
  void row(uint64_t i_row, uint8_t** places) {
    for (uint32_t i = 0; i < kPlanes; ++i) places[i] = plane(i) + i_row * planes_.row_bytes[i];
  }

 private:
  Device& device_;
  const Planes& planes_;
  Vec<uint8_t> bytes_;
  uint64_t rows_ = 0;
};

}  // namespace

mica_status weight_layout(mica_b_device*, const mica_b_value* weight, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows) {
  *out_layout = kLayoutPlain;
  *out_bytes = UINT64_MAX;
  *out_granule_rows = 1;
  Shape s;
  if (!shape_of(*weight, s)) return MICA_OK;
  Planes planes;
  *out_bytes = s.row_bytes * s.n_rows;
  if (!has_planes(*weight, s, planes)) return MICA_OK;
  *out_layout = kLayoutPlanes;
  *out_bytes = planes.bytes;
  return MICA_OK;
}

mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n) {
  Shape s;
  if (!shape_of(*weight, s)) return too_large(of(device));
  Planes planes;
  if (!has_planes(*weight, s, planes))
    return buffer_write(buffer, weight->offset + first * s.row_bytes, rows, n * s.row_bytes);
  Staging staging(of(device), planes, n);
  if (n > 0 && staging.rows() == 0) return staging.out_of_memory();
  const uint8_t* in = static_cast<const uint8_t*>(rows);
  for (uint64_t done = 0; done < n; done += staging.rows()) {
    const uint64_t count = n - done < staging.rows() ? n - done : staging.rows();
    for (uint64_t r = 0; r < count; ++r) {
      uint8_t* places[kPlanes];
      staging.row(r, places);
      pack_row(weight->dtype, s.n_elems, in + (done + r) * s.row_bytes, places);
    }
    for (uint32_t i = 0; i < kPlanes; ++i) {
      const uint64_t row = planes.row_bytes[i];
      if (row == 0) continue;
      MICA_TRY(buffer_write(buffer, weight->offset + planes.offset[i] + (first + done) * row,
                            staging.plane(i), count * row));
    }
  }
  return MICA_OK;
}

mica_status weight_unpack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          void* rows, uint64_t first, uint64_t n) {
  Shape s;
  if (!shape_of(*weight, s)) return too_large(of(device));
  Planes planes;
  if (!has_planes(*weight, s, planes))
    return read_through(of(device), of(buffer), weight->offset + first * s.row_bytes, rows,
                        n * s.row_bytes);
  Staging staging(of(device), planes, n);
  if (n > 0 && staging.rows() == 0) return staging.out_of_memory();
  uint8_t* out = static_cast<uint8_t*>(rows);
  for (uint64_t done = 0; done < n; done += staging.rows()) {
    const uint64_t count = n - done < staging.rows() ? n - done : staging.rows();
    for (uint32_t i = 0; i < kPlanes; ++i) {
      const uint64_t row = planes.row_bytes[i];
      if (row == 0) continue;
      MICA_TRY(read_through(of(device), of(buffer),
                            weight->offset + planes.offset[i] + (first + done) * row,
                            staging.plane(i), count * row));
    }
    for (uint64_t r = 0; r < count; ++r) {
      uint8_t* places[kPlanes];
      staging.row(r, places);
      unpack_row(weight->dtype, s.n_elems, places, out + (done + r) * s.row_bytes);
    }
  }
  return MICA_OK;
}

// --- Random weights -----------------------------------------------------------------------------

namespace {

// What weight_random.comp makes of random bits.
enum RandomKind : uint32_t { kBits, kF32, kF16, kBf16, kScales, kScalePairs, kKScales, kSmallInts };
struct RandomPlane {
  RandomKind kind;
  float size, ratio;
};
struct RandomType {
  mica_dtype dtype;
  RandomPlane plane[kPlanes];
};

// All quants are equally probable, so their standard deviation is 2^bits / sqrt(12), scales of
// scales are 23.5 on average (q6_k: 12.4, of either sign); the products have 0.02. Minima put the
// middle at zero.
constexpr RandomPlane kNone = {kBits, 0, 0};
constexpr RandomPlane kAny = {kBits, 0, 0};
constexpr RandomType kRandomTypes[] = {
    {MICA_F32, {{kF32, 0.03464f, 0}, kNone, kNone, kNone}},
    {MICA_F16, {{kF16, 0.03464f, 0}, kNone, kNone, kNone}},
    {MICA_BF16, {{kBf16, 0.03464f, 0}, kNone, kNone, kNone}},
    {MICA_Q4_0, {kAny, {kScales, 4.33e-3f, 0}, kNone, kNone}},
    {MICA_Q4_1, {kAny, {kScalePairs, 4.33e-3f, -7.5f}, kNone, kNone}},
    {MICA_Q5_0, {kAny, {kScales, 2.17e-3f, 0}, kAny, kNone}},
    {MICA_Q5_1, {kAny, {kScalePairs, 2.17e-3f, -15.5f}, kAny, kNone}},
    {MICA_Q8_0, {kAny, {kScales, 2.71e-4f, 0}, kNone, kNone}},
    {MICA_Q4_K, {kAny, {kKScales, 1.84e-4f, 7.5f}, kNone, kNone}},
    {MICA_Q5_K, {kAny, {kKScales, 9.22e-5f, 15.5f}, kAny, kNone}},
    {MICA_Q6_K, {kAny, {kSmallInts, 0, 0}, kAny, {kScales, 8.72e-5f, 0}}},
};

struct RandomPush {
  uint64_t address, bytes;
  uint32_t seed[2];
  uint32_t plane;
  float size, ratio;
};

mica_status record_random(Recorder& recorder, const RandomPlane& plane, uint32_t i_plane,
                          uint64_t address, uint64_t bytes, uint64_t seed) {
  constexpr uint32_t kThreads = 256;
  RandomPush push{};
  push.address = address;
  push.bytes = bytes;
  push.seed[0] = static_cast<uint32_t>(seed);
  push.seed[1] = static_cast<uint32_t>(seed >> 32);
  push.plane = i_plane;
  push.size = plane.size;
  push.ratio = plane.ratio;
  return launch(recorder, shader_weight_random, {kThreads, 1, 1, plane.kind}, push,
                folded_threads((bytes + 15) / 16, kThreads));
}

mica_status record_planes(Recorder& recorder, const mica_b_value& weight, const RandomType& type,
                          uint64_t address, uint64_t seed) {
  Shape s;
  if (!shape_of(weight, s)) return MICA_INVALID_ARGUMENT;
  Planes planes;
  if (!has_planes(weight, s, planes))
    return record_random(recorder, type.plane[0], 0, address, s.row_bytes * s.n_rows, seed);
  for (uint32_t i = 0; i < kPlanes; ++i) {
    const uint64_t bytes = planes.row_bytes[i] * s.n_rows;
    if (bytes > 0)
      MICA_TRY(record_random(recorder, type.plane[i], i, address + planes.offset[i], bytes, seed));
  }
  return MICA_OK;
}

}  // namespace

mica_status weight_random(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          uint64_t seed) {
  const RandomType* type = nullptr;
  for (const RandomType& t : kRandomTypes)
    if (t.dtype == weight->dtype) type = &t;
  const bool quantized =
      type != nullptr && find_dtype(static_cast<uint32_t>(type->dtype))->info.is_quantized != 0;
  OneTime once(of(device));
  if (type == nullptr || (quantized && weight->rank < 2)) {
    once.error().fail(MICA_UNSUPPORTED, "vulkan: no random weights of this type and rank");
    return of(device).fail(once.error());
  }
  mica_status status = once.begin();
  if (status == MICA_OK)
    status =
        record_planes(once.recorder(), *weight, *type, of(buffer).address + weight->offset, seed);
  if (status == MICA_OK) status = once.run();
  return status == MICA_OK ? status : of(device).fail(once.error());
}

}  // namespace mica::vulkan
