// mul: a times b, b repeated over a.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {binary_kernel<Arithmetic::mul>("mul")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(mul, kRows)
