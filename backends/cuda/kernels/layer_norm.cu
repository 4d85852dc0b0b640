// layer_norm: weight * (x - mean) / sqrt(variance + eps) + bias, a row at a time.
#include "backends/cuda/kernels/norm.cuh"

namespace mica::cuda {
namespace {

template <bool kBlock>
__global__ void layer_norm_rows(NormArgs a) {
  __shared__ float scratch[32];
  start_next();
  wait_for_inputs();
  const float n = static_cast<float>(a.n);
  for_rows<kBlock>(a, [&](const RowIndex& r) {
    const float mean = row_sum<kBlock>(a, r, scratch, [](float x) { return x; }) / n;
    // The mean once more, from the differences: what rounding took from it the first time.
    const float rest = row_sum<kBlock>(a, r, scratch, [&](float x) { return x - mean; }) / n;
    const float squares = row_sum<kBlock>(a, r, scratch, [&](float x) {
      const float d = (x - mean) - rest;
      return d * d;
    });
    const float factor = 1.0f / sqrtf(squares / n + a.eps);
    write_row(a, r, [&](float x) { return ((x - mean) - rest) * factor; });
  });
}

mica_status record(const Call& call, Recorder& recorder) {
  return norm_launch(call, recorder, layer_norm_rows<false>, layer_norm_rows<true>,
                     norm_args(call, call.arg<mica_layer_norm_args>().eps));
}

constexpr Kernel kRows[] = {{"layer_norm", "", float_elements, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(layer_norm, kRows, MICA_KNOWS(layer_norm, eps))
