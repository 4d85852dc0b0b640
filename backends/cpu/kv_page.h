// KV pages seen by the backend: how large they are, and single cells in and out of them.
#pragma once
#include "mica/backend.h"

namespace mica::cpu {

constexpr uint32_t kPageCellCount = 64;

// The backend's kv_layout. UNSUPPORTED: a dtype that pages cannot hold.
mica_status kv_layout(mica_b_device* device, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes);

// Bytes of a cell's plain row: head_dim elements, quantized ones padded to whole blocks; 0 when the
// dtype cannot be kept.
uint64_t kv_row_bytes(const mica_b_kv_desc& desc);
// Between a page and the plain row of one kv head's cell, bit by bit. `cell` is in [0, 64).
void kv_pack_cell(const mica_b_kv_desc& desc, void* page, uint32_t i_kv_head, uint32_t cell,
                  const void* row);
void kv_unpack_cell(const mica_b_kv_desc& desc, const void* page, uint32_t i_kv_head, uint32_t cell,
                    void* row);

}  // namespace mica::cpu
