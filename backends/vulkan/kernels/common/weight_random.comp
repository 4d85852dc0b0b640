// Random weights: fills one plane, 16 bytes an invocation, from a hash of seed, plane and place.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"

layout(constant_id = 3) const uint KIND = 0;  // RandomKind of layout.cpp
const uint kBits = 0;
const uint kF32 = 1;
const uint kF16 = 2;
const uint kBf16 = 3;
const uint kScales = 4;      // F16
const uint kScalePairs = 5;  // F16 scale, F16 minimum
const uint kKScales = 6;     // k_scales.glsl
const uint kSmallInts = 7;   // signed bytes of magnitude 8 … 15

layout(push_constant, scalar) uniform Push {
  uint64_t address;
  uint64_t bytes;
  uvec2 seed;
  uint plane;
  float size;   // of floats the largest magnitude, of scales the mean
  float ratio;  // of minimum to scale
}
p;

// A bijection of 128 bits that mixes all of them into all (Jarzynski and Olano, "Hash Functions for
// GPU Rendering", 2020: pcg4d).
uvec4 hash(uvec4 v) {
  v = v * 1664525u + 1013904223u;
  v += v.yzxy * v.wxyz;
  v ^= v >> 16;
  v += v.yzxy * v.wxyz;
  return v;
}

float uniform_sign(uint bits) { return float(int(bits) >> 8) * 1.1920928955078125e-7; }  // 2^-23

uint word(uint bits) {
  const vec2 u = vec2(uniform_sign(bits << 16), uniform_sign(bits & 0xffff0000u));
  const vec2 scale = p.size * (1.0 + 0.25 * u);
  switch (KIND) {
    case kF32:
      return floatBitsToUint(p.size * uniform_sign(bits));
    case kF16:
      return f16_bits(p.size * u.x) | f16_bits(p.size * u.y) << 16;
    case kBf16:
      return bf16_bits(p.size * u.x) | bf16_bits(p.size * u.y) << 16;
    case kScales:
      return f16_bits(scale.x) | f16_bits(scale.y) << 16;
    case kScalePairs:
      return f16_bits(scale.x) | f16_bits(scale.x * p.ratio) << 16;
    case kSmallInts:
      return ((bits & 0x07070707u) | 0x08080808u) ^ ((bits >> 7 & 0x01010101u) * 255u);
  }
  return bits;
}

void main() {
  const uint64_t item = folded_thread();
  const uint64_t first = item * 16ul;
  if (first >= p.bytes) return;
  uvec4 bits = hash(uvec4(uint(item), uint(item >> 32) ^ (p.plane << 24), p.seed));
  if (KIND == kKScales) {
    // Scales and minima alike, 16 … 31: low 4 bits at random, upper 2 bits 1.
    const uvec2 low = bits.yz & 0x0f0f0f0fu;
    const float scale = p.size * (1.0 + 0.25 * uniform_sign(bits.x));
    bits = uvec4(f16_bits(scale) | f16_bits(scale * p.ratio) << 16, low | low << 4, 0x55555555u);
  } else {
    [[unroll]] for (uint i = 0; i < 4u; ++i) bits[i] = word(bits[i]);
  }
  if (p.bytes - first >= 16ul) {
    U32x4P(p.address + first).v[0] = bits;
    return;
  }
  for (uint i = 0; i < uint(p.bytes - first) / 2u; ++i)
    U16P(p.address + first).v[i] = uint16_t(bits[i / 2u] >> (i % 2u * 16u) & 0xffffu);
}
