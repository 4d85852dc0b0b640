// tanh: element by element.
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  explicit Fn(const Call&) {}
  f32x16 operator()(f32x16 x) const { return tanh(x); }
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("tanh")};

}  // namespace
MICA_CPU_KERNELS(tanh, kRows)
MICA_CPU_END
