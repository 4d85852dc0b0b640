// Rotary position embedding. Angles, sines and cosines are computed in double, once a token, and
// shared by its heads; the rotation is F32.
#pragma once
#include "backends/cpu/simd/simd.h"
#include "ops/rope.h"
#include "ops/rope_angles.h"

MICA_CPU_BEGIN
namespace {

enum RopeInput { kX, kPositions, kFactors };

// Radians per position of each pair. `freq_factors` may be absent.
static inline void rope_frequencies(const mica_rope_args& a, const Tensor& freq_factors,
                                    double* out) {
  const float* factors = reinterpret_cast<const float*>(freq_factors.data);
  const RopeScale scale = rope_scale(a);
  const int64_t n_pairs = a.n_rot / 2;
  // Powers by repeated products: 1e-16 a step, and later pairs turn slower.
  const double ratio = rope_power(a, 1);
  double power = 1.0;
  for (int64_t i = 0; i < n_pairs; ++i, power *= ratio) {
    const double original = factors != nullptr ? power / static_cast<double>(factors[i]) : power;
    out[i] = original * rope_slowdown(scale, i);
  }
}

// m cos(t) and m sin(t). t = k pi / 2 + r, |r| <= pi / 4, by three parts of pi / 2: the first two
// have 33 bits, so their products with k < 2^20 are exact. The Taylor series end below 1e-13.
static inline void cos_sin(const double* radians, double position, double m, int64_t n,
                           float* out_cos, float* out_sin) {
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
    double s = -1.0 / 39916800 + z * (1.0 / 6227020800);
    s = 1.0 / 362880 + z * s;
    s = -1.0 / 5040 + z * s;
    s = 1.0 / 120 + z * s;
    s = r + r * z * (-1.0 / 6 + z * s);
    double c = 1.0 / 479001600 - z * (1.0 / 87178291200);
    c = -1.0 / 3628800 + z * c;
    c = 1.0 / 40320 + z * c;
    c = -1.0 / 720 + z * c;
    c = 1.0 + z * (-0.5 + z * (1.0 / 24 + z * c));
    const bool swap = (quadrant & 1) != 0;
    const double cos_sign = ((quadrant + 1) & 2) != 0 ? -m : m;
    const double sin_sign = (quadrant & 2) != 0 ? -m : m;
    out_cos[i] = static_cast<float>(cos_sign * (swap ? s : c));
    out_sin[i] = static_cast<float>(sin_sign * (swap ? c : s));
  }
}

// A thread's memory for n_pairs.
struct RopeScratch {
  double* radians;  // [n_pairs], per position
  float* cos;       // [n_pairs]; pairs side by side: each twice, sines with their sign, [n_rot]
  float* sin;
};
static inline int64_t padded_pairs(int64_t n_pairs) { return div_up_i64(n_pairs, 16) * 16; }
static inline RopeScratch carve(int64_t n_pairs, char* base) {
  const int64_t n = padded_pairs(n_pairs);
  double* radians = reinterpret_cast<double*>(base);
  float* cos = reinterpret_cast<float*>(radians + n);
  return {radians, cos, cos + 2 * n};
}

// cos: c0 c0 c1 c1 …; sin: -s0 s0 -s1 s1 …, from the back, in place.
static inline void spread(int64_t n_pairs, const RopeScratch& s) {
  for (int64_t i = n_pairs - 1; i >= 0; --i) {
    const float c = s.cos[i];
    const float v = s.sin[i];
    s.cos[2 * i] = s.cos[2 * i + 1] = c;
    s.sin[2 * i] = -v;
    s.sin[2 * i + 1] = v;
  }
}

// Both read what they need before they write it: y may be x.
template <class E>
static void rotate_adjacent(const RopeScratch& s, int64_t n_rot, const typename E::T* x,
                            typename E::T* y) {
  int64_t i = 0;
  for (; i + 16 <= n_rot; i += 16) {
    const f32x16 v = E::get(x + i);
    E::put(y + i, fma(v, load(s.cos + i), swap_pairs(v) * load(s.sin + i)));
  }
  const int64_t n = n_rot - i;
  if (n == 0) return;
  const f32x16 v = E::get_n(x + i, n);
  E::put_n(y + i, fma(v, load_n(s.cos + i, n), swap_pairs(v) * load_n(s.sin + i, n)), n);
}

template <class E>
static void rotate_halves(const RopeScratch& s, int64_t n_pairs, const typename E::T* x,
                          typename E::T* y) {
  for (int64_t i = 0; i < n_pairs; i += 16) {
    const int64_t n = min_i64(16, n_pairs - i);
    const bool whole = n == 16;
    const f32x16 a = whole ? E::get(x + i) : E::get_n(x + i, n);
    const f32x16 b = whole ? E::get(x + n_pairs + i) : E::get_n(x + n_pairs + i, n);
    const f32x16 c = whole ? load(s.cos + i) : load_n(s.cos + i, n);
    const f32x16 t = whole ? load(s.sin + i) : load_n(s.sin + i, n);
    const f32x16 first = fnma(b, t, a * c);
    const f32x16 second = fma(b, c, a * t);
    if (whole) {
      E::put(y + i, first);
      E::put(y + n_pairs + i, second);
    } else {
      E::put_n(y + i, first, n);
      E::put_n(y + n_pairs + i, second, n);
    }
  }
}

static inline uint64_t rope_scratch_bytes(const Call& call) {
  const int64_t n = padded_pairs(static_cast<const mica_rope_args*>(call.args)->n_rot / 2);
  return static_cast<uint64_t>(n) * (sizeof(double) + 4 * sizeof(float));
}

// The rotation of heads of E by a call's options: first the frequencies, then the angles of a
// position, then as many heads of it as there are.
template <class E>
struct Rotation {
  using T = typename E::T;
  const mica_rope_args* args = nullptr;
  int64_t head_dim = 0;
  RopeScratch s{};
  double m = 0;

  Rotation() = default;
  Rotation(const Call& call, char* scratch)
      : args(static_cast<const mica_rope_args*>(call.args)), head_dim(call.in[kX].dim[0]),
        s(carve(args->n_rot / 2, scratch)), m(rope_magnitude(*args)) {
    rope_frequencies(*args, call.in[kFactors], s.radians);
  }
  void at(int32_t position) {
    cos_sin(s.radians, position, m, args->n_rot / 2, s.cos, s.sin);
    if (args->pairing == MICA_ROPE_ADJACENT) spread(args->n_rot / 2, s);
  }
  void head(const T* from, T* to) const {
    const mica_rope_args& a = *args;
    const int64_t behind = a.offset + a.n_rot;
    if (from != to) {
      __builtin_memmove(to, from, a.offset * sizeof(T));
      __builtin_memmove(to + behind, from + behind,
                        static_cast<size_t>(head_dim - behind) * sizeof(T));
    }
    if (a.pairing == MICA_ROPE_ADJACENT) {
      rotate_adjacent<E>(s, a.n_rot, from + a.offset, to + a.offset);
    } else {
      rotate_halves<E>(s, a.n_rot / 2, from + a.offset, to + a.offset);
    }
  }
};

}  // namespace
MICA_CPU_END
