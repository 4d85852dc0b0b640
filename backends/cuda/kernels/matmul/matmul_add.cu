// matmul_add: core/fusions/matmul_add.cpp's region, of a few rows, in one kernel.
#include "backends/cuda/kernels/matmul/matmul_fused.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {
namespace {

// The input of the sum that is not the matmul's value: that one has no memory.
const Tensor& residual_of(const Call& add) {
  return add.in[0].address != 0 ? add.in[0] : add.in[1];
}

const char* supports(const Call& c) {
  const Call &matmul = c.members[0], &add = c.members[1];
  if (const char* why = segment_supports(matmul, matmul); why != nullptr) return why;
  if (matmul.out.address != 0) return "the product is used elsewhere too";
  const Tensor& residual = residual_of(add);
  if (add.out.dtype != MICA_F32 || residual.dtype != MICA_F32) return "the sum is not F32";
  if (residual.rank > 2 || residual.stride[0] != 4) return "the residual is not of plain rows";
  return fits(c, matmul);
}
uint32_t numerics(const Call& c) { return segment_numerics(c.members[0]); }

mica_status record(const Call& c, Recorder& r) {
  const Call &matmul = c.members[0], &add = c.members[1];
  FusedArgs a = {};
  set_x(a, matmul.in[1]);
  a.ending = Ending::kAdd;
  const Tensor& residual = residual_of(add);
  a.residual = reinterpret_cast<const float*>(residual.address);
  a.residual_stride = residual.stride[1];
  if (!add_segment(a, matmul, reinterpret_cast<float*>(add.out.address))) return MICA_INTERNAL;
  return launch_fused(r, a);
}

constexpr Kernel rows[] = {
    {"matmul_add", "", supports, numerics, nullptr, record, gpu::takes_weight<kLayoutRows8>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(matmul_add, mica::cuda::rows)
