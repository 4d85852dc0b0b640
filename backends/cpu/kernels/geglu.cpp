// geglu: gelu(gate) * up.
#include "backends/cpu/kernels/glu.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  static f32x16 apply(f32x16 x) { return gelu(x); }
};

constexpr Kernel kRows[] = {glu_kernel<Fn>("geglu")};

}  // namespace
MICA_CPU_KERNELS(geglu, kRows)
MICA_CPU_END
