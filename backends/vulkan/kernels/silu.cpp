// silu: x / (1 + e^-x).
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {unary_kernel<Act::silu>("silu")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(silu, kRows)
