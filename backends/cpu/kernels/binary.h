// Arithmetic of two tensors, b repeated over a: binary_kernel<F>("name"), F::apply(a, b) on lanes.
#pragma once
#include "backends/cpu/kernels/elements.h"

MICA_CPU_BEGIN
namespace {

inline bool same_shape(const Tensor& a, const Tensor& b) {
  for (int i = 0; i < 4; ++i) {
    if (a.dim[i] != b.dim[i]) return false;
  }
  return true;
}

inline Cut binary_cut(const Call& call) {
  const Tensor& a = call.in[0];
  const Tensor& b = call.in[1];
  return cut(call.out, packed(a) && packed(b) && same_shape(a, b));
}
inline int64_t binary_items(const Call& call, uint32_t) {
  return cut_items(call.out, binary_cut(call));
}
inline int64_t binary_grain(const Call& call, uint32_t) { return cut_grain(binary_cut(call)); }

template <class F>
MICA_INLINE void apply_rows(const float* a, const float* b, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, F::apply(load(a + i), load(b + i)));
  if (i < n) store_n(y + i, F::apply(load_n(a + i, n - i), load_n(b + i, n - i)), n - i);
}
template <class F>
MICA_INLINE void apply_scalar(const float* a, float b, int64_t n, float* y) {
  const f32x16 all = set1(b);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, F::apply(load(a + i), all));
  if (i < n) store_n(y + i, F::apply(load_n(a + i, n - i), all), n - i);
}

template <class F>
void binary_run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Cut c = binary_cut(call);
  const Tensor& a = call.in[0];
  const Tensor& b = call.in[1];
  float a_buffer[kChunk], b_buffer[kChunk], out_buffer[kChunk];
  for (int64_t item = first; item < end; ++item) {
    const int64_t row = item / c.chunks;
    const int64_t at = (item - row * c.chunks) * kChunk;
    const int64_t n = min_i64(kChunk, c.row_elems - at);
    const RowIndex r = row_index(call.out, row);
    char* out_row = row_at(call.out, r);
    float* y = place_floats(call.out, out_row, at, out_buffer);
    const float* x = read_floats(a, row_at(a, r), at, n, a_buffer);
    const char* b_row = repeated_row_at(b, r);
    if (b.dim[0] == 1 && call.out.dim[0] != 1 && !c.flat) {
      apply_scalar<F>(x, float_at(b.dtype, b_row), n, y);
    } else {
      apply_rows<F>(x, read_floats(b, b_row, at, n, b_buffer), n, y);
    }
    write_floats(call.out, out_row, at, n, y);
  }
}

template <class F>
constexpr Kernel binary_kernel(const char* name) {
  return {name,          "",          1, float_inputs, numerics_f32, nullptr, nullptr, binary_items,
          binary_run<F>, binary_grain};
}

}  // namespace
MICA_CPU_END
