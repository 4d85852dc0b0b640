// relu: the greater of x and 0.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::relu>("relu")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(relu, kRows)
