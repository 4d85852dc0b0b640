// rms_norm: rows brought to one size, times a weight.
#include "backends/vulkan/kernels/common/norm.h"
#include "ops/norm_args.h"

namespace mica::vulkan {
namespace {

mica_status record(const Call& call, Recorder& recorder) {
  return record_norm(call, false, call.arg<mica_rms_norm_args>().eps, recorder);
}

constexpr Kernel kRows[] = {{"rms_norm", "", norm_supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(rms_norm, kRows, MICA_KNOWS(rms_norm, eps))
