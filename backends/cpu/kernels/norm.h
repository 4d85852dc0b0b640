// What rms_norm and layer_norm share: rows as chunks of floats, weight and bias.
#pragma once
#include "backends/cpu/kernels/elements.h"
#include "ops/norm_args.h"

MICA_CPU_BEGIN
namespace {

inline int64_t norm_items(const Call& call, uint32_t) { return rows_of(call.out); }
inline int64_t norm_grain(const Call& call, uint32_t) { return rows_grain(call.out.dim[0]); }

// fn(x, first, n) for each chunk of a row as floats.
template <class Fn>
MICA_INLINE void for_chunks(const Tensor& t, const char* row, Fn fn) {
  float buffer[kChunk];
  for (int64_t at = 0; at < t.dim[0]; at += kChunk) {
    const int64_t n = min_i64(kChunk, t.dim[0] - at);
    fn(read_floats(t, row, at, n, buffer), at, n);
  }
}

// A sum over lanes in four chains, so that additions do not wait for each other.
struct Sum {
  f32x16 a = zero(), b = zero(), c = zero(), d = zero();
  float total() const { return reduce_add((a + b) + (c + d)); }
};
template <class Fn>
MICA_INLINE void add_terms(Sum& s, const float* x, int64_t n, Fn term) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    s.a = s.a + term(load(x + i));
    s.b = s.b + term(load(x + i + 16));
    s.c = s.c + term(load(x + i + 32));
    s.d = s.d + term(load(x + i + 48));
  }
  for (; i + 16 <= n; i += 16) s.a = s.a + term(load(x + i));
  if (i < n) {
    s.b = s.b + select(mask_first(n - i), term(load_n(x + i, n - i)), zero());
  }
}

// y = fn(x, weight, bias) of row r, to the row `out` of a tensor like `like`; an absent weight is
// 1, an absent bias 0.
template <class Fn>
MICA_INLINE void scale_row(const Call& call, const Tensor& weight, const Tensor& bias, RowIndex r,
                           const Tensor& like, char* out, Fn fn) {
  float w_buffer[kChunk], b_buffer[kChunk], y_buffer[kChunk];
  for_chunks(call.in[0], row_at(call.in[0], r), [&](const float* x, int64_t at, int64_t n) {
    const float* w =
        weight.data != nullptr ? read_floats(weight, weight.data, at, n, w_buffer) : nullptr;
    const float* b = bias.data != nullptr ? read_floats(bias, bias.data, at, n, b_buffer) : nullptr;
    float* y = place_floats(like, out, at, y_buffer);
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t m = n - i;
      if (m >= 16) {
        store(y + i, fn(load(x + i), w != nullptr ? load(w + i) : set1(1.0f),
                        b != nullptr ? load(b + i) : zero()));
      } else {
        store_n(y + i,
                fn(load_n(x + i, m), w != nullptr ? load_n(w + i, m) : set1(1.0f),
                   b != nullptr ? load_n(b + i, m) : zero()),
                m);
      }
    }
    write_floats(like, out, at, n, y);
  });
}

// The naive rows: one loop an element, in double.
inline double naive_at(const Tensor& t, const char* row, int64_t i, double absent) {
  return t.data == nullptr ? absent : float_at(t.dtype, row + i * t.stride[0]);
}
inline void naive_put(const Tensor& t, char* row, int64_t i, double value) {
  const float lanes[16] = {static_cast<float>(value)};
  write_floats(t, row, i, 1, lanes);
}
inline int64_t naive_grain(const Call&, uint32_t) { return 1; }

}  // namespace
MICA_CPU_END
