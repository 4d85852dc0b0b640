// Activations for matmul_gemm.comp and matmul_stream.comp: rounded to F16 (at w[0]),
// [slice][row of m_pad][k_pad], filled up with zeros behind K; m_pad is w[1], k_pad w[2]. With NORM
// the rows go through an rms_norm first, whose weight (F32) is at w[3] and whose eps has the bits
// r2. A workgroup does a row.
//
// A row is multiplied by a power of two that brings its largest element to 2^14: F16 has but 5 bits
// of exponent. Behind all rows are the factors, F32 [slice][m_pad], that products are multiplied by
// to undo that.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/matmul/common/matmul.glsl"
#include "kernels/common/sum_group.glsl"
#include "kernels/rsqrt_exact.glsl"

layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint X_WIDE = 0;  // load4's, of x and of the norm's weight
layout(constant_id = 5) const uint NORM = 0;

vec4 load_norm(uint e) { return load4(MICA_F32, p.w[3], e, p.k, X_WIDE != 0); }

// The exponent bits of a power of two that brings a number of these bits to [2^14, 2^15). 1 for
// zero, subnormals, infinities and not-a-number.
uint exponent_for(uint bits) {
  const uint exponent = bits >> 23;
  return exponent == 0u || exponent >= 255u ? 127u : min(127u + 14u + 127u - exponent, 253u);
}

void main() {
  const Slice s = find_slice(folded_group());  // a block is a row
  if (!s.runs || s.block >= s.m) return;
  const uint64_t row = x_row(s, s.block);
  float squares = 0.0;
  uvec4 most = uvec4(0);  // magnitudes compare as integers do, infinities and NaN above all
  for (uint e = 4u * gl_LocalInvocationIndex; e < p.k; e += 4u * gl_WorkGroupSize.x) {
    vec4 v = load4(X_TYPE, row, e, p.k, X_WIDE != 0);
    if (NORM != 0) {
      squares += dot(v, v);
      v *= load_norm(e);
    }
    most = max(most, floatBitsToUint(v) & 0x7fffffffu);
  }
  float factor = 1.0;
  if (NORM != 0) factor = rsqrt_exact(sum_all(squares) / float(p.k) + uintBitsToFloat(p.r2));
  const uint bits = most_all(max(max(most.x, most.y), max(most.z, most.w)));
  const uint exponent = exponent_for(floatBitsToUint(uintBitsToFloat(bits) * factor));
  const float scale = uintBitsToFloat(exponent << 23);

  const uint m_pad = uint(p.w[1]), parts = uint(p.w[2]) / 8u;
  const uint64_t to = (s.i2 + uint64_t(p.x2) * s.i3) * m_pad + s.block;
  for (uint part = gl_LocalInvocationIndex; part < parts; part += gl_WorkGroupSize.x) {
    uvec4 packed;
    [[unroll]] for (uint j = 0; j < 2u; ++j) {
      const uint e = 8u * part + 4u * j;
      vec4 v = load4(X_TYPE, row, e, p.k, X_WIDE != 0);
      if (NORM != 0) v = v * factor * load_norm(e);
      v *= scale;
      packed[2u * j] = f16_bits(v.x) | f16_bits(v.y) << 16;
      packed[2u * j + 1u] = f16_bits(v.z) | f16_bits(v.w) << 16;
    }
    U32x4P(p.w[0] + to * (parts * 16u)).v[part] = packed;
  }
  if (gl_LocalInvocationIndex == 0u) {
    const uint64_t factors = p.w[0] + uint64_t(p.n_slices) * m_pad * (parts * 16u);
    F32P(factors).v[uint(to)] = uintBitsToFloat((254u - exponent) << 23);
  }
}
