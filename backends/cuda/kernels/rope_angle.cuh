// Sines and cosines of rotary position embedding, in double on the device. The frequencies,
// ops/rope_angles.h, are computed when a plan is compiled.
#pragma once
#include "backends/cuda/kernel.h"
#include "ops/rope_angles.h"

namespace mica::cuda {

#ifdef __CUDACC__
// t = k pi / 2 + r, |r| <= pi / 4, by three parts of pi / 2, of which the first two have 33 bits.
// The Taylor series end below 1e-13, which is more than enough for F32, or below 1e-17: kAll.
template <bool kAll>
__device__ inline void cos_sin(double t, double& out_cos, double& out_sin) {
  const double k = rint(t * 0.63661977236758134308);
  const int quadrant = static_cast<int>(static_cast<long long>(k) & 3);
  double r = fma(-k, 1.57079632673412561417, t);
  r = fma(-k, 6.07710050630396597660e-11, r);
  r = fma(-k, 2.02226624879595063154e-21, r);
  const double z = r * r;
  double s = 1.0 / 6227020800;
  if constexpr (kAll) s = fma(z, fma(z, 1.0 / 355687428096000, -1.0 / 1307674368000), s);
  s = fma(z, s, -1.0 / 39916800);
  s = fma(z, s, 1.0 / 362880);
  s = fma(z, s, -1.0 / 5040);
  s = fma(z, s, 1.0 / 120);
  s = fma(r * z, fma(z, s, -1.0 / 6), r);
  double c = -1.0 / 87178291200;
  if constexpr (kAll) c = fma(z, fma(z, -1.0 / 6402373705728000, 1.0 / 20922789888000), c);
  c = fma(z, c, 1.0 / 479001600);
  c = fma(z, c, -1.0 / 3628800);
  c = fma(z, c, 1.0 / 40320);
  c = fma(z, c, -1.0 / 720);
  c = fma(z, fma(z, fma(z, c, 1.0 / 24), -0.5), 1.0);
  const bool swap = (quadrant & 1) != 0;
  const double cosine = swap ? s : c, sine = swap ? c : s;
  out_cos = ((quadrant + 1) & 2) != 0 ? -cosine : cosine;
  out_sin = (quadrant & 2) != 0 ? -sine : sine;
}
#endif

}  // namespace mica::cuda
