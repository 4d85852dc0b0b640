// rms_norm: weight * x / sqrt(mean(x^2) + eps), a row at a time.
#include "backends/cpu/kernels/rms_norm.h"

MICA_CPU_BEGIN
namespace {

void run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  for (int64_t row = first; row < end; ++row) {
    rms_norm_row(call, row, call.out, row_at(call.out, row));
  }
}

void run_naive(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Tensor& x = call.in[0];
  for (int64_t row = first; row < end; ++row) {
    const char* from = row_at(x, row);
    const double mean = exact_squares(x, from) / static_cast<double>(x.dim[0]);
    const double factor = 1.0 / __builtin_sqrt(mean + static_cast<double>(eps_of(call)));
    for (int64_t i = 0; i < x.dim[0]; ++i) {
      const double w = naive_at(call.in[1], call.in[1].data, i, 1);
      naive_put(call.out, row_at(call.out, row), i, naive_at(x, from, i, 0) * factor * w);
    }
  }
}

constexpr Kernel kRows[] = {
    {"rms_norm", "vector", 1, float_inputs, numerics_f32, nullptr, nullptr, norm_items, run,
     norm_grain},
    {"rms_norm", "naive", 1, float_inputs, numerics_f32, nullptr, nullptr, norm_items, run_naive,
     naive_grain},
};

}  // namespace
MICA_CPU_KERNELS(rms_norm, kRows, MICA_KNOWS(rms_norm, eps))
MICA_CPU_END
