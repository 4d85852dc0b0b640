// swiglu: silu(gate) * up.
#include "backends/cpu/kernels/glu.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  static f32x16 apply(f32x16 x) { return silu(x); }
};

constexpr Kernel kRows[] = {glu_kernel<Fn>("swiglu")};

}  // namespace
MICA_CPU_KERNELS(swiglu, kRows)
MICA_CPU_END
