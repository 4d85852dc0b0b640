#version 460
#extension GL_GOOGLE_include_directive : require
// kv_append: a thread encodes 32 elements (quantized types) or 8 of a row and stores them in their
// cell. Elements that pad a row are zeros.
#include "kernels/common/base.glsl"
#include "kernels/blocks.glsl"
#include "kernels/attention/attention_page.glsl"
#include "kernels/attention/attention_store.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t state, rows, slots, live;
  uint64_t s_head, s_token;  // bytes
  uint n_tokens, n_kv_heads, head_dim, n_cells;
  uint dtype, row_dtype;
}
push;

float element(uint64_t row, uint i) {
  return i < push.head_dim ? load_float(push.row_dtype, row, i) : 0.0;
}

// A NaN becomes quiet, as one that is converted does.
uint quiet_bits(uint bits) {
  return bits | ((bits & 0x7fffffffu) > 0x7f800000u ? 0x00400000u : 0u);
}

void store_plain(Page p, uint64_t row, uint first, uint64_t to) {
  uint bits[8];
  for (uint i = 0u; i < 8u; ++i) {
    const float x = element(row, first + i);
    bits[i] = push.dtype == MICA_F32   ? quiet_bits(floatBitsToUint(x))
              : push.dtype == MICA_F16 ? f16_bits(x)
                                       : bf16_bits(x);
  }
  if (push.dtype == MICA_F32) {
    U32x4P(to).v[0] = uvec4(bits[0], bits[1], bits[2], bits[3]);
    U32x4P(to).v[1] = uvec4(bits[4], bits[5], bits[6], bits[7]);
  } else {
    U32x4P(to).v[0] = uvec4(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16,
                            bits[4] | bits[5] << 16, bits[6] | bits[7] << 16);
  }
}

void store_quantized(Page p, uint64_t row, uint block, uint64_t head, uint cell) {
  float x[32];
  for (uint i = 0u; i < 32u; ++i) x[i] = element(row, block * 32u + i);
  store_page_block(p, head, cell, block, x);
}

void main() {
  const Page p = page_of(push.dtype, push.head_dim);
  const uint per_row = p.n_blocks != 0u ? p.n_blocks : p.row_elems / 8u;
  const uint64_t thread = folded_thread();
  const uint per_token = per_row * push.n_kv_heads;
  if (thread >= uint64_t(live_count(push.live, push.n_tokens)) * per_token) return;
  const uint token = uint(thread / per_token);
  const uint in_token = uint(thread - uint64_t(token) * per_token);
  const uint i_head = in_token / per_row;
  const uint piece = in_token % per_row;
  const int slot = I32P(push.slots).v[token];
  if (slot < 0 || uint(slot) >= push.n_cells) return;
  const uint64_t row = push.rows + token * push.s_token + i_head * push.s_head;
  const uint64_t head =
      head_at(p, push.state, uint(slot) / MICA_KV_PAGE_CELLS, push.n_kv_heads, i_head);
  const uint cell = uint(slot) % MICA_KV_PAGE_CELLS;
  if (p.n_blocks != 0u) {
    store_quantized(p, row, piece, head, cell);
  } else {
    const uint row_unit = push.dtype == MICA_F32 ? 32u : 16u;  // bytes of 8 elements
    store_plain(p, row, piece * 8u, head + cell * p.row_bytes + piece * row_unit);
  }
}
