// geglu: gelu(gate) * up.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {glu_kernel<Act::gelu>("geglu")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(geglu, kRows)
