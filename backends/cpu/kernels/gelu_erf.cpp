// gelu_erf: x times the normal distribution function of x.
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

// P(-x) for x >= 0, the upper tail of the normal distribution, as e^(-x^2/2) / (1 + x) times a
// polynomial in (x - 4) / (x + 4), fitted for least relative error.
MICA_INLINE f32x16 upper_tail(f32x16 x) {
  constexpr float kP[] = {4.72053200e-1f,  -9.67034698e-2f, 1.39995962e-2f,  2.85999812e-2f,
                          -3.21972705e-2f, 1.79402027e-2f,  -5.00438269e-3f, -3.03762032e-4f,
                          6.92859059e-4f,  -6.05543028e-5f, -7.16098948e-5f};
  const f32x16 u = (x - set1(4.0f)) / (x + set1(4.0f));
  f32x16 p = set1(kP[10]);
  for (int i = 9; i >= 0; --i) p = fma(p, u, set1(kP[i]));
  // x^2 exactly: hi has 12 bits, so its square is a float.
  const f32x16 hi = as_f32(as_i32(x) & set1_i32(static_cast<int32_t>(0xfffff000u)));
  const f32x16 rest = (x - hi) * (x + hi);
  const f32x16 e = exp(set1(-0.5f) * (hi * hi)) * exp(set1(-0.5f) * rest);
  return e * p / (set1(1.0f) + x);
}

struct Fn {
  explicit Fn(const Call&) {}
  f32x16 operator()(f32x16 x) const {
    // Beyond 15 the tail is 0 in F32; the limit keeps infinities out of the polynomial.
    const f32x16 tail = upper_tail(min(abs(x), set1(15.0f)));
    const f32x16 p = select(lt(x, zero()), tail, set1(1.0f) - tail);
    return x * p;
  }
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("gelu_erf")};

}  // namespace
MICA_CPU_KERNELS(gelu_erf, kRows)
MICA_CPU_END
