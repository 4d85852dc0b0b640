// sigmoid: 1 / (1 + e^-x).
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::sigmoid>("sigmoid")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(sigmoid, kRows)
