// norm_matmul: core/fusions/norm_matmul.cpp's region, of a few rows, in one kernel; and that
// kernel, which the other regions of matmuls use too.
#include "backends/cuda/kernels/matmul/matmul_fused_plain.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

const char* supports(const Call& c) {
  const Call& norm = c.members[0];
  if (const char* why = norm_supports(norm); why != nullptr) return why;
  if (c.n_members - 1 > kMaxSegments) return "there are more than 4 matmuls";
  for (uint32_t i = 1; i < c.n_members; ++i)
    if (const char* why = segment_supports(c.members[i], c.members[1]); why != nullptr) return why;
  return fits(c, c.members[1]);
}
uint32_t numerics(const Call& c) { return segment_numerics(c.members[1]); }

mica_status record(const Call& c, Recorder& r) {
  FusedArgs a = {};
  set_norm(a, c.members[0]);
  a.ending = Ending::kStore;
  for (uint32_t i = 1; i < c.n_members; ++i)
    if (!add_segment(a, c.members[i], reinterpret_cast<float*>(c.members[i].out.address)))
      return MICA_INTERNAL;
  return launch_fused(r, a);
}

constexpr Kernel rows[] = {
    {"norm_matmul", "", supports, numerics, nullptr, record, gpu::takes_weight<kLayoutRows8>}};

}  // namespace

mica_status launch_fused(Recorder& r, FusedArgs a) {
  a.together = a.ending == Ending::kGateSilu || a.ending == Ending::kGateGelu ? 2 : 1;
  return launch_args(r, a);
}

}  // namespace mica::cuda

MICA_CUDA_KERNELS(norm_matmul, mica::cuda::rows, MICA_KNOWS(rms_norm, eps))
