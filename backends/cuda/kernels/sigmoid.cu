// sigmoid: 1 / (1 + e^-x).
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Plain<sigmoid>>("sigmoid")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(sigmoid, kRows)
