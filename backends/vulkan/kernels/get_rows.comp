// get_rows: y[i] = table[ids[i]], decoded to F32; zeros where the id is outside the table. One
// invocation decodes 8 elements of packed weights, 4 of plain tables.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant plain
//! variant q4_0 -DW_TYPE=2
//! variant q4_1 -DW_TYPE=3
//! variant q5_0 -DW_TYPE=6
//! variant q5_1 -DW_TYPE=7
//! variant q8_0 -DW_TYPE=8
//! variant q4_k -DW_TYPE=12
//! variant q5_k -DW_TYPE=13
//! variant q6_k -DW_TYPE=14
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/common/load4.glsl"
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"
#if !defined(W_BITS)
#include "kernels/blocks.glsl"
#endif

layout(constant_id = 3) const uint TABLE_TYPE = 0;  // of variant plain
layout(constant_id = 4) const uint WIDE = 0;        // of variant plain: load4's

layout(push_constant, scalar) uniform Push {
  uint64_t table[4];  // planes; of variant plain: address and bytes from row to row
  uint64_t ids;
  uint64_t y;
  uint64_t live;        // of ids
  uint64_t live_table;  // rows of the table
  uint n, n_rows, n_ids;
  uint n_items;  // of a row
}
p;

void store4(uint64_t row, uint e, vec4 v) {
  if (p.n % 4u == 0u) {
    if (e < p.n) F32x4P(row).v[e >> 2] = v;
    return;
  }
  [[unroll]] for (uint i = 0; i < 4u; ++i) if (e + i < p.n) F32P(row).v[e + i] = v[i];
}

#if !defined(W_BITS)
vec4 plain4(uint64_t row, uint e) {
  if (TABLE_TYPE == MICA_F32 || TABLE_TYPE == MICA_F16 || TABLE_TYPE == MICA_BF16)
    return load4(TABLE_TYPE, row, e, p.n, WIDE != 0);
  vec4 v = vec4(0);
  const uint elems = block_elems(TABLE_TYPE);
  for (uint i = 0; i < 4u && e + i < p.n; ++i) {
    if (TABLE_TYPE == MICA_I32)
      v[i] = float(I32P(row).v[e + i]);
    else if (TABLE_TYPE == MICA_I64)
      v[i] = float(I64P(row).v[e + i]);
    else
      v[i] = decode_element(TABLE_TYPE, row + (e + i) / elems * block_bytes(TABLE_TYPE),
                            (e + i) % elems);
  }
  return v;
}
#endif

void main() {
  const uint64_t item = folded_thread();
  const uint64_t i_row = item / p.n_items;
  const uint i = uint(item % p.n_items);
  if (i_row >= live_count(p.live, p.n_ids)) return;
  const int id = I32P(p.ids).v[uint(i_row)];
  const bool inside = id >= 0 && uint(id) < live_count(p.live_table, p.n_rows);
  const uint64_t y = p.y + i_row * (4u * uint64_t(p.n));
#if defined(W_BITS)
  vec4 lo = vec4(0);
  vec4 hi = vec4(0);
  if (inside) {
    const Row row = packed_row(p.table, uint64_t(id), p.n / 32u);
    part_values(load_part(row, i / 4u, i % 4u), i / 4u, lo, hi);
  }
  const uint e = i / 4u * 32u + i % 4u * 4u;
  store4(y, e, lo);
  store4(y, e + 16u, hi);
#else
  store4(y, 4u * i, inside ? plain4(p.table[0] + id * p.table[1], 4u * i) : vec4(0));
#endif
}
