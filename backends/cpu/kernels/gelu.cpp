// gelu: the tanh approximation.
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  explicit Fn(const Call&) {}
  f32x16 operator()(f32x16 x) const { return gelu(x); }
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("gelu")};

}  // namespace
MICA_CPU_KERNELS(gelu, kRows)
MICA_CPU_END
