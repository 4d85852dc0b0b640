// How weights lie in device memory: plain rows, or planes. Quantized weights of two or more
// dimensions are split into planes, each with all rows in order: quants in units of 32 elements
// (q), scales (s), the bits of a quant beyond 4 (h), scales of scales (d). No bit is added or
// dropped but for padding, so rows can be given back as they came; quant/<type>.glsl reads them.
#pragma once
#include "mica/backend.h"

namespace mica::vulkan {

constexpr uint32_t kLayoutPlain = 0;  // as files have it
constexpr uint32_t kLayoutPlanes = 1;

constexpr uint32_t kPlanes = 4;  // q, s, h, d
struct Planes {
  uint64_t offset[kPlanes];     // from the weight's place; multiples of 16
  uint64_t row_bytes[kPlanes];  // 0: the type has no such plane
  uint32_t block_bytes[kPlanes];
  uint64_t bytes;  // of all
};

// False: not a type that has planes, or too large for 63 bits.
bool planes_of(mica_dtype dtype, int64_t n_elems, uint64_t n_rows, Planes& out);
// One row of n_elems to its places in the planes, and back. What pads a row there is left alone.
void pack_row(mica_dtype dtype, int64_t n_elems, const uint8_t* row, uint8_t* const* places);
void unpack_row(mica_dtype dtype, int64_t n_elems, const uint8_t* const* places, uint8_t* row);

// The backend table's functions of the same names.
mica_status weight_layout(mica_b_device* device, const mica_b_value* weight, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows);
mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n);
mica_status weight_unpack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          void* rows, uint64_t first, uint64_t n);
mica_status weight_random(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          uint64_t seed);

}  // namespace mica::vulkan
