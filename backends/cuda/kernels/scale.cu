// scale: x * scale + bias.
#include "backends/cuda/kernels/unary.cuh"
#include "ops/unary_args.h"

namespace mica::cuda {
namespace {

struct Fn {
  float factor, bias;
  static Fn of(const Call& call) {
    const auto& args = call.arg<mica_scale_args>();
    return {args.scale, args.bias};
  }
  __device__ float operator()(float x) const { return fmaf(x, factor, bias); }
};
constexpr Kernel kRows[] = {unary_kernel<Fn>("scale")};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(scale, kRows, MICA_KNOWS(scale, bias))
