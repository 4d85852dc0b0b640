// exp, tanh, sigmoid and erfc over f32x16. Included by simd.h only.
#pragma once

MICA_CPU_BEGIN

// e^x within 2 units in the last place for every x; 0 for -inf, inf above 88.73, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), P fitted for least relative error.
MICA_INLINE f32x16 exp(f32x16 x) {
  // min and max give their second operand for a NaN: x stands there.
  const f32x16 c = max(set1(-150.0f), min(set1(130.0f), x));
  const f32x16 n = round_even(c * set1(1.44269504089f));
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact without FMA.
  f32x16 r = fnma(n, set1(0.693359375f), c);
  r = fnma(n, set1(-2.12194440e-4f), r);
  f32x16 p = fma(set1(1.38145173e-3f), r, set1(8.36875569e-3f));
  p = fma(p, r, set1(4.16683927e-2f));
  p = fma(p, r, set1(0.166665196f));
  p = fma(p, r, set1(0.49999994f));
  p = fma(r * r, p, r) + set1(1.0f);
  return scale_2(p, n);
}

// Within 3 units in the last place; NaN for NaN. Near 0 an odd polynomial, elsewhere
// 1 - 2 / (e^(2|x|) + 1).
MICA_INLINE f32x16 tanh(f32x16 x) {
  const f32x16 z = x * x;
  f32x16 p = fma(set1(-5.51508507e-3f), z, set1(2.0469347e-2f));
  p = fma(p, z, set1(-5.3688001e-2f));
  p = fma(p, z, set1(0.133308306f));
  p = fma(p, z, set1(-0.333332598f));
  const f32x16 near_zero = fma(x * z, p, x);
  const f32x16 a = abs(x);
  const f32x16 e = exp(a + a);
  const f32x16 far = copy_sign(set1(1.0f) - set1(2.0f) / (e + set1(1.0f)), x);
  return select(lt(a, set1(0.625f)), near_zero, far);
}

// 1 / (1 + e^-x), within 3 units in the last place for every x.
MICA_INLINE f32x16 sigmoid(f32x16 x) {
  const f32x16 e = exp(neg(abs(x)));  // never overflows
  return select(lt(x, zero()), e, set1(1.0f)) / (set1(1.0f) + e);
}

MICA_CPU_END
