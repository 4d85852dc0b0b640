// A block of 32 elements into a quantized page of a KV cache.
#pragma once
#include "backends/cuda/kernel.h"
#include "backends/cuda/kv.h"

namespace mica::cuda {

// `head`: the kv head's part of the page.
__device__ inline void put_kv_block(const KvPage& page, char* head, uint32_t cell, uint32_t block,
                                    const float (&x)[32]) {
  uint8_t bytes[36];
  encode_block32(page.dtype, x, bytes);
  kv_visit_block(page, cell, block, [&](uint32_t at, uint32_t in_block, uint32_t n) {
    uint8_t* to = reinterpret_cast<uint8_t*>(head) + at;
    for (uint32_t i = 0; i < n; ++i) to[i] = bytes[in_block + i];
  });
}

}  // namespace mica::cuda
