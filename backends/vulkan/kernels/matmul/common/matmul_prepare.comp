// Activations for matmul_tile.comp: rounded to F16 (at w[0]), [slice][unit][row of m_pad][32], and
// two F32 numbers (at w[1]), [slice][unit][row]: the sum of the 32 rounded values, and the power of
// two that they are to be multiplied by, which keeps large and small ones within F16. A unit is 32
// elements of K; the last one is filled up with zeros. One invocation does a unit of a row.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/matmul/common/matmul.glsl"

layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint X_WIDE = 0;  // load4's
layout(constant_id = 5) const uint M_TILE = 32;

// The exponent that brings values of this size to 2^14 … 2^15; 0 where they are fine as they are,
// or not finite.
int shift_of(float largest) {
  const int exponent = int(floatBitsToUint(largest) >> 23) - 127;
  const bool fine = exponent >= -4 && exponent < 15;
  return fine || exponent == 128 || largest == 0.0 ? 0 : min(14 - exponent, 126);
}
float power_of_two(int exponent) { return uintBitsToFloat(uint(127 + exponent) << 23); }

void main() {
  const Slice s = find_slice(folded_thread());  // a block is an invocation
  const uint n_units = (p.k + 31u) / 32u;
  const uint unit = s.block % n_units;
  const uint m = s.block / n_units;
  if (!s.runs || m >= s.m) return;
  const uint64_t at = prepared_at(s, unit, n_units, M_TILE) + m;
  const uint64_t row = x_row(s, m);
  vec4 values[8];
  float largest = 0;
  [[unroll]] for (uint i = 0; i < 8u; ++i) {
    values[i] = load4(X_TYPE, row, 32u * unit + 4u * i, p.k, X_WIDE != 0);
    const vec4 size = abs(values[i]);
    largest = max(largest, max(max(size.x, size.y), max(size.z, size.w)));
  }
  const int shift = shift_of(largest);
  float sum = 0;
  [[unroll]] for (uint i = 0; i < 4u; ++i) {
    uvec4 packed;
    [[unroll]] for (uint j = 0; j < 2u; ++j) {
      const vec4 v = values[2u * i + j] * power_of_two(shift);
      const uvec4 h = uvec4(f16_bits(v.x), f16_bits(v.y), f16_bits(v.z), f16_bits(v.w));
      packed[2u * j] = h.x | h.y << 16;
      packed[2u * j + 1u] = h.z | h.w << 16;
      sum += (f16_value(h.x) + f16_value(h.y)) + (f16_value(h.z) + f16_value(h.w));
    }
    U32x4P(p.w[0] + at * 64ul).v[i] = packed;
  }
  F32P(p.w[1] + at * 8ul).v[0] = sum * power_of_two(-shift);
  F32P(p.w[1] + at * 8ul).v[1] = power_of_two(-shift);
}
