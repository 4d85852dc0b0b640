// Rows of packed quantized weights (layout.h) of type W_TYPE, a mica_dtype number. Include after
// kernels/common/base.glsl.
//
// A unit is 32 elements of a row. `Raw` is a unit in registers as memory has it; quad(raw, i) are
// the quants of elements 4i … 4i+3 in the bytes of an int, for dot products. A part is a quarter of
// it: elements 4j … 4j+3 and 16+4j … 16+4j+3, for decoding. An element is scale * (quant - W_ZERO)
// + bias, and scale and bias hold for elements 0 … 15 (.x) and 16 … 31 (.y). The product is exact
// in F32, so only adding a bias rounds, once.
#ifndef MICA_QUANT_WEIGHT_GLSL
#define MICA_QUANT_WEIGHT_GLSL

// A row's place in each plane.
struct Row {
  uint64_t q, s, h, d;
};

// A type's file defines W_BITS (4 or 8, in the plane q), W_HIGH_BITS (0, 1 or 2 more, in the plane
// h), W_ZERO, W_HALVES (1: .x and .y differ), W_BIAS (0: none), struct Scale with load_scale and
// affine, and the bytes of a row in the planes s and d.
#if W_TYPE == 2
#include "quant/q4_0.glsl"
#elif W_TYPE == 3
#include "quant/q4_1.glsl"
#elif W_TYPE == 6
#include "quant/q5_0.glsl"
#elif W_TYPE == 7
#include "quant/q5_1.glsl"
#elif W_TYPE == 8
#include "quant/q8_0.glsl"
#elif W_TYPE == 12
#include "quant/q4_k.glsl"
#elif W_TYPE == 13
#include "quant/q5_k.glsl"
#elif W_TYPE == 14
#include "quant/q6_k.glsl"
#endif

f16vec4 four_halves(uint lo, uint hi) { return f16vec4(unpackFloat2x16(lo), unpackFloat2x16(hi)); }

#if defined(W_BITS)  // other types, and no type at all, are plain

Row packed_row(uint64_t planes[4], uint64_t row, uint n_units) {
  Row r;
  r.q = planes[0] + row * (n_units * 4u * W_BITS);
  r.s = planes[1] + row * s_row_bytes(n_units);
  r.h = planes[2] + row * (n_units * 4u * W_HIGH_BITS);
  r.d = planes[3] + row * d_row_bytes(n_units);
  return r;
}

#if W_HIGH_BITS == 2
#define HighBits uvec2
#else
#define HighBits uint
#endif

struct Raw {
  uvec4 q;
#if W_BITS == 8
  uvec4 q_hi;  // elements 16 … 31
#endif
  HighBits h;
  Scale s;
};

HighBits load_high(Row r, uint u) {
#if W_HIGH_BITS == 2
  return U32x2P(r.h).v[u];
#elif W_HIGH_BITS == 1
  return U32P(r.h).v[u];
#else
  return 0u;
#endif
}

Raw load_raw(Row r, uint u) {
  Raw raw;
#if W_BITS == 8
  raw.q = U32x4P(r.q).v[2u * u];
  raw.q_hi = U32x4P(r.q).v[2u * u + 1u];
#else
  raw.q = U32x4P(r.q).v[u];
#endif
  raw.h = load_high(r, u);
  raw.s = load_scale(r, u);
  return raw;
}

// Bits 4 and up of elements 4i … 4i+3, in place.
uint high_quad(HighBits h, uint i) {
#if W_HIGH_BITS == 2
  const uint word = i < 4u ? h.x : h.y;
  return ((word >> (2u * (i & 3u))) & 0x03030303u) << 4;
#elif W_HIGH_BITS == 1
  return ((h >> i) & 0x01010101u) << 4;
#else
  return 0u;
#endif
}

int quad(Raw raw, uint i) {
#if W_BITS == 8
  return int(i < 4u ? raw.q[i & 3u] : raw.q_hi[i & 3u]);
#else
  const uint low = (i < 4u ? raw.q[i & 3u] : raw.q[i & 3u] >> 4) & 0x0f0f0f0fu;
  return int(low | high_quad(raw.h, i));
#endif
}

struct Part {
  uint q_lo, q_hi;  // quants as bytes
  Scale s;
};

Part load_part(Row r, uint u, uint j) {
  Part part;
#if W_BITS == 8
  part.q_lo = U32P(r.q).v[8u * u + j];
  part.q_hi = U32P(r.q).v[8u * u + 4u + j];
#else
  const uint word = U32P(r.q).v[4u * u + j];
  const HighBits h = load_high(r, u);
  part.q_lo = (word & 0x0f0f0f0fu) | high_quad(h, j);
  part.q_hi = ((word >> 4) & 0x0f0f0f0fu) | high_quad(h, 4u + j);
#endif
  part.s = load_scale(r, u);
  return part;
}

// Four quants as floats, more by kQuantOffset: a byte below the bits of 1024 in F16 is 1024 + byte.
// A device converts few integers to floats at a time.
#if W_BITS == 8
const float kQuantOffset = 1024.0 + 128.0;
#else
const float kQuantOffset = 1024.0 + W_ZERO;
#endif
f16vec4 offset_quants(uint q) {
#if W_BITS == 8
  q ^= 0x80808080u;
#endif
  const u8vec4 b = unpack8(q);
  const uint8_t high = uint8_t(0x64);
  return four_halves(pack32(u8vec4(b.x, high, b.y, high)), pack32(u8vec4(b.z, high, b.w, high)));
}
f16vec4 quant_halves(uint q) { return offset_quants(q) - float16_t(kQuantOffset); }
vec4 quant_values(uint q) { return vec4(quant_halves(q)); }

void part_values(Part part, uint u, out vec4 lo, out vec4 hi) {
  vec2 scale, bias;
  affine(part.s, u, scale, bias);
  lo = quant_values(part.q_lo) * scale.x;
  hi = quant_values(part.q_hi) * scale.y;
#if W_BIAS
  lo += bias.x;
  hi += bias.y;
#endif
}

#endif
#endif
