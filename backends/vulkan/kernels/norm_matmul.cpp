// norm_matmul: core/fusions/norm_matmul.cpp's region: of few columns a dispatch for each type of
// weights, all of one wave.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"
#include "ops/norm_args.h"

namespace mica::vulkan {
namespace {

constexpr uint32_t kMostMatmuls = 4;

struct Matmuls {
  const Call* list[kMostMatmuls] = {};
  uint32_t n = 0;
  explicit Matmuls(const Call& c) {
    for (uint32_t i = 1; i < c.n_members && n < kMostMatmuls; ++i) list[n++] = &c.members[i];
  }
};

const char* supports(const Call& c) {
  const Matmuls m(c);
  if (const char* why = fused_norm_supports(c.members[0]); why != nullptr) return why;
  return fused_matmuls_support(m.list, m.n);
}

uint32_t numerics(const Call& c) {
  const Matmuls m(c);
  return fused_numerics(m.list, m.n);
}

// Of the matmuls from `first` on, as many as go at once.
Fused fused_of(const Call& c, const Matmuls& m, uint32_t first) {
  Fused f;
  f.streams = fused_streams(m.list, m.n);
  set_fused_norm(f, c.members[0]);
  for (uint32_t i = 0; i < kFusedWeights && first + i < m.n; ++i)
    set_fused_weight(f, i, *m.list[first + i], m.list[first + i]->out.address);
  return f;
}

uint64_t workspace(const Call& c) {
  const Matmuls m(c);
  uint64_t bytes = 0;
  for (uint32_t first = 0; first < m.n; first += kFusedWeights)
    bytes += fused_workspace(caps_of(c.members[0]), fused_of(c, m, first));
  return bytes;
}
mica_status record(const Call& c, Recorder& recorder) {
  const DeviceCaps& caps = caps_of(c.members[0]);
  const Matmuls m(c);
  uint64_t at = c.workspace;
  for (uint32_t first = 0; first < m.n; first += kFusedWeights) {
    const Fused f = fused_of(c, m, first);
    MICA_TRY(record_fused(caps, f, at, recorder));
    at += fused_workspace(caps, f);
  }
  return MICA_OK;
}

constexpr Kernel kRows[] = {
    {"norm_matmul", "", supports, numerics, workspace, record, gpu::takes_weight<kLayoutPlanes>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(norm_matmul, kRows, MICA_KNOWS(rms_norm, eps))
