// rms_norm and layer_norm: one shader.
#pragma once
#include "backends/vulkan/kernels/common/elements.h"

namespace mica::vulkan {

const char* norm_supports(const Call& call);
mica_status record_norm(const Call& call, bool layer_norm, float eps, Recorder& recorder);

}  // namespace mica::vulkan
