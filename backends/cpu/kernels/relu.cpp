// relu: max(x, 0); NaN stays NaN.
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  explicit Fn(const Call&) {}
  f32x16 operator()(f32x16 x) const { return select(lt(x, zero()), zero(), x); }
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("relu")};

}  // namespace
MICA_CPU_KERNELS(relu, kRows)
MICA_CPU_END
