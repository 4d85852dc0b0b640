// Fused matmuls: up to three weights at once, with an rms_norm ahead and an ending of their own.
// Few columns go through the forms of matmul_vec.comp and matmul_vec_float.comp that do all of it,
// more of them through matrix units where there are any (matmul_stream.h).
#pragma once
#include "backends/vulkan/kernels/matmul/common/matmul.h"
#include "backends/vulkan/kernels/matmul/common/matmul_fused_params.h"

namespace mica::vulkan {

constexpr uint32_t kFusedWeights = 3;

// What is left of the push constants is for operands that are still to come.
static_assert(sizeof(FusedPush) <= 64);

// What is done with the sums, as matmul_fused.glsl's specialization constants say it.
struct EndingSpecs {
  uint32_t ending = kStore;
  uint32_t norm = 0;
  uint32_t gelu = 0;                 // of kGlu; 0: SiLU
  uint32_t head_dim[3] = {2, 2, 2};  // of kQkv, as all that follow
  uint32_t n_pairs[2] = {0, 0};      // that RoPE turns in a head of Q and of K,
  uint32_t half_split[2] = {0, 0};   // and how they lie
  uint32_t cell_k = 0, cell_v = 0;   // mica_dtype
};
// In the order of their numbers; each shader reads those that it declares.
struct FusedSpecs {
  MatmulVecSpecs vec;
  EndingSpecs ending;
  uint32_t splits = 1, tile_n = 0, tile_m = 0;  // of matmul_end.comp
};

// One region's work. Where weights are of several types, each type is a dispatch of its own; they
// need no barrier between them. Of a weight that is absent n is 0.
struct Fused {
  FusedPush push{};  // but for the address of the parameters
  FusedParams params{};
  const Tensor* x = nullptr;
  const Tensor* w[kFusedWeights] = {};
  EndingSpecs ending;
  bool streams = false;  // fused_streams of its matmuls

  // Rows come in pairs that belong together.
  bool has_pairs() const { return ending.ending == kGlu || ending.ending == kQkv; }
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
mica_status record_fused(const DeviceCaps& caps, Fused f, uint64_t workspace, Recorder& recorder);

}  // namespace mica::vulkan
