// How K and V pages lie in device memory, the same for both: a page is n_kv_heads parts of
// head_bytes, each 64 rows in the order of the cells.
//   F32 F16 BF16  [64][head_dim rounded up to 8] elements
//   blocks of 32  [64][n_blocks][32 or 16] quants as in the blocks of ops/dtypes; of Q5_0 and Q5_1
//                 [64][n_blocks] words of fifth bits; [64][n_blocks] scales in F16, of Q4_1 and
//                 Q5_1 each with its minimum behind it; n_blocks = head_dim / 32, rounded up
// So every row of elements or quants starts at a multiple of 16 bytes.
// kernels/attention/attention_page.glsl says the same in GLSL.
#pragma once
#include "mica/backend.h"

namespace mica::vulkan {

constexpr uint32_t kLayoutKvPage = 0x100;  // what kv_layout answers
constexpr uint32_t kPageCells = 64;
constexpr const char* kPageTypes =
    "K and V pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";

struct KvPage {
  uint32_t elem_bytes;   // F32 F16 BF16; else 0
  uint32_t quant_bytes;  // of a block's quants without fifth bits; else 0
  uint32_t fifth_bytes;  // of its fifth bits; 0: has none
  uint32_t scale_bytes;  // of its scale and minimum
  uint32_t n_blocks;     // quantized types; else 0
  uint32_t row_elems;    // elements of a stored row
  uint64_t row_bytes;    // of a stored row, of quantized types its quants
  uint64_t plain_bytes;  // of a plain row, whole blocks
  uint64_t head_bytes;
  uint64_t page_bytes;
};

// False when the type cannot be kept in pages, or a size is beyond 2^20.
bool kv_page(mica_dtype dtype, int64_t head_dim, int64_t n_kv_heads, KvPage& out);

// The backend table's functions of the same names.
mica_status kv_layout(mica_b_device* device, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes);
mica_status kv_pack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                    uint64_t offset, const void* rows);
mica_status kv_unpack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                      uint64_t offset, void* rows);

}  // namespace mica::vulkan
