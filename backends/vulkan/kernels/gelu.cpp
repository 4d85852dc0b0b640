// gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::gelu>("gelu")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(gelu, kRows)
