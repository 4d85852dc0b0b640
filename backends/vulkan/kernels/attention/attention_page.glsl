// Pages of the KV cache, as backends/vulkan/kv.h says.
#include "mica/kv_table.h"

struct Page {
  uint dtype;
  uint row_elems;  // of a stored row
  uint row_bytes;  // of quantized types: of quants
  uint n_blocks;   // of quantized types, else 0
  uint head_bytes;
};

bool has_fifths(uint dtype) { return dtype == MICA_Q5_0 || dtype == MICA_Q5_1; }
bool has_min(uint dtype) { return dtype == MICA_Q4_1 || dtype == MICA_Q5_1; }
// Are two quants a byte (and, of has_fifths(), their fifth bits elsewhere)?
bool has_nibbles(uint dtype) { return dtype == MICA_Q4_0 || has_fifths(dtype) || has_min(dtype); }
uint fifth_bytes(uint dtype) { return has_fifths(dtype) ? 4u : 0u; }
uint scale_bytes(uint dtype) { return has_min(dtype) ? 4u : 2u; }
// The quant that stands for 0 where there is no minimum.
int quant_centre(uint dtype) { return has_min(dtype) ? 0 : has_fifths(dtype) ? 16 : 8; }

Page page_of(uint dtype, uint head_dim) {
  Page p;
  p.dtype = dtype;
  if (dtype == MICA_Q8_0 || has_nibbles(dtype)) {
    p.n_blocks = (head_dim + 31u) / 32u;
    p.row_elems = p.n_blocks * 32u;
    p.row_bytes = p.n_blocks * (dtype == MICA_Q8_0 ? 32u : 16u);
    p.head_bytes =
        MICA_KV_PAGE_CELLS * (p.row_bytes + p.n_blocks * (fifth_bytes(dtype) + scale_bytes(dtype)));
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
uint fifths_at(Page p, uint cell, uint block) {
  return MICA_KV_PAGE_CELLS * p.row_bytes + (cell * p.n_blocks + block) * 4u;
}
uint scale_at(Page p, uint cell, uint block) {
  return MICA_KV_PAGE_CELLS * (p.row_bytes + p.n_blocks * fifth_bytes(p.dtype)) +
         (cell * p.n_blocks + block) * scale_bytes(p.dtype);
}
// F16 bits: the scale, and above it the minimum, if any.
uint load_scale(Page p, uint64_t head, uint cell, uint block) {
  const uint64_t at = head + scale_at(p, cell, block);
  return has_min(p.dtype) ? U32P(at).v[0] : uint(U16P(at).v[0]);
}

// Element i of a cell's row of the kv head at `head`.
float stored_element(Page p, uint64_t head, uint cell, uint i) {
  const uint64_t row = head + cell * p.row_bytes;
  if (p.n_blocks == 0u) return load_float(p.dtype, row, i);
  const uint scale = load_scale(p, head, cell, i / 32u);
  const float d = f16_value(scale & 0xffffu);
  if (p.dtype == MICA_Q8_0) return d * float(I8P(row).v[i]);
  const uint both = uint(U8P(row).v[i / 32u * 16u + i % 16u]);
  uint q = i % 32u < 16u ? both & 15u : both >> 4;
  if (has_fifths(p.dtype)) {
    q |= (U32P(head + fifths_at(p, cell, i / 32u)).v[0] >> (i % 32u) & 1u) << 4;
  }
  precise const float product = d * float(int(q) - quant_centre(p.dtype));
  if (!has_min(p.dtype)) return product;
  precise const float y = product + f16_value(scale >> 16);
  return y;
}
