// The angle of a pair that RoPE turns: its frequency is in revolutions, modulo 1, as 64-bit fixed
// point, so that times an integer position it wraps as angles do, exactly. Include after base.glsl.

layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer U64P { uint64_t v[]; };

// revolutions / factor: a long division by the factor's 24 bits, then its exponent.
uint64_t divided(uint64_t revolutions, float factor) {
  const uint bits = floatBitsToUint(abs(factor));
  if ((bits >> 23) == 0u || (bits >> 23) == 255u) return 0;  // by 0, subnormals, inf: not an angle
  const int e = int(bits >> 23) - 127;
  const uint64_t m = uint64_t((bits & 0x7fffffu) | 0x800000u);
  const uint64_t whole = revolutions / m;
  const uint64_t part = ((revolutions - whole * m) << 40) / m;  // 40 bits behind the point
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

// cos and sin of a phase in revolutions: a quadrant, and the Taylor series within pi / 4 of it,
// whose rest is below 2e-9.
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
