// Rows of a packed weight for matmul_gemm.comp: values rounded to F16, [row][k_pad], filled up with
// zeros behind K. One invocation does a part (8 elements of 32).
#version 460
#extension GL_GOOGLE_include_directive : require
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
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t w[4];  // planes
  uint64_t y;
  uint first, n, k;  // rows [first, first + n) of w
  uint k_pad;        // a multiple of 32
}
p;

void main() {
  const uint64_t part = folded_thread();
  const uint parts = p.k_pad / 8u;
  const uint row = uint(part / parts), i = uint(part % parts);
  if (row >= p.n) return;
  const uint unit = i / 4u, j = i % 4u;
  vec4 lo = vec4(0), hi = vec4(0);
  if (unit < p.k / 32u) {
    const Row r = packed_row(p.w, p.first + row, p.k / 32u);
    part_values(load_part(r, unit, j), unit, lo, hi);
  }
  const uint64_t y = p.y + (uint64_t(row) * p.k_pad + unit * 32u) * 2ul;
  U32x2P(y).v[j] = halves_of(lo);
  U32x2P(y).v[4u + j] = halves_of(hi);
}
