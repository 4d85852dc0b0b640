// silu: x / (1 + e^-x).
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  explicit Fn(const Call&) {}
  f32x16 operator()(f32x16 x) const { return silu(x); }
};

constexpr Kernel kRows[] = {unary_kernel<Fn>("silu")};

}  // namespace
MICA_CPU_KERNELS(silu, kRows)
MICA_CPU_END
