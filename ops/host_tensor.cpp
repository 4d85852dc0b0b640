// Element access for references: any dtype, any strides, one rounding.
#include <cmath>
#include <cstring>

#include "core/graph/op.h"
#include "ops/dtypes/half.h"

namespace mica {
namespace {

// Elements decoded or encoded at a time: a whole number of blocks of every type.
constexpr int64_t kChunk = 256;

template <class T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class T>
void store(char* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

double load_plain(mica_dtype dtype, const char* p) {
  switch (dtype) {
    case MICA_F32:
      return load<float>(p);
    case MICA_F16:
      return f16_to_f32(load<uint16_t>(p));
    case MICA_BF16:
      return bf16_to_f32(load<uint16_t>(p));
    case MICA_I32:
      return load<int32_t>(p);
    case MICA_I64:
      return static_cast<double>(load<int64_t>(p));
    default:
      return 0;
  }
}

// To odd: the nearest float towards zero, its last bit set when that is not exact. Rounding it
// again to a type of two bits less or more gives what rounding the double once would.
float to_odd(double value) {
  const float f = static_cast<float>(value);
  if (std::isnan(value) || std::isinf(f) || static_cast<double>(f) == value) return f;
  const uint32_t bits = float_bits(f);
  const bool away = std::fabs(static_cast<double>(f)) > std::fabs(value);
  return bits_float((away ? bits - 1 : bits) | 1u);
}

int64_t to_int(double value, int64_t low, int64_t high) {
  if (std::isnan(value)) return 0;
  const double rounded = std::nearbyint(value);
  if (rounded <= static_cast<double>(low)) return low;
  if (rounded >= static_cast<double>(high)) return high;
  return static_cast<int64_t>(rounded);
}

void store_plain(mica_dtype dtype, double value, char* p) {
  switch (dtype) {
    case MICA_F32:
      return store(p, static_cast<float>(value));
    case MICA_F16:
      return store(p, f32_to_f16(to_odd(value)));
    case MICA_BF16:
      return store(p, f32_to_bf16(to_odd(value)));
    case MICA_I32:
      return store(p, static_cast<int32_t>(to_int(value, INT32_MIN, INT32_MAX)));
    case MICA_I64:
      return store(p, to_int(value, INT64_MIN, INT64_MAX));
    default:
      return;
  }
}

}  // namespace

double HostTensor::at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
  const DtypeDef& def = *find_dtype(static_cast<uint32_t>(dtype));
  const char* p = row(i1, i2, i3);
  if (def.info.is_quantized == 0) return load_plain(dtype, p + i0 * stride[0]);
  float block[kChunk];
  const int64_t n = def.info.block_elems;
  def.decode(p + i0 / n * stride[0], block, static_cast<size_t>(n));
  return block[i0 % n];
}

int64_t HostTensor::int_at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
  const char* p = row(i1, i2, i3) + i0 * stride[0];
  return dtype == MICA_I64 ? load<int64_t>(p) : load<int32_t>(p);
}

void HostTensor::read_row(double* dst, int64_t i1, int64_t i2, int64_t i3) const {
  const DtypeDef& def = *find_dtype(static_cast<uint32_t>(dtype));
  const char* p = row(i1, i2, i3);
  const int64_t n_block = def.info.block_elems;
  const bool adjacent = stride[0] == def.info.block_bytes;
  // Decoding goes through F32, which does not hold every integer.
  if (def.info.is_quantized == 0 && (!adjacent || dtype == MICA_I32 || dtype == MICA_I64)) {
    for (int64_t i = 0; i < dim[0]; ++i) dst[i] = load_plain(dtype, p + i * stride[0]);
    return;
  }
  float values[kChunk];
  const int64_t step = adjacent ? kChunk : n_block;
  for (int64_t first = 0; first < dim[0]; first += step) {
    const int64_t n = dim[0] - first < step ? dim[0] - first : step;
    def.decode(p + first / n_block * stride[0], values, static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) dst[first + i] = values[i];
  }
}

void HostTensor::set(double value, int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
  store_plain(dtype, value, const_cast<char*>(row(i1, i2, i3)) + i0 * stride[0]);
}

void HostTensor::write_row(const double* src, int64_t i1, int64_t i2, int64_t i3) const {
  const DtypeDef& def = *find_dtype(static_cast<uint32_t>(dtype));
  char* p = const_cast<char*>(row(i1, i2, i3));
  if (def.info.is_quantized == 0) {
    for (int64_t i = 0; i < dim[0]; ++i) store_plain(dtype, src[i], p + i * stride[0]);
    return;
  }
  float block[kChunk];
  const int64_t n = def.info.block_elems;
  for (int64_t first = 0; first < dim[0]; first += n) {
    for (int64_t i = 0; i < n; ++i) block[i] = static_cast<float>(src[first + i]);
    def.encode(block, p + first / n * stride[0], static_cast<size_t>(n));
  }
}

}  // namespace mica
