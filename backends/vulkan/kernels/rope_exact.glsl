// RoPE of stored numbers, so accurate that what is rounded to F32 is nearly always what double
// arithmetic gives: caches are compared bit by bit. In integers, as no device need have doubles.
// Include after base.glsl and rope_angle.glsl.

// The upper half of a product: of fractions of 2^64, their product.
uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t mask = 0xfffffffful;
  const uint64_t a0 = a & mask, a1 = a >> 32, b0 = b & mask, b1 = b >> 32;
  const uint64_t x = a1 * b0, y = a0 * b1;
  const uint64_t carry = ((a0 * b0 >> 32) + (x & mask) + (y & mask)) >> 32;
  return a1 * b1 + (x >> 32) + (y >> 32) + carry;
}

// 1 / (2k (2k + 1)) and 1 / (2k (2k - 1)), k = 1 ... 8, as fractions of 2^64.
const uint64_t kSineTerms[8] = uint64_t[8](
    0x2aaaaaaaaaaaaaabul, 0x0ccccccccccccccdul, 0x0618618618618618ul, 0x038e38e38e38e38eul,
    0x0253c8253c8253c8ul, 0x01a41a41a41a41a4ul, 0x0138138138138138ul, 0x00f0f0f0f0f0f0f1ul);
const uint64_t kCosineTerms[8] = uint64_t[8](
    0x8000000000000000ul, 0x1555555555555555ul, 0x0888888888888889ul, 0x0492492492492492ul,
    0x02d82d82d82d82d8ul, 0x01f07c1f07c1f07cul, 0x0168168168168168ul, 0x0111111111111111ul);

// Magnitudes as fractions of 2^64, and whether they are negative.
struct Turn {
  uint64_t c, s;
  bool c_negative, s_negative;
};

// Of a phase in revolutions: a quadrant, and the Taylor series within pi / 4 of it, whose rest is
// below 2^-58. 1 is one unit too small.
Turn exact_turn(uint64_t phase) {
  const uint quadrant = uint((phase + (uint64_t(1) << 61)) >> 62) & 3u;
  const int64_t rest = int64_t(phase - (uint64_t(quadrant) << 62));
  const uint64_t size = uint64_t(rest < 0l ? -rest : rest);
  const uint64_t r = multiply_high(size << 2, 0xc90fdaa22168c235ul) << 1;  // radians: times 2 pi
  const uint64_t z = multiply_high(r, r);
  uint64_t s = ~0ul, c = ~0ul;
  for (int i = 7; i >= 0; --i) {
    s = ~multiply_high(multiply_high(z, s), kSineTerms[i]);
    c = ~multiply_high(multiply_high(z, c), kCosineTerms[i]);
  }
  s = multiply_high(r, s);
  const bool odd = (quadrant & 1u) != 0u, behind = (quadrant & 2u) != 0u, minus = rest < 0l;
  // A quarter further, (c, s) is (-s, c).
  if (odd) return Turn(s, c, behind == minus, behind);
  return Turn(c, s, behind, behind != minus);
}

// |x| in units of 2^(exponent - 188), less than 2^62; `exponent` is not below x's own.
uint64_t fixed_magnitude(uint bits, uint exponent) {
  const uint e = bits >> 23 & 255u;
  const uint64_t m = uint64_t(bits & 0x7fffffu | (e != 0u ? 0x800000u : 0u)) << 38;
  const uint less = exponent - max(e, 1u);
  return less < 62u ? m >> less : 0ul;
}

// a times a turn's part, in the same units.
int64_t fixed_product(uint64_t size, uint64_t part, bool negative) {
  const int64_t x = int64_t(multiply_high(size, part));
  return negative ? -x : x;
}

// Half to even; or, for what is going to be rounded to fewer bits, to the odd one of the two
// neighbours of a number that is between them: so that both roundings are one.
float fixed_to_float(int64_t x, uint exponent, bool to_odd) {
  const uint64_t n = uint64_t(x < 0l ? -x : x);
  if (n == 0ul) return 0.0;
  const uint high = uint(n >> 32);
  const int top = high != 0u ? 32 + findMSB(high) : findMSB(uint(n));
  const int shift = max(top - 23, 39 - int(exponent));  // not below the subnormals' exponent
  if (shift > 63) return 0.0;
  uint q = uint(shift <= 0 ? n << -shift : n >> shift);
  if (shift > 0) {
    const uint64_t half_unit = 1ul << (shift - 1), rest = n & (half_unit * 2ul - 1ul);
    if (to_odd) {
      q |= rest != 0ul ? 1u : 0u;
    } else if (rest > half_unit || (rest == half_unit && (q & 1u) != 0u)) {
      ++q;
    }
  }
  const int e = int(exponent) - 38 + shift;
  if (e >= 255) q = 0x800000u;
  const uint bits = min((uint(min(e, 255) - 1) << 23) + q, 0x7f800000u);
  return uintBitsToFloat(bits | (x < 0l ? 0x80000000u : 0u));
}

// (x.x c - x.y s, x.x s + x.y c), rounded as fixed_to_float says.
vec2 rotated_exact(vec2 x, uint64_t phase, bool to_odd) {
  const uvec2 bits = floatBitsToUint(x);
  const uvec2 e = max(bits >> 23 & 255u, 1u);
  if (e.x == 255u || e.y == 255u) {  // infinite or not-a-number
    const vec2 cs = cos_sin(phase);
    return vec2(x.x * cs.x - x.y * cs.y, x.x * cs.y + x.y * cs.x);
  }
  const Turn t = exact_turn(phase);
  const uint most = max(e.x, e.y);
  const uint64_t x0 = fixed_magnitude(bits.x, most), x1 = fixed_magnitude(bits.y, most);
  const bool n0 = bits.x >> 31 != 0u, n1 = bits.y >> 31 != 0u;
  const int64_t y0 =
      fixed_product(x0, t.c, n0 != t.c_negative) - fixed_product(x1, t.s, n1 != t.s_negative);
  const int64_t y1 =
      fixed_product(x0, t.s, n0 != t.s_negative) + fixed_product(x1, t.c, n1 != t.c_negative);
  return vec2(fixed_to_float(y0, most, to_odd), fixed_to_float(y1, most, to_odd));
}
