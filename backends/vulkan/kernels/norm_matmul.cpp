// norm_matmul: core/fusions/norm_matmul.cpp's region, of few columns: a dispatch for each type of
// weights, all of one wave.
#include "backends/vulkan/kernels/common/matmul_fused.h"

namespace mica::vulkan {
namespace {

const char* supports(const Call& c) {
  if (const char* why = fused_norm_supports(c.members[0]); why != nullptr) return why;
  for (uint32_t i = 1; i < c.n_members; ++i) {
    if (const char* why = fused_matmul_supports(c.members[i]); why != nullptr) return why;
    if (const char* why = fused_same_numerics(c.members[1], c.members[i]); why != nullptr)
      return why;
  }
  return nullptr;
}

uint32_t numerics(const Call& c) { return fused_numerics(c.members[1]); }

mica_status record(const Call& c, Recorder& recorder) {
  for (uint32_t first = 1; first < c.n_members; first += kFusedWeights) {
    Fused f;
    set_fused_norm(f, c.members[0]);
    for (uint32_t i = 0; i < kFusedWeights && first + i < c.n_members; ++i)
      set_fused_weight(f, i, c.members[first + i], c.members[first + i].out.address);
    MICA_TRY(record_fused(caps_of(c.members[0]), f, recorder));
  }
  return MICA_OK;
}

constexpr Kernel kRows[] = {{"norm_matmul", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(norm_matmul, kRows)
