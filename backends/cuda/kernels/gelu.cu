// gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Plain<gelu>>("gelu")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(gelu, kRows)
