// swiglu: silu(gate) * up.
#include "backends/cuda/kernels/glu.cuh"

namespace mica::cuda {
namespace {

constexpr Kernel kRows[] = {glu_kernel<silu>("swiglu")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(swiglu, kRows)
