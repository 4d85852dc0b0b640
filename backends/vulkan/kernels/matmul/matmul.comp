// The naive matmul: one invocation an output, plain loops.
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
#include "kernels/blocks.glsl"
#include "quant/weight.glsl"
#include "kernels/matmul/common/matmul.glsl"

layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint PLAIN_TYPE = 0;  // of variant plain

void main() {
  const Slice s = find_slice(folded_thread());
  const uint n = s.block % p.n;
  const uint m = s.block / p.n;
  if (!s.runs || m >= s.m) return;
  const uint64_t x = x_row(s, m);
  float sum = 0;
#if defined(W_BITS)
  const Row w = w_row(s, n);
  for (uint i = 0; i < p.k / 8u; ++i) {
    const uint e = i / 4u * 32u + i % 4u * 4u;
    vec4 lo, hi;
    part_values(load_part(w, i / 4u, i % 4u), i / 4u, lo, hi);
    sum += dot(lo, load4(X_TYPE, x, e, p.k, false));
    sum += dot(hi, load4(X_TYPE, x, e + 16u, p.k, false));
  }
#else
  const uint64_t w = w_row(s, n);
  const uint elems = block_elems(PLAIN_TYPE);
  for (uint e = 0; e < p.k; ++e) {
    float value;
    if (elems == 1u)
      value = load_float(PLAIN_TYPE, w, e);
    else
      value = decode_element(PLAIN_TYPE, w + e / elems * block_bytes(PLAIN_TYPE), e % elems);
    sum += value * load_float(X_TYPE, x, e);
  }
#endif
  F32P(y_row(s, m)).v[n] = sum;
}
