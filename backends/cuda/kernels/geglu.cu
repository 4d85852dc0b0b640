// geglu: gelu(gate) * up.
#include "backends/cuda/kernels/glu.cuh"

namespace mica::cuda {
namespace {

constexpr Kernel kRows[] = {glu_kernel<gelu>("geglu")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(geglu, kRows)
