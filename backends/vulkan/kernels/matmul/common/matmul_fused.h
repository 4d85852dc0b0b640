// Fused matmuls: up to three weights at once, with an rms_norm ahead and an ending of their own.
// Few columns go through the forms of matmul_vec.comp and matmul_vec_float.comp that do all of it,
// more of them through matrix units where there are any (matmul_stream.h).
#pragma once
#include "backends/vulkan/kernels/matmul/common/matmul.h"

namespace mica::vulkan {

constexpr uint32_t kFusedWeights = 3;

// As matmul_fused.glsl has them.
enum class Ending : uint32_t { store, add, glu, qkv };

struct FusedPush {
  uint64_t x, norm, live;
  uint64_t w[kFusedWeights];
  uint64_t table;
  uint64_t y[kFusedWeights];
  uint64_t a, b;
  uint32_t k, m, s_x;
  float eps;
  uint32_t n[kFusedWeights];
  uint32_t s_a;
};
static_assert(sizeof(FusedPush) == kMaxPushBytes);

// One region's work. Where weights are of several types, each type is a dispatch of its own; they
// need no barrier between them. Of a weight that is absent n is 0.
struct Fused {
  FusedPush push{};
  const Tensor* x = nullptr;
  const Tensor* w[kFusedWeights] = {};
  Ending ending = Ending::store;
  uint32_t detail = 0, head_dim = 2, n_pairs = 0;
  bool streams = false;  // fused_streams of its matmuls
};

// Why the matmuls of a region, or its norm, cannot be parts of it; nullptr: they can.
const char* fused_matmuls_support(const Call* const matmuls[], uint32_t n);
const char* fused_norm_supports(const Call& norm);
bool fused_streams(const Call* const matmuls[], uint32_t n);
uint32_t fused_numerics(const Call* const matmuls[], uint32_t n);
bool fused_x_is_wide(const Fused& f);  // load4's, of x and of the norm's weight

void set_fused_x(Fused& f, const Tensor& x);
void set_fused_norm(Fused& f, const Call& norm);
void set_fused_weight(Fused& f, uint32_t i, const Call& matmul, uint64_t y);
uint64_t fused_workspace(const DeviceCaps& caps, const Fused& f);  // addresses are not used
mica_status record_fused(const DeviceCaps& caps, const Fused& f, uint64_t workspace,
                         Recorder& recorder);

}  // namespace mica::vulkan
