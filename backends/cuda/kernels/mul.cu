// mul: a * b, b repeated over a.
#include "backends/cuda/kernels/binary.cuh"

namespace mica::cuda {
namespace {

struct Fn {
  static __device__ float apply(float a, float b) { return a * b; }
};
constexpr Kernel kRows[] = {binary_kernel<Fn>("mul")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(mul, kRows)
