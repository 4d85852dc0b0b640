// matmul_add: core/fusions/matmul_add.cpp's region, in one dispatch of few columns, in three of
// more.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"

namespace mica::vulkan {
namespace {

enum Member { kMatmul, kSum };

// The input of the sum that is not the matmul's value: that one has no memory.
const Tensor& residual_of(const Call& add) {
  return add.in[0].address != 0 ? add.in[0] : add.in[1];
}

const char* supports(const Call& c) {
  const Call &matmul = c.members[kMatmul], &add = c.members[kSum];
  const Call* const matmuls[] = {&matmul};
  if (const char* why = fused_matmuls_support(matmuls, 1); why != nullptr) return why;
  if (matmul.out.address != 0) return "the product is used elsewhere too";
  const Tensor& residual = residual_of(add);
  if (add.out.dtype != MICA_F32 || residual.dtype != MICA_F32) return "the sum is not F32";
  if (residual.rank > 2 || residual.stride[0] != 4) return "the residual is not of plain rows";
  return residual.stride[1] > INT32_MAX ? "the residual is too large" : nullptr;
}

uint32_t numerics(const Call& c) {
  const Call* const matmuls[] = {&c.members[kMatmul]};
  return fused_numerics(matmuls, 1);
}

Fused fused_of(const Call& c) {
  const Call &matmul = c.members[kMatmul], &add = c.members[kSum];
  const Call* const matmuls[] = {&matmul};
  const Tensor& residual = residual_of(add);
  Fused f;
  f.streams = fused_streams(matmuls, 1);
  f.ending.ending = kAdd;
  set_fused_x(f, matmul.in[1]);
  set_fused_weight(f, 0, matmul, add.out.address);
  f.params.residual = residual.address;
  f.params.s_residual = static_cast<uint32_t>(residual.stride[1]);
  return f;
}

uint64_t workspace(const Call& c) {
  return fused_workspace(caps_of(c.members[kMatmul]), fused_of(c));
}
mica_status record(const Call& c, Recorder& recorder) {
  return record_fused(caps_of(c.members[kMatmul]), fused_of(c), c.workspace, recorder);
}

constexpr Kernel kRows[] = {
    {"matmul_add", "", supports, numerics, workspace, record, gpu::takes_weight<kLayoutPlanes>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(matmul_add, kRows)
