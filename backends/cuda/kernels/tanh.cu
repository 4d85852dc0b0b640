// tanh: the hyperbolic tangent.
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {
namespace {

__device__ float value(float x) { return tanhf(x); }

constexpr Kernel kRows[] = {unary_kernel<Plain<value>>("tanh")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(tanh, kRows)
