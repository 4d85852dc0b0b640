// The three dispatches of matmul_stream.h, and how their grids are cut.
#include "backends/vulkan/kernels/matmul/common/matmul_stream.h"

#include <algorithm>

#include "backends/vulkan/kernels/matmul/common/matmul_gemm.h"
#include "backends/vulkan/kernels/common/paths.h"

MICA_VULKAN_SHADER(matmul_end)
MICA_VULKAN_SHADER(matmul_stream_plain_f16)
MICA_VULKAN_SHADER(matmul_stream_coop_f16)
MICA_VULKAN_WEIGHT_SHADERS(matmul_stream_plain)
MICA_VULKAN_WEIGHT_SHADERS(matmul_stream_coop)

namespace mica::vulkan {
namespace {

constexpr uint32_t kFewestColumns = 3;     // fewer are for workgroups that read whole rows of w
constexpr uint32_t kMostColumns = 256;     // more pay for rounding all weights first: matmul_gemm.h
constexpr uint32_t kSharedBytes = 24576;   // of the largest tile
constexpr uint32_t kThreadsPerCore = 512;  // of workgroups that hide each other's waiting
constexpr uint32_t kFewestSteps = 4;       // of a part of K

struct Tile {
  uint32_t n, m, across, down, threads, units;
};
constexpr Tile kCoop[] = {{64, 16, 4, 1, 128, 2}, {128, 32, 8, 1, 256, 2}, {64, 64, 2, 2, 128, 2}};
constexpr Tile kPlain = {32, 32, 2, 2, 4, 2};

uint32_t div_up(uint64_t a, uint64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }
uint32_t padded(uint32_t a, uint32_t b) { return div_up(a, b) * b; }

bool packed(const Tensor& w) { return w.layout == kLayoutPlanes; }
const Shader* shader_of(const DeviceCaps& caps, const Tensor& w) {
  const bool plain = caps.plain_fragments;
  if (!packed(w)) return plain ? &shader_matmul_stream_plain_f16 : &shader_matmul_stream_coop_f16;
  return plain ? weight_shader(kWeightShaders_matmul_stream_plain, w.dtype)
               : weight_shader(kWeightShaders_matmul_stream_coop, w.dtype);
}

// How a region is cut, and where in the workspace its parts are: rounded activations first.
struct Cut {
  Tile tile;
  uint32_t splits, k_pad, m_pad;
  uint64_t factors, products[kFusedWeights];  // offsets
  uint64_t bytes;
};

Cut cut_of(const DeviceCaps& caps, const Fused& f) {
  Cut c{};
  c.tile = kPlain;
  if (!caps.plain_fragments)
    for (const Tile& t : kCoop) {
      c.tile = t;
      if (f.push.m <= t.m) break;
    }
  c.k_pad = padded(f.push.k, 32 * c.tile.units);
  c.m_pad = padded(f.push.m, c.tile.m);
  uint32_t groups = 0;
  for (const uint32_t n : f.push.n) groups += div_up(n, c.tile.n) * (c.m_pad / c.tile.m);
  // As many parts of K as fill the cores, of equal length but for the last one, none of them empty.
  const uint32_t cores = caps.n_cores != 0 ? caps.n_cores : 32;
  const uint32_t n_steps = c.k_pad / (32 * c.tile.units);
  const uint32_t most = kThreadsPerCore / c.tile.threads * cores;
  const uint32_t wanted =
      std::clamp(most / std::max(groups, 1u), 1u, std::max(n_steps / kFewestSteps, 1u));
  c.splits = div_up(n_steps, div_up(n_steps, wanted));
  c.factors = uint64_t{c.m_pad} * c.k_pad * 2;
  c.bytes = c.factors + padded(c.m_pad, 4) * 4;
  for (uint32_t i = 0; i < kFusedWeights; ++i) {
    c.products[i] = c.bytes;
    c.bytes += uint64_t{c.splits} * c.m_pad * padded(f.push.n[i], c.tile.n) * 4;
  }
  return c;
}

MatmulPush push_of(const Fused& f) {
  MatmulPush p{};
  p.x = f.params.x;
  p.s_x[0] = f.params.s_x;
  p.live = f.push.live;
  p.live_dim = 1;
  p.k = f.push.k;
  p.m = f.push.m;
  p.w2 = p.x2 = p.r2 = p.r3 = p.n_slices = 1;
  return p;
}

mica_status round_columns(const DeviceCaps& caps, const Fused& f, const Cut& cut,
                          uint64_t workspace, Recorder& recorder) {
  MatmulPush push = push_of(f);
  push.w[0] = workspace;
  push.w[1] = cut.m_pad;
  push.w[2] = cut.k_pad;
  push.w[3] = f.params.norm;
  const bool norm = f.ending.norm != 0;
  if (norm) std::memcpy(&push.r2, &f.params.eps, sizeof push.r2);
  return record_matmul_rows(caps, f.x->dtype, fused_x_is_wide(f), norm, push, recorder);
}

mica_status multiply(const DeviceCaps& caps, const Fused& f, uint32_t i, const Cut& cut,
                     uint64_t workspace, Recorder& recorder) {
  const Tensor& w = *f.w[i];
  const Tile& t = cut.tile;
  MatmulPush push = push_of(f);
  push.n = f.push.n[i];
  if (packed(w)) {
    plane_addresses(w, push.w);
  } else {
    push.w[0] = w.address;
    push.w[1] = static_cast<uint64_t>(w.stride[1]);
  }
  push.x = workspace;
  push.s_x[0] = cut.k_pad;
  push.y = workspace + cut.products[i];
  push.n_blocks = div_up(push.n, t.n) * cut.splits * (cut.m_pad / t.m);
  const bool choice = !caps.plain_fragments && caps.min_subgroup_size != caps.max_subgroup_size;
  return record_matmul(recorder, *shader_of(caps, w), choice ? 32 : 0,
                       {t.threads, 1, 1, t.n, t.m, t.across, t.down, t.units, cut.splits,
                        !packed(w) && rows_of_eights(w) ? 1u : 0u},
                       push, push.n_blocks);
}

mica_status end(const Fused& f, const Cut& cut, uint64_t workspace, Recorder& recorder) {
  constexpr uint32_t kThreads = 128;
  FusedSpecs specs = {.vec = {.threads = kThreads, .rows = f.has_pairs() ? 2u : 1u},
                      .ending = f.ending,
                      .splits = cut.splits,
                      .tile_n = cut.tile.n,
                      .tile_m = cut.tile.m};
  specs.ending.norm = 0;  // it is done
  FusedParams params = f.params;
  params.x = workspace + cut.factors;
  FusedPush push = f.push;
  MICA_TRY(constants(recorder, &params, sizeof params, push.params));
  uint64_t n_teams = 0;
  for (uint32_t i = 0; i < kFusedWeights; ++i) {
    push.w[i] = workspace + cut.products[i];
    n_teams += div_up(push.n[i], specs.vec.rows);
  }
  return launch(recorder, shader_matmul_end, specs, push,
                folded_threads(n_teams * f.push.m, kThreads));
}

}  // namespace

const char* stream_supports(const Call& c) {
  const Tensor &w = c.in[0], &x = c.in[1];
  const DeviceCaps& caps = caps_of(c);
  if (!packed(w) && w.dtype != MICA_F16) return "w is neither a packed weight nor F16";
  if (!caps.plain_fragments && !has_matrix_units(caps, kSharedBytes))
    return "the device has no matrix units";
  if (shader_of(caps, w)->n_words == 0) return "there is no module for matrix units";
  if (x.dim[1] < kFewestColumns) return "x has few rows";
  if (x.dim[1] > kMostColumns) return "x has many rows";
  if (x.rank > 2 || x.dim[2] != 1 || x.dim[3] != 1 || w.dim[2] != 1 || w.dim[3] != 1)
    return "x has several slices";
  if (x.stride[1] > INT32_MAX || w.dim[1] > INT32_MAX / 256) return "an operand is too large";
  return matmul_operands(c);
}

uint64_t stream_workspace(const DeviceCaps& caps, const Fused& f) { return cut_of(caps, f).bytes; }

mica_status record_stream(const DeviceCaps& caps, const Fused& f, uint64_t workspace,
                          Recorder& recorder) {
  const Cut cut = cut_of(caps, f);
  MICA_TRY(round_columns(caps, f, cut, workspace, recorder));
  barrier(recorder);
  for (uint32_t i = 0; i < kFusedWeights; ++i)
    if (f.push.n[i] != 0) MICA_TRY(multiply(caps, f, i, cut, workspace, recorder));
  barrier(recorder);
  return end(f, cut, workspace, recorder);
}

}  // namespace mica::vulkan
