// norm_glu: core/fusions/norm_glu.cpp's region, of a few rows, in one kernel.
#include "backends/cuda/kernels/matmul/matmul_fused.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

enum Member { kNorm, kGate, kUp, kAct, kMul };

const char* supports(const Call& c) {
  const Call& norm = c.members[kNorm];
  if (const char* why = norm_supports(norm); why != nullptr) return why;
  for (const int i : {kGate, kUp}) {
    if (const char* why = segment_supports(c.members[i], c.members[kGate]); why != nullptr)
      return why;
    if (c.members[i].out.address != 0) return "gate or up is used elsewhere too";
  }
  for (const int i : {kUp, kMul})
    for (int d = 0; d < 4; ++d)
      if (c.members[i].out.dim[d] != c.members[kGate].out.dim[d])
        return "gate, up and their product are of different shapes";
  if (c.members[kAct].out.address != 0) return "the activation is used elsewhere too";
  if (c.members[kMul].out.dtype != MICA_F32) return "the result is not F32";
  return fits(c, c.members[kGate]);
}
uint32_t numerics(const Call& c) { return segment_numerics(c.members[kGate]); }

mica_status record(const Call& c, Recorder& r) {
  FusedArgs a = {};
  set_norm(a, c.members[kNorm]);
  a.ending = c.members[kAct].op == MICA_OP_silu ? Ending::kGateSilu : Ending::kGateGelu;
  auto* out = reinterpret_cast<float*>(c.members[kMul].out.address);
  if (!add_segment(a, c.members[kGate], out) || !add_segment(a, c.members[kUp], out))
    return MICA_INTERNAL;
  return launch_fused(r, a);
}

constexpr Kernel rows[] = {
    {"norm_glu", "", supports, numerics, nullptr, record, gpu::takes_weight<kLayoutRows8>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(norm_glu, mica::cuda::rows, MICA_KNOWS(rms_norm, eps))
