// Numbers rounded exactly once, and small things that several shaders need. Include after
// common/base.glsl.
//
// What must give the bits of the reference (ops/dtypes) uses no more of a device's floats than
// +, - and *, which Vulkan wants correctly rounded, on numbers that are not subnormal; GLSL's own
// division may be 2.5 ulp off, and its fma may round twice.
#ifndef MICA_VULKAN_NUMBERS_GLSL
#define MICA_VULKAN_NUMBERS_GLSL

// Before anything that reads gl_WorkGroupSize: glslang takes it for 1 until it is declared.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;

layout(buffer_reference, scalar, buffer_reference_align = 8) buffer I64P { int64_t v[]; };

const uint kInfinity = 0x7f800000u;

bool is_nan(float x) { return (floatBitsToUint(x) & 0x7fffffffu) > kInfinity; }
float minus_infinity() { return uintBitsToFloat(0xff800000u); }
float not_a_number() { return uintBitsToFloat(0x7fc00000u); }

// Of a dispatch whose x and y were folded, because a count of groups has a limit.
uint64_t folded_group() {
  return uint64_t(gl_WorkGroupID.y) * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}
uint64_t folded_thread() { return folded_group() * gl_WorkGroupSize.x + gl_LocalInvocationID.x; }

// a / b rounded once, half to even: the significands are divided as integers. Where either or the
// quotient is zero, subnormal or not finite, it is the device's own quotient.
float exact_div(float a, float b) {
  const uint ua = floatBitsToUint(a);
  const uint ub = floatBitsToUint(b);
  const int ea = int((ua >> 23) & 255u);
  const int eb = int((ub >> 23) & 255u);
  const uint ma = (ua & 0x7fffffu) | 0x800000u;
  const uint mb = (ub & 0x7fffffu) | 0x800000u;
  const int less = ma < mb ? 1 : 0;
  const int e = ea - eb + 127 - less;
  if (ea == 0 || eb == 0 || ea == 255 || eb == 255 || e < 1 || e > 254) return a / b;
  const uint64_t n = uint64_t(ma) << (23 + less);
  uint q = uint(n / uint64_t(mb));
  const uint rest = uint(n - uint64_t(q) * uint64_t(mb));
  if (2u * rest > mb || (2u * rest == mb && (q & 1u) != 0u)) ++q;
  return uintBitsToFloat(((ua ^ ub) & 0x80000000u) | ((uint(e) << 23) + (q - 0x800000u)));
}

// The square root rounded once; x is not negative, infinite or not-a-number.
float exact_sqrt(float x) {
  const uint u = floatBitsToUint(x);
  const int e = int(u >> 23);
  if (e == 0) return sqrt(x);
  // x = n * 2^(2 k) with n in [2^46, 2^48): the root of n has 24 bits before its point.
  const bool odd = ((e - 127) & 1) != 0;
  const uint64_t n = uint64_t((u & 0x7fffffu) | 0x800000u) << (odd ? 24 : 23);
  uint64_t r = uint64_t(sqrt(float(n)));
  while (r * r > n) --r;
  while ((r + 1ul) * (r + 1ul) <= n) ++r;
  if (n - r * r > r) ++r;  // above r + 1/2, which no root of an integer is
  const int half_e = (e - 127 - (odd ? 1 : 0)) / 2 + 127;
  return uintBitsToFloat((uint(half_e) << 23) + (uint(r) - 0x800000u));
}

// Rounded to F16 by the device.
uvec2 halves_of(vec4 v) {
  return uvec2(packFloat2x16(f16vec2(v.x, v.y)), packFloat2x16(f16vec2(v.z, v.w)));
}

uint plain_bytes(uint dtype) {
  return dtype == MICA_F16 || dtype == MICA_BF16 ? 2u : dtype == MICA_I64 ? 8u : 4u;
}

// --- functions with an error of about an ulp on every device -------------------------------------

// exp(x), relative error below 2^-23 (GLSL's own may be off by 2 |x| + 3 ulp): the reduction and
// the polynomial of expf in Cephes (Moshier 1992). 0 below -87.3, where
// results would be subnormal.
float exp_accurate(float x) {
  if (is_nan(x)) return x;
  if (x > 88.72) return uintBitsToFloat(kInfinity);
  if (x < -87.3) return 0.0;
  const float n = roundEven(x * 1.44269504);
  // ln 2 in two parts, the first with zeros at its end: n times it is exact.
  precise const float high = x - n * 0.693359375;
  precise const float r = high - n * -2.12194440e-4;
  precise float p = 1.9875691500e-4;
  p = p * r + 1.3981999507e-3;
  p = p * r + 8.3334519073e-3;
  p = p * r + 4.1665795894e-2;
  p = p * r + 1.6666665459e-1;
  p = p * r + 5.0000001201e-1;
  precise const float y = (p * (r * r) + r) + 1.0;
  return uintBitsToFloat(floatBitsToUint(y) + uint(int(n) << 23));
}

#endif
