// Matmuls of some columns by matrix units, of a region or alone: activations are rounded to F16
// (behind an rms_norm if there is one), multiplied with weights as they lie in memory, and the
// parts of the products added up and ended as the region wants.
#pragma once
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"

namespace mica::vulkan {

// Why this is no way for a matmul; nullptr: it is.
const char* stream_supports(const Call& matmul);
// For a region with the weights of `f`; addresses are not used.
uint64_t stream_workspace(const DeviceCaps& caps, const Fused& f);
mica_status record_stream(const DeviceCaps& caps, const Fused& f, uint64_t workspace,
                          Recorder& recorder);

}  // namespace mica::vulkan
