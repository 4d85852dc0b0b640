// rms_norm: weight * x / sqrt(mean(x^2) + eps), a row at a time.
#include "backends/cuda/kernels/norm.cuh"

namespace mica::cuda {
namespace {

template <bool kBlock>
__global__ void rms_norm_rows(NormArgs a) {
  __shared__ float scratch[32];
  __shared__ double wide_scratch[32];
  start_next();
  wait_for_inputs();
  for_rows<kBlock>(a, [&](const RowIndex& r) {
    const float squares = row_sum<kBlock>(a, r, scratch, [](float x) { return x * x; });
    float factor = 1.0f / sqrtf(squares / static_cast<float>(a.n) + a.eps);
    // Squares beyond the range of F32, or lost below it. The same for all threads of the row.
    if (!(squares > 1e-30f && squares < 1e38f)) {
      const double exact = row_sum<kBlock>(a, r, wide_scratch, [](float x) {
        return static_cast<double>(x) * static_cast<double>(x);
      });
      factor = static_cast<float>(
          1.0 / sqrt(exact / static_cast<double>(a.n) + static_cast<double>(a.eps)));
    }
    write_row(a, r, [&](float x) { return x * factor; });
  });
}

mica_status record(const Call& call, Recorder& recorder) {
  return norm_launch(call, recorder, rms_norm_rows<false>, rms_norm_rows<true>,
                     norm_args(call, call.arg<mica_rms_norm_args>().eps));
}

constexpr Kernel kRows[] = {{"rms_norm", "", float_elements, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(rms_norm, kRows, MICA_KNOWS(rms_norm, eps))
