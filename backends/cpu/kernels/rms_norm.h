// A row of rms_norm: weight * x / sqrt(mean(x^2) + eps). Shared by the kernels that begin with it.
#pragma once
#include "backends/cpu/kernels/norm.h"

MICA_CPU_BEGIN
namespace {

inline float eps_of(const Call& call) {
  return static_cast<const mica_rms_norm_args*>(call.args)->eps;
}

inline double exact_squares(const Tensor& x, const char* row) {
  double sum = 0;
  for (int64_t i = 0; i < x.dim[0]; ++i) {
    const double v = naive_at(x, row, i, 0);
    sum += v * v;
  }
  return sum;
}

// Row `row` of `call`, to the row `out` of a tensor like `like`.
inline void rms_norm_row(const Call& call, int64_t row, const Tensor& like, char* out) {
  const Tensor& x = call.in[0];
  const float n = static_cast<float>(x.dim[0]);
  const RowIndex r = row_index(x, row);
  Sum sum;
  for_chunks(x, row_at(x, r), [&](const float* v, int64_t, int64_t n_chunk) {
    add_terms(sum, v, n_chunk, [](f32x16 a) { return a * a; });
  });
  const float squares = sum.total();
  float factor = 1.0f / __builtin_sqrtf(squares / n + eps_of(call));
  // Squares beyond the range of F32, or lost below it.
  if (!(squares > 1e-30f && squares < 1e38f)) {
    const double mean = exact_squares(x, row_at(x, r)) / static_cast<double>(x.dim[0]);
    factor = static_cast<float>(1.0 / __builtin_sqrt(mean + static_cast<double>(eps_of(call))));
  }
  const f32x16 all = set1(factor);
  scale_row(call, call.in[1], Tensor{}, r, like, out,
            [&](f32x16 v, f32x16 w, f32x16) { return v * all * w; });
}

}  // namespace
MICA_CPU_END
