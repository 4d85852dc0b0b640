// exp, tanh and their kin with errors that do not depend on the driver: Vulkan allows its own exp
// 3 + 2|x| units in the last place. Needs base.glsl.

bool is_nan(float x) { return (floatBitsToUint(x) & 0x7fffffffu) > 0x7f800000u; }

// e^x within 2 units in the last place; 0 below -104, inf above 88.73, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 P(r), P fitted for least relative error.
float exp_exact(float x) {
  const float c = clamp(x, -105.0, 90.0);
  const float n = roundEven(c * 1.44269504089);
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact without FMA.
  precise float r = c - n * 0.693359375;
  r = r + n * 2.12194440e-4;
  float p = 1.38145173e-3 * r + 8.36875569e-3;
  p = p * r + 4.16683927e-2;
  p = p * r + 0.166665196;
  p = p * r + 0.49999994;
  precise float y = (r * r) * p + r;
  y = y + 1.0;
  // 2^n in two steps, each within the range of exponents.
  const int whole = int(n), first = whole >> 1;
  y = y * uintBitsToFloat(uint(first + 127) << 23);
  y = y * uintBitsToFloat(uint(whole - first + 127) << 23);
  return is_nan(x) ? x : y;
}

// 1 / (1 + e^-x).
float sigmoid_exact(float x) {
  const float e = exp_exact(-abs(x));  // never overflows
  const float y = (x < 0.0 ? e : 1.0) / (1.0 + e);
  return is_nan(x) ? x : y;
}

// Near 0 an odd polynomial, elsewhere 1 - 2 / (e^(2|x|) + 1).
float tanh_exact(float x) {
  const float a = abs(x);
  const float z = x * x;
  float p = -5.51508507e-3 * z + 2.0469347e-2;
  p = p * z - 5.3688001e-2;
  p = p * z + 0.133308306;
  p = p * z - 0.333332598;
  if (a < 0.625) return x * z * p + x;
  if (is_nan(x)) return x;
  const float e = exp_exact(min(2.0 * a, 40.0));
  const float y = 1.0 - 2.0 / (e + 1.0);
  return x < 0.0 ? -y : y;
}

float silu_exact(float x) { return x * sigmoid_exact(x); }

// x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). The limit keeps x^3 finite;
// beyond it the sigmoid is 0 or 1.
float gelu_exact(float x) {
  const float c = clamp(x, -20.0, 20.0);
  return x * sigmoid_exact(is_nan(x) ? x : c * (0.07135481387 * c * c + 1.595769167));
}

// x times the normal distribution function. The upper tail for x >= 0 is e^(-x^2/2) / (1 + x) times
// a polynomial in (x - 4) / (x + 4), fitted for least relative error.
float gelu_erf_exact(float x) {
  if (is_nan(x)) return x;
  const float a = min(abs(x), 15.0);
  const float u = (a - 4.0) / (a + 4.0);
  float p = -7.16098948e-5;
  p = p * u - 6.05543028e-5;
  p = p * u + 6.92859059e-4;
  p = p * u - 3.03762032e-4;
  p = p * u - 5.00438269e-3;
  p = p * u + 1.79402027e-2;
  p = p * u - 3.21972705e-2;
  p = p * u + 2.85999812e-2;
  p = p * u + 1.39995962e-2;
  p = p * u - 9.67034698e-2;
  p = p * u + 4.72053200e-1;
  // x^2 exactly: hi has 12 bits, so its square is a float.
  const float hi = uintBitsToFloat(floatBitsToUint(a) & 0xfffff000u);
  const float rest = (a - hi) * (a + hi);
  const float tail = exp_exact(-0.5 * (hi * hi)) * exp_exact(-0.5 * rest) * p / (1.0 + a);
  return x * (x < 0.0 ? tail : 1.0 - tail);
}

// a / b, correctly rounded but for the last half place, where the quotient is a normal number.
// Vulkan allows a division 2.5 units in the last place.
float divide_exact(float a, float b) {
  const float q = a / b;
  const uint e_q = (floatBitsToUint(q) >> 23) & 0xffu;
  const uint e_a = (floatBitsToUint(a) >> 23) & 0xffu, e_b = (floatBitsToUint(b) >> 23) & 0xffu;
  // Outside, products of the correction would leave the normal range.
  if (e_q < 30u || e_q > 220u || e_a < 60u || e_a > 220u || e_b < 30u || e_b > 220u) return q;
  // q b exactly, as a sum of two floats (Dekker 1971).
  precise float q_big = q * 4097.0, b_big = b * 4097.0;
  precise float q_hi = q_big - (q_big - q), b_hi = b_big - (b_big - b);
  precise float q_lo = q - q_hi, b_lo = b - b_hi;
  precise float product = q * b;
  precise float low = ((q_hi * b_hi - product) + q_hi * b_lo + q_lo * b_hi) + q_lo * b_lo;
  precise float rest = (a - product) - low;
  return q + rest / b;
}
