// layer_norm: weight * (x - mean) / sqrt(variance + eps) + bias, a row at a time.
#include "backends/cpu/kernels/norm.h"

MICA_CPU_BEGIN
namespace {

float eps_of(const Call& call) { return static_cast<const mica_layer_norm_args*>(call.args)->eps; }

void run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Tensor& x = call.in[0];
  const float n = static_cast<float>(x.dim[0]);
  for (int64_t row = first; row < end; ++row) {
    const RowIndex r = row_index(x, row);
    const char* from = row_at(x, r);
    Sum sum;
    for_chunks(x, from, [&](const float* v, int64_t, int64_t m) {
      add_terms(sum, v, m, [](f32x16 a) { return a; });
    });
    // The mean once more, from the differences: what rounding took from it the first time.
    const f32x16 mean = set1(sum.total() / n);
    Sum differences, squares;
    for_chunks(x, from, [&](const float* v, int64_t, int64_t m) {
      add_terms(differences, v, m, [&](f32x16 a) { return a - mean; });
      add_terms(squares, v, m, [&](f32x16 a) { return (a - mean) * (a - mean); });
    });
    const float rest = differences.total() / n;
    const float variance = squares.total() / n - rest * rest;
    const f32x16 factor = set1(1.0f / __builtin_sqrtf(variance + eps_of(call)));
    const f32x16 shift = set1(rest);
    scale_row(
        call, call.in[1], call.in[2], r, call.out, row_at(call.out, r),
        [&](f32x16 v, f32x16 w, f32x16 b) { return fma(((v - mean) - shift) * factor, w, b); });
  }
}

void run_naive(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Tensor& x = call.in[0];
  const double n = static_cast<double>(x.dim[0]);
  for (int64_t row = first; row < end; ++row) {
    const char* from = row_at(x, row);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < x.dim[0]; ++i) sum += naive_at(x, from, i, 0);
    const double mean = sum / n;
    for (int64_t i = 0; i < x.dim[0]; ++i) {
      const double d = naive_at(x, from, i, 0) - mean;
      squares += d * d;
    }
    const double factor = 1.0 / __builtin_sqrt(squares / n + static_cast<double>(eps_of(call)));
    for (int64_t i = 0; i < x.dim[0]; ++i) {
      const double w = naive_at(call.in[1], call.in[1].data, i, 1);
      const double b = naive_at(call.in[2], call.in[2].data, i, 0);
      const double y = (naive_at(x, from, i, 0) - mean) * factor * w + b;
      naive_put(call.out, row_at(call.out, row), i, y);
    }
  }
}

constexpr Kernel kRows[] = {
    {"layer_norm", "vector", 1, float_inputs, numerics_f32, nullptr, nullptr, norm_items, run,
     norm_grain},
    {"layer_norm", "naive", 1, float_inputs, numerics_f32, nullptr, nullptr, norm_items, run_naive,
     naive_grain},
};

}  // namespace
MICA_CPU_KERNELS(layer_norm, kRows, MICA_KNOWS(layer_norm, eps))
MICA_CPU_END
