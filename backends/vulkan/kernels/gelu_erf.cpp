// gelu_erf: x times the normal distribution function of x.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::gelu_erf>("gelu_erf")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(gelu_erf, kRows)
