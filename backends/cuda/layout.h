// How weights lie on the device: entries of mica_backend (mica/backend.h says what each does).
#pragma once
#include "backends/cuda/device.h"

namespace mica::cuda {

mica_status weight_layout(mica_b_device* device, const mica_b_value* weight, uint32_t* out_layout,
                          uint64_t* out_bytes, uint32_t* out_granule_rows);
mica_status weight_pack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                        const void* rows, uint64_t first, uint64_t n);
mica_status weight_unpack(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          void* rows, uint64_t first, uint64_t n);
mica_status weight_random(mica_b_device* device, const mica_b_value* weight, mica_b_buffer* buffer,
                          uint64_t seed);

}  // namespace mica::cuda
