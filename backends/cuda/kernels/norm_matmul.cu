// norm_matmul: core/fusions/norm_matmul.cpp's region, of a few rows and packed weights, in one
// kernel; and that kernel, which the other regions of matmuls use too.
#include "backends/cuda/kernels/matmul_fused.cuh"

namespace mica::cuda {
namespace {

const char* supports(const Call& c) {
  const Call& norm = c.members[0];
  if (const char* why = norm_supports(norm); why != nullptr) return why;
  if (c.n_members - 1 > kMaxSegments) return "there are more than 4 matmuls";
  for (uint32_t i = 1; i < c.n_members; ++i)
    if (const char* why = segment_supports(c.members[i]); why != nullptr) return why;
  return fits(c, norm.in[0].dim[0], norm.in[0].dim[1]) ? nullptr : "x does not fit beside weights";
}
uint32_t numerics(const Call&) { return MICA_NUM_Q8_32; }

mica_status record(const Call& c, Recorder& r) {
  FusedArgs a = {};
  set_norm(a, c.members[0]);
  a.ending = Ending::kStore;
  for (uint32_t i = 1; i < c.n_members; ++i)
    if (!add_segment(a, c.members[i], reinterpret_cast<float*>(c.members[i].out.address)))
      return MICA_INTERNAL;
  return launch_fused(r, a);
}

const Kernel rows[] = {{"norm_matmul", "", supports, numerics, nullptr, record}};

}  // namespace

mica_status launch_fused(Recorder& r, FusedArgs a) {
  a.together = a.ending == Ending::kGateSilu || a.ending == Ending::kGateGelu ? 2 : 1;
  return launch_args(r, a);
}

}  // namespace mica::cuda

MICA_CUDA_KERNELS(norm_matmul, mica::cuda::rows)
