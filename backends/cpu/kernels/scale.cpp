// scale: x * scale + bias.
#include "backends/cpu/kernels/unary.h"
#include "ops/unary_args.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  explicit Fn(const Call& call) {
    const mica_scale_args& args = *static_cast<const mica_scale_args*>(call.args);
    scale = set1(args.scale);
    bias = set1(args.bias);
  }
  f32x16 operator()(f32x16 x) const { return fma(x, scale, bias); }
  f32x16 scale, bias;
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("scale")};

}  // namespace
MICA_CPU_KERNELS(scale, kRows, MICA_KNOWS(scale, bias))
MICA_CPU_END
