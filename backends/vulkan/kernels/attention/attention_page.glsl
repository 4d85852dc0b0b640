// Pages of the KV cache, as backends/vulkan/kv.h says.
#include "mica/kv_table.h"

struct Page {
  uint dtype;
  uint row_elems;  // of a stored row
  uint row_bytes;  // without scales
  uint n_blocks;   // of quantized types, else 0
  uint head_bytes;
};

Page page_of(uint dtype, uint head_dim) {
  Page p;
  p.dtype = dtype;
  if (dtype == MICA_Q8_0 || dtype == MICA_Q4_0) {
    p.n_blocks = (head_dim + 31u) / 32u;
    p.row_elems = p.n_blocks * 32u;
    p.row_bytes = p.n_blocks * (dtype == MICA_Q8_0 ? 32u : 16u);
    p.head_bytes = MICA_KV_PAGE_CELLS * (p.row_bytes + p.n_blocks * 2u);
  } else {
    p.n_blocks = 0u;
    p.row_elems = (head_dim + 7u) / 8u * 8u;
    p.row_bytes = p.row_elems * (dtype == MICA_F32 ? 4u : 2u);
    p.head_bytes = MICA_KV_PAGE_CELLS * p.row_bytes;
  }
  return p;
}

// Of a kv head's part of page `i_page`.
uint64_t head_at(Page p, uint64_t state, uint i_page, uint n_kv_heads, uint i_kv_head) {
  return state + (uint64_t(i_page) * n_kv_heads + i_kv_head) * p.head_bytes;
}
uint scale_at(Page p, uint cell, uint block) {
  return MICA_KV_PAGE_CELLS * p.row_bytes + (cell * p.n_blocks + block) * 2u;
}

// Element i of a cell's row of the kv head at `head`.
float stored_element(Page p, uint64_t head, uint cell, uint i) {
  const uint64_t row = head + cell * p.row_bytes;
  if (p.n_blocks == 0u) return load_float(p.dtype, row, i);
  const float d = f16_value(uint(U16P(head + scale_at(p, cell, i / 32u)).v[0]));
  if (p.dtype == MICA_Q8_0) return d * float(I8P(row).v[i]);
  const uint both = uint(U8P(row).v[i / 32u * 16u + i % 16u]);
  return d * float(int(i % 32u < 16u ? both & 15u : both >> 4) - 8);
}
