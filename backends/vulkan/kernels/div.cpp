// div: a / b, b repeated over a.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {binary_kernel<Arithmetic::div>("div")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(div, kRows)
