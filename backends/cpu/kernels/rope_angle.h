// Sines and cosines of rotary position embedding, in double. Loops have no branches and write one
// array each, so that compilers make vectors of them.
#pragma once
#include "backends/cpu/simd/simd.h"
#include "ops/rope_angles.h"

MICA_CPU_BEGIN
namespace {

// cos(t) and sin(t), t = position * radians[i].
// t = k pi / 2 + r, |r| <= pi / 4, by three parts of pi / 2: the first two have 33 bits, so their
// products with k < 2^20 are exact. The Taylor series end below 1e-13, which is more than enough
// for F32, or below 1e-17: kAll.
template <bool kAll, class T>
static inline void cos_sin(const double* radians, double position, int64_t n, T* out_cos,
                           T* out_sin) {
  constexpr double kRound = 0x1.8p52;
  for (int64_t i = 0; i < n; ++i) {
    const double t = position * radians[i];
    const double shifted = t * 0.63661977236758134308 + kRound;
    int64_t quadrant;
    __builtin_memcpy(&quadrant, &shifted, 8);
    const double k = shifted - kRound;
    double r = t - k * 1.57079632673412561417;
    r -= k * 6.07710050630396597660e-11;
    r -= k * 2.02226624879595063154e-21;
    const double z = r * r;
    double s = 1.0 / 6227020800;
    if constexpr (kAll) s += z * (z * (1.0 / 355687428096000) - 1.0 / 1307674368000);
    s = -1.0 / 39916800 + z * s;
    s = 1.0 / 362880 + z * s;
    s = -1.0 / 5040 + z * s;
    s = 1.0 / 120 + z * s;
    s = r + r * z * (-1.0 / 6 + z * s);
    double c = -1.0 / 87178291200;
    if constexpr (kAll) c += z * (1.0 / 20922789888000 - z * (1.0 / 6402373705728000));
    c = 1.0 / 479001600 + z * c;
    c = -1.0 / 3628800 + z * c;
    c = 1.0 / 40320 + z * c;
    c = -1.0 / 720 + z * c;
    c = 1.0 + z * (-0.5 + z * (1.0 / 24 + z * c));
    const bool swap = (quadrant & 1) != 0;
    const double cosine = swap ? s : c, sine = swap ? c : s;
    out_cos[i] = static_cast<T>(((quadrant + 1) & 2) != 0 ? -cosine : cosine);
    out_sin[i] = static_cast<T>((quadrant & 2) != 0 ? -sine : sine);
  }
}

}  // namespace
MICA_CPU_END
