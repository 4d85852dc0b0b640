// Activations for matmul_gemm.comp: rounded to F16 (at w[0]), [slice][row of m_pad][k_pad], filled
// up with zeros behind K; m_pad is w[1], k_pad w[2]. One invocation does 8 elements.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/common/matmul.glsl"

layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint X_WIDE = 0;  // load4's

void main() {
  const Slice s = find_slice(folded_thread());  // a block is an invocation
  const uint m_pad = uint(p.w[1]), parts = uint(p.w[2]) / 8u;
  const uint part = s.block % parts;
  const uint m = s.block / parts;
  if (!s.runs || m >= s.m) return;
  const uint64_t row = x_row(s, m);
  uvec4 packed;
  [[unroll]] for (uint j = 0; j < 2u; ++j) {
    const vec4 v = load4(X_TYPE, row, 8u * part + 4u * j, p.k, X_WIDE != 0);
    packed[2u * j] = f16_bits(v.x) | f16_bits(v.y) << 16;
    packed[2u * j + 1u] = f16_bits(v.z) | f16_bits(v.w) << 16;
  }
  const uint64_t to = (s.i2 + uint64_t(p.x2) * s.i3) * m_pad + m;
  U32x4P(p.w[0] + to * (parts * 16u)).v[part] = packed;
}
