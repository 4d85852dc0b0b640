// tanh: element by element.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::tanh>("tanh")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(tanh, kRows)
