// Rotary position embedding. A pair's frequency is a fraction of a turn in 64-bit fixed point:
// times an integer position it wraps as angles do, so the angle is exact whatever the position.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels/common/base.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kType = MICA_F32;
layout(constant_id = 2) const uint kHalfSplit = 0;
layout(constant_id = 3) const uint kFactors = 0;

layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer U64P { uint64_t v[]; };

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, positions, turns, factors;
  uint64_t live;
  uint head_dim, n_heads, n_tokens;
  uint n_rot, offset;
  uint s1, s2;  // of x, elements
  float magnitude;
} args;

// turn / factor: a long division by the factor's 24 bits, then its exponent.
uint64_t divided(uint64_t turn, float factor) {
  const uint bits = floatBitsToUint(abs(factor));
  if ((bits >> 23) == 0u || (bits >> 23) == 255u) return 0;  // by 0, subnormals, inf: not an angle
  const int e = int(bits >> 23) - 127;
  const uint64_t m = uint64_t((bits & 0x7fffffu) | 0x800000u);
  const uint64_t whole = turn / m;
  const uint64_t part = ((turn - whole * m) << 40) / m;  // 40 bits behind the point
  // (whole + part / 2^40) 2^(23 - e)
  const int shift = 23 - e;
  uint64_t q;
  if (shift >= 64 || shift <= -64) {
    q = 0;
  } else if (shift >= 40) {
    q = (whole << shift) + (part << (shift - 40));
  } else if (shift >= 0) {
    q = (whole << shift) + (part >> (40 - shift));
  } else {
    q = whole >> -shift;
  }
  return factor < 0.0 ? uint64_t(-int64_t(q)) : q;
}

// cos and sin of a fraction of a turn: a quadrant, and the Taylor series within pi / 4 of it, whose
// rest is below 2e-9.
vec2 cos_sin(uint64_t phase) {
  const uint quadrant = uint((phase + (uint64_t(1) << 61)) >> 62) & 3u;
  const int64_t rest = int64_t(phase - (uint64_t(quadrant) << 62));
  const float r = float(rest) * 3.40612158e-19;  // 2 pi / 2^64
  const float z = r * r;
  float s = 2.75573192e-6 * z - 1.98412698e-4;
  s = s * z + 8.33333333e-3;
  s = s * z - 1.66666667e-1;
  s = s * (z * r) + r;
  float c = -2.75573192e-7 * z + 2.48015873e-5;
  c = c * z - 1.38888889e-3;
  c = c * z + 4.16666667e-2;
  c = c * (z * z) + (1.0 - 0.5 * z);
  const vec2 v = (quadrant & 1u) != 0u ? vec2(-s, c) : vec2(c, s);
  return (quadrant & 2u) != 0u ? -v : v;
}

void main() {
  const uint n_pairs = args.n_rot / 2;
  const uint items = n_pairs + args.head_dim - args.n_rot;  // pairs, then what is only copied
  const uint n = live_count(args.live, args.n_tokens) * args.n_heads * items;
  const uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  const uint bytes = float_bytes(kType);
  for (uint id = gl_GlobalInvocationID.x; id < n; id += step) {
    const uint i = id % items, rest = id / items;
    const uint head = rest % args.n_heads, token = rest / args.n_heads;
    const uint64_t x =
        args.x + (uint64_t(head) * args.s1 + uint64_t(token) * args.s2) * bytes;
    const uint64_t y = args.y + uint64_t(rest) * args.head_dim * bytes;
    if (i >= n_pairs) {
      uint d = i - n_pairs;
      if (d >= args.offset) d += args.n_rot;
      store_float(kType, y, d, load_float(kType, x, d));
      continue;
    }
    uint64_t turn = U64P(args.turns).v[i];
    if (kFactors != 0) turn = divided(turn, F32P(args.factors).v[i]);
    const int64_t position = int64_t(I32P(args.positions).v[token]);
    const vec2 cs = args.magnitude * cos_sin(turn * uint64_t(position));
    const uint d0 = args.offset + (kHalfSplit != 0 ? i : 2 * i);
    const uint d1 = d0 + (kHalfSplit != 0 ? n_pairs : 1);
    const float x0 = load_float(kType, x, d0), x1 = load_float(kType, x, d1);
    store_float(kType, y, d0, x0 * cs.x - x1 * cs.y);
    store_float(kType, y, d1, x0 * cs.y + x1 * cs.x);
  }
}
