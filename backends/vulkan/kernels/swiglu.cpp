// swiglu: silu(gate) * up.
#include "backends/vulkan/kernels/common/elementwise.h"

namespace mica::vulkan {
namespace {

constexpr Kernel kRows[] = {glu_kernel<Act::silu>("swiglu")};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(swiglu, kRows)
