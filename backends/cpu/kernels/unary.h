// Functions of one tensor, element by element: unary_kernel<F>("name"), F(call)(x) on 16 lanes.
#pragma once
#include "backends/cpu/kernels/elements.h"

MICA_CPU_BEGIN
namespace {

inline Cut unary_cut(const Call& call) { return cut(call.out, packed(call.in[0])); }

inline int64_t unary_items(const Call& call, uint32_t) {
  return cut_items(call.out, unary_cut(call));
}
inline int64_t unary_grain(const Call& call, uint32_t) { return cut_grain(unary_cut(call)); }

template <class F>
void unary_run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const F fn(call);
  const Cut c = unary_cut(call);
  float in_buffer[kChunk], out_buffer[kChunk];
  for (int64_t item = first; item < end; ++item) {
    const int64_t row = item / c.chunks;
    const int64_t at = (item - row * c.chunks) * kChunk;
    const int64_t n = min_i64(kChunk, c.row_elems - at);
    const float* x = read_floats(call.in[0], row_at(call.in[0], row), at, n, in_buffer);
    char* out_row = row_at(call.out, row);
    float* y = place_floats(call.out, out_row, at, out_buffer);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store(y + i, fn(load(x + i)));
    if (i < n) store_n(y + i, fn(load_n(x + i, n - i)), n - i);
    write_floats(call.out, out_row, at, n, y);
  }
}

template <class F>
constexpr Kernel unary_kernel(const char* name) {
  return {name,    "",      1,           float_inputs, numerics_f32,
          nullptr, nullptr, unary_items, unary_run<F>, unary_grain};
}

// x / (1 + e^-x).
MICA_INLINE f32x16 silu(f32x16 x) { return x * sigmoid(x); }
// x/2 (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). In the left tail the
// result is x e^(2u): 2u is carried as a sum of two floats, or its rounding would show there.
MICA_INLINE f32x16 gelu(f32x16 x) {
  constexpr float kC1 = 1.595769167f, kC1Rest = -4.5341e-8f;
  constexpr float kC3 = 0.07135481387f, kC3Rest = 2.3988e-9f;
  // Beyond 20 the sigmoid is 0 or 1 in F32. NaN passes.
  const f32x16 c = max(set1(-20.0f), min(set1(20.0f), x));
  const f32x16 z = c * c;
  const f32x16 p = z * set1(kC3);
  const f32x16 t = p + set1(kC1);
  const f32x16 b = t - p;  // the exact error of a sum: Knuth, TAOCP 2, 4.2.2
  const f32x16 z_rest = mul_error(c, c, z);
  const f32x16 t_rest = ((p - (t - b)) + (set1(kC1) - b)) + mul_error(z, set1(kC3), p) +
                        fma(z, set1(kC3Rest), fma(z_rest, set1(kC3), set1(kC1Rest)));
  const f32x16 u = c * t;
  const f32x16 u_rest = fma(c, t_rest, mul_error(c, t, u));
  const f32x16 e = exp(neg(abs(u)));
  const mask16 left = lt(u, zero());
  const f32x16 exact = fma(e, select(left, u_rest, neg(u_rest)), e);
  return x * (select(left, exact, set1(1.0f)) / (set1(1.0f) + exact));
}

}  // namespace
MICA_CPU_END
