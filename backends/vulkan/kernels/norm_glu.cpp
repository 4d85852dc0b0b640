// norm_glu: core/fusions/norm_glu.cpp's region, of few columns, in one dispatch.
#include "backends/vulkan/kernels/common/matmul_fused.h"

namespace mica::vulkan {
namespace {

enum Member { kNorm, kGate, kUp, kAct, kMul };

const char* supports(const Call& c) {
  if (const char* why = fused_norm_supports(c.members[kNorm]); why != nullptr) return why;
  for (const int i : {kGate, kUp})
    if (const char* why = fused_matmul_supports(c.members[i]); why != nullptr) return why;
  for (const int i : {kGate, kUp, kAct})
    if (c.members[i].out.address != 0) return "gate, up or the activation is used elsewhere too";
  if (c.members[kGate].in[0].dtype != c.members[kUp].in[0].dtype)
    return "gate and up are of two types";
  return c.members[kMul].out.dtype == MICA_F32 ? nullptr : "the result is not F32";
}

uint32_t numerics(const Call& c) { return fused_numerics(c.members[kGate]); }

mica_status record(const Call& c, Recorder& recorder) {
  Fused f;
  f.ending = Ending::glu;
  f.detail = c.members[kAct].op == MICA_OP_gelu ? 1 : 0;
  set_fused_norm(f, c.members[kNorm]);
  set_fused_weight(f, 0, c.members[kGate], c.members[kMul].out.address);
  set_fused_weight(f, 1, c.members[kUp], 0);
  return record_fused(caps_of(c.members[kNorm]), f, recorder);
}

constexpr Kernel kRows[] = {{"norm_glu", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(norm_glu, kRows)
