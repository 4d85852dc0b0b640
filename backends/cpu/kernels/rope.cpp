// Rotary position embedding. Angles, sines and cosines are computed in double, once a token, and
// shared by its heads; the rotation is F32.
#include "ops/rope.h"

#include "backends/cpu/simd/simd.h"
#include "ops/rope_args.h"

MICA_CPU_BEGIN

enum RopeInput { kX, kPositions, kFactors };

constexpr double kPi = 3.14159265358979323846;

// How much of pair i turns at its original speed (YaRN).
struct YarnRamp {
  double low, width, ext_factor;
};
static YarnRamp yarn_ramp(const mica_rope_args& a) {
  const double per = a.n_rot / (2.0 * __builtin_log(static_cast<double>(a.base)));
  const double low = __builtin_floor(per * __builtin_log(a.n_ctx_orig / (2 * kPi * a.beta_fast)));
  const double high = __builtin_ceil(per * __builtin_log(a.n_ctx_orig / (2 * kPi * a.beta_slow)));
  const double first = low > 0 ? low : 0;
  const double last = high < a.n_rot - 1.0 ? high : a.n_rot - 1.0;
  return {first, last - first > 0.001 ? last - first : 0.001, a.ext_factor};
}
static double yarn_mix(const YarnRamp& ramp, int64_t i) {
  const double x = (static_cast<double>(i) - ramp.low) / ramp.width;
  return ramp.ext_factor * (1.0 - (x < 0 ? 0 : x > 1 ? 1 : x));
}

// Angle per position of each pair.
static void frequencies(const Call& call, double* out) {
  const mica_rope_args& a = *static_cast<const mica_rope_args*>(call.args);
  const float* factors = reinterpret_cast<const float*>(call.in[kFactors].data);
  const int64_t n_pairs = a.n_rot / 2;
  // Powers by repeated products: 1e-16 a step, and later pairs turn slower.
  const double ratio = __builtin_pow(static_cast<double>(a.base), -2.0 / a.n_rot);
  const YarnRamp ramp = a.ext_factor != 0.0f ? yarn_ramp(a) : YarnRamp{};
  double power = 1.0;
  for (int64_t i = 0; i < n_pairs; ++i, power *= ratio) {
    const double original = factors != nullptr ? power / static_cast<double>(factors[i]) : power;
    const double scaled = static_cast<double>(a.linear_scale) * original;
    const double mix = a.ext_factor != 0.0f ? yarn_mix(ramp, i) : 0.0;
    out[i] = scaled * (1.0 - mix) + original * mix;
  }
}

static double magnitude(const mica_rope_args& a) {
  const double m = a.attn_factor;
  if (a.ext_factor == 0.0f) return m;
  return m * (1.0 + 0.1 * __builtin_log(1.0 / static_cast<double>(a.linear_scale)));
}

// m cos(t) and m sin(t). t = k pi / 2 + r, |r| <= pi / 4, by three parts of pi / 2: the first two
// have 33 bits, so their products with k < 2^20 are exact. The Taylor series end below 1e-13.
static void cos_sin(const double* freq, double position, double m, int64_t n, float* out_cos,
                    float* out_sin) {
  constexpr double kRound = 0x1.8p52;
  for (int64_t i = 0; i < n; ++i) {
    const double t = position * freq[i];
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
struct Scratch {
  double* freq;  // [n_pairs]
  float* cos;    // [n_pairs]; pairs side by side: each twice, sines with their sign, [n_rot]
  float* sin;
};
static int64_t padded(int64_t n_pairs) { return div_up_i64(n_pairs, 16) * 16; }
static Scratch carve(int64_t n_pairs, char* base) {
  const int64_t n = padded(n_pairs);
  double* freq = reinterpret_cast<double*>(base);
  float* cos = reinterpret_cast<float*>(freq + n);
  return {freq, cos, cos + 2 * n};
}

// cos: c0 c0 c1 c1 …; sin: -s0 s0 -s1 s1 …, from the back, in place.
static void spread(int64_t n_pairs, const Scratch& s) {
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
static void rotate_adjacent(const Scratch& s, int64_t n_rot, const typename E::T* x,
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
static void rotate_halves(const Scratch& s, int64_t n_pairs, const typename E::T* x,
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

template <class E>
static void run_tokens(const Call& call, int64_t first, int64_t end, char* scratch) {
  using T = typename E::T;
  const mica_rope_args& a = *static_cast<const mica_rope_args*>(call.args);
  const Tensor& x = call.in[kX];
  const Tensor& y = call.out;
  const int32_t* positions = reinterpret_cast<const int32_t*>(call.in[kPositions].data);
  const int64_t n_rot = a.n_rot;
  const int64_t behind = a.offset + n_rot;
  const bool adjacent = a.pairing == MICA_ROPE_ADJACENT;
  const Scratch s = carve(n_rot / 2, scratch);
  frequencies(call, s.freq);
  const double m = magnitude(a);
  for (int64_t token = first; token < end; ++token) {
    cos_sin(s.freq, positions[token], m, n_rot / 2, s.cos, s.sin);
    if (adjacent) spread(n_rot / 2, s);
    for (int64_t head = 0; head < x.dim[1]; ++head) {
      const T* from = reinterpret_cast<const T*>(x.data + token * x.stride[2] + head * x.stride[1]);
      T* to = reinterpret_cast<T*>(y.data + token * y.stride[2] + head * y.stride[1]);
      if (from != to) {
        __builtin_memmove(to, from, a.offset * sizeof(T));
        __builtin_memmove(to + behind, from + behind,
                          static_cast<size_t>(x.dim[0] - behind) * sizeof(T));
      }
      if (adjacent) {
        rotate_adjacent<E>(s, n_rot, from + a.offset, to + a.offset);
      } else {
        rotate_halves<E>(s, n_rot / 2, from + a.offset, to + a.offset);
      }
    }
  }
}

static const char* supports(const Call& call) {
  const Tensor& x = call.in[kX];
  if (x.dtype != MICA_F32 && x.dtype != MICA_F16 && x.dtype != MICA_BF16) {
    return "x must be F32, F16 or BF16";
  }
  if (x.stride[0] != (x.dtype == MICA_F32 ? 4 : 2)) return "the elements of x are not adjacent";
  return nullptr;
}

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static uint64_t scratch_bytes(const Call& call) {
  const int64_t n = padded(static_cast<const mica_rope_args*>(call.args)->n_rot / 2);
  return static_cast<uint64_t>(n) * (sizeof(double) + 4 * sizeof(float));
}

static int64_t items(const Call& call, uint32_t) { return call.in[kX].dim[2]; }

static int64_t grain(const Call& call, uint32_t) {
  return max_i64(1, 16384 / max_i64(1, call.in[kX].dim[0] * call.in[kX].dim[1]));
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  const mica_dtype dtype = call.in[kX].dtype;
  if (dtype == MICA_F16) return run_tokens<ElemF16>(call, first, end, scratch);
  if (dtype == MICA_BF16) return run_tokens<ElemBF16>(call, first, end, scratch);
  run_tokens<ElemF32>(call, first, end, scratch);
}

static const Kernel kRows[] = {
    {"rope", "", 1, supports, numerics, nullptr, scratch_bytes, items, run, grain},
};

MICA_CPU_KERNELS(rope, kRows)

MICA_CPU_END
