// relu: x above 0, else 0; what is not a number stays.
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {
namespace {

__device__ float value(float x) { return x > 0.0f || x != x ? x : 0.0f; }

constexpr Kernel kRows[] = {unary_kernel<Plain<value>>("relu")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(relu, kRows)
