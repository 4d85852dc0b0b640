// Weights of type f32.
#include "backends/cuda/kernels/matmul/matmul_dots.cuh"
#include "backends/cuda/quant/rows.cuh"

namespace mica::cuda {

using F32 = Plain<MICA_F32>;
const WeightType weight_f32 = {
    MICA_F32,       F32::kParts,        nullptr, nullptr, random_any<F32>, get_rows_any<F32>,
    naive_any<F32>, dots_any<MICA_F32>, nullptr, nullptr};

}  // namespace mica::cuda
