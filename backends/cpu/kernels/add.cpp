// add: a + b, b repeated over a.
#include "backends/cpu/kernels/binary.h"

MICA_CPU_BEGIN
namespace {

struct Fn {
  static f32x16 apply(f32x16 a, f32x16 b) { return a + b; }
};

constexpr Kernel kRows[] = {binary_kernel<Fn>("add")};

}  // namespace
MICA_CPU_KERNELS(add, kRows)
MICA_CPU_END
