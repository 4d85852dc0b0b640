// Weights on the device: quantized ones packed (quant/packed.h), the others as in GGUF files.
#include "backends/cuda/layout.h"

#include "backends/cuda/quant/weight_type.h"
#include "core/base/dtype.h"

namespace mica::cuda {
namespace {

// A weight's sizes. False: they do not fit in 63 bits, or the type is unknown.
struct Shape {
  const WeightType* type = nullptr;
  int64_t k = 0, n = 0, slices = 0;
  uint64_t row_bytes = 0;  // plain
  Packed layout = {};
  bool packed = false;
};

bool shape_of(const mica_b_value& w, Shape& s) {
  s.type = find_weight_type(w.dtype);
  const mica_dtype_info* info = mica_dtype_get(w.dtype);
  if (s.type == nullptr || info == nullptr) return false;
  s.k = w.dim[0], s.n = w.dim[1];
  if (!checked_mul(w.dim[2], w.dim[3], s.slices)) return false;
  s.row_bytes = row_bytes(*info, static_cast<uint64_t>(s.k));
  s.packed = s.type->parts.units != 0;
  return !s.packed || packed_of(s.type->parts, s.k, s.n, s.slices, s.layout);
}

mica_status invalid(const mica_b_device& device) {
  Error error;
  error.fail(MICA_INVALID_ARGUMENT, "the weight does not fit in 63 bits");
  return device.fail(error);
}

PackArgs pack_args(const Shape& s, uint64_t weight, uint64_t rows, uint64_t first, uint64_t n) {
  return {static_cast<uint8_t*>(pointer(weight)),
          static_cast<uint8_t*>(pointer(rows)),
          s.layout,
          s.k,
          s.n,
          static_cast<int64_t>(first),
          static_cast<int64_t>(n)};
}

// What comes of launches into `r` that answered `status`.
mica_status launched(Device& device, const Recorder& r, mica_status status, const char* doing) {
  MICA_TRY(check(device, r.error, doing));
  if (status == MICA_OK) return MICA_OK;
  Error error;
  error.fail(status, "CUDA failed to ", doing);
  return device.fail(error);
}

}  // namespace

mica_status weight_layout(mica_b_device* device, const mica_b_value* weight, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows) {
  *out_granule_rows = 1;
  Shape s;
  if (!shape_of(*weight, s)) return invalid(*device);
  *out_layout = s.packed ? kLayoutRows8 : kLayoutPlain;
  int64_t bytes = 0;
  if (s.packed) {
    *out_bytes = s.layout.bytes;
  } else if (checked_mul(static_cast<int64_t>(s.row_bytes), s.n, bytes) &&
             checked_mul(bytes, s.slices, bytes)) {
    *out_bytes = static_cast<uint64_t>(bytes);
  } else {
    return invalid(*device);
  }
  return MICA_OK;
}

mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n) {
  MICA_TRY(enter(*device));
  Shape s;
  if (!shape_of(*weight, s)) return invalid(*device);
  const uint64_t at = buffer->address + weight->offset;
  if (!s.packed) return upload(*device, at + first * s.row_bytes, rows, n * s.row_bytes);
  uint64_t staging = 0;
  MICA_TRY(scratch(*device, n * s.row_bytes, &staging));
  MICA_TRY(upload(*device, staging, rows, n * s.row_bytes));
  MICA_TRY(flush(*device));
  Recorder r = direct(*device);
  const mica_status status = s.type->pack(r, pack_args(s, at, staging, first, n));
  return launched(*device, r, status, "pack a weight");
}

mica_status weight_unpack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          void* rows, uint64_t first, uint64_t n) {
  MICA_TRY(enter(*device));
  Shape s;
  if (!shape_of(*weight, s)) return invalid(*device);
  // What another context on this device wrote must be there. Any thread may wait for its stream.
  if (buffer->device != device)
    MICA_TRY(
        check(*device, device->driver->stream_synchronize(buffer->device->stream), "load weights"));
  const uint64_t at = buffer->address + weight->offset;
  if (!s.packed) return download(*device, rows, at + first * s.row_bytes, n * s.row_bytes);
  uint64_t staging = 0;
  MICA_TRY(scratch(*device, n * s.row_bytes, &staging));
  MICA_TRY(flush(*device));
  Recorder r = direct(*device);
  const mica_status status = s.type->unpack(r, pack_args(s, at, staging, first, n));
  MICA_TRY(launched(*device, r, status, "unpack a weight"));
  return download(*device, rows, staging, n * s.row_bytes);
}

mica_status weight_random(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          uint64_t seed) {
  MICA_TRY(enter(*device));
  Shape s;
  if (!shape_of(*weight, s)) return invalid(*device);
  MICA_TRY(flush(*device));
  Recorder r = direct(*device);
  const int64_t n_rows = s.n * s.slices;
  const RandomArgs args = {static_cast<uint8_t*>(pointer(buffer->address + weight->offset)),
                           s.layout,
                           s.k,
                           s.n,
                           s.packed ? n_rows : n_rows * s.k,
                           seed};
  return launched(*device, r, s.type->random(r, args), "fill a weight");
}

}  // namespace mica::cuda
