// norm_glu: core/fusions/norm_glu.cpp's region, in one dispatch of few columns, in three of more.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"
#include "ops/norm_args.h"

namespace mica::vulkan {
namespace {

enum Member { kNorm, kGate, kUp, kAct, kMul };

using Matmuls = const Call* const[2];

const char* supports(const Call& c) {
  const Matmuls matmuls = {&c.members[kGate], &c.members[kUp]};
  if (const char* why = fused_norm_supports(c.members[kNorm]); why != nullptr) return why;
  if (const char* why = fused_matmuls_support(matmuls, 2); why != nullptr) return why;
  for (const int i : {kGate, kUp, kAct})
    if (c.members[i].out.address != 0) return "gate, up or the activation is used elsewhere too";
  for (const int i : {kUp, kMul})
    for (int d = 0; d < 4; ++d)
      if (c.members[i].out.dim[d] != c.members[kGate].out.dim[d])
        return "gate, up and their product are of different shapes";
  if (matmuls[0]->in[0].dtype != matmuls[1]->in[0].dtype && !fused_streams(matmuls, 2))
    return "gate and up are of two types";
  return c.members[kMul].out.dtype == MICA_F32 ? nullptr : "the result is not F32";
}

uint32_t numerics(const Call& c) {
  const Matmuls matmuls = {&c.members[kGate], &c.members[kUp]};
  return fused_numerics(matmuls, 2);
}

Fused fused_of(const Call& c) {
  const Matmuls matmuls = {&c.members[kGate], &c.members[kUp]};
  Fused f;
  f.streams = fused_streams(matmuls, 2);
  f.ending.ending = kGlu;
  f.ending.gelu = c.members[kAct].op == MICA_OP_gelu ? 1 : 0;
  set_fused_norm(f, c.members[kNorm]);
  set_fused_weight(f, 0, c.members[kGate], c.members[kMul].out.address);
  set_fused_weight(f, 1, c.members[kUp], 0);
  return f;
}

uint64_t workspace(const Call& c) {
  return fused_workspace(caps_of(c.members[kNorm]), fused_of(c));
}
mica_status record(const Call& c, Recorder& recorder) {
  return record_fused(caps_of(c.members[kNorm]), fused_of(c), c.workspace, recorder);
}

constexpr Kernel kRows[] = {
    {"norm_glu", "", supports, numerics, workspace, record, gpu::takes_weight<kLayoutPlanes>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(norm_glu, kRows, MICA_KNOWS(rms_norm, eps))
