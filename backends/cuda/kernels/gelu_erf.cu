// gelu_erf: x/2 (1 + erf(x / sqrt(2))).
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {
namespace {

__device__ float value(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118f)); }

constexpr Kernel kRows[] = {unary_kernel<Plain<value>>("gelu_erf")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(gelu_erf, kRows)
