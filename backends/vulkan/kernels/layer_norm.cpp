// layer_norm: rows brought to mean 0 and variance 1, times a weight, plus a bias.
#include "backends/vulkan/kernels/common/norm.h"
#include "ops/norm_args.h"

namespace mica::vulkan {
namespace {

mica_status record(const Call& call, Recorder& recorder) {
  return record_norm(call, true, call.arg<mica_layer_norm_args>().eps, recorder);
}

constexpr Kernel kRows[] = {{"layer_norm", "", norm_supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(layer_norm, kRows, MICA_KNOWS(layer_norm, eps))
