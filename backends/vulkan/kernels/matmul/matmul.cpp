// Matrix times matrix: w [K, N, c2, c3], x [K, M, b2, b3] -> F32 [N, M, b2, b3], slice j of x with
// slice j / (b / c) of w. Few columns go through teams of invocations that each read whole rows of
// w, many through tiles, or through matrix units where there are any; the naive variant is one
// invocation an output.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/matmul/common/matmul_gemm.h"
#include "backends/vulkan/kernels/matmul/common/matmul_stream.h"

MICA_VULKAN_SHADER(matmul_plain)
MICA_VULKAN_SHADER(matmul_vec_float)
MICA_VULKAN_SHADER(matmul_prepare)
MICA_VULKAN_SHADER(matmul_tile_f16)
MICA_VULKAN_WEIGHT_SHADERS(matmul)
MICA_VULKAN_WEIGHT_SHADERS(matmul_vec)
MICA_VULKAN_WEIGHT_SHADERS(matmul_vec_dot)
MICA_VULKAN_WEIGHT_SHADERS(matmul_tile)

namespace mica::vulkan {
namespace {

uint32_t numerics_f32(const Call&) { return MICA_NUM_F32; }
uint32_t numerics_f16(const Call&) { return MICA_NUM_F16; }
uint32_t numerics_f16_w(const Call&) { return MICA_NUM_F16_W; }
uint32_t numerics_q8_32(const Call&) { return MICA_NUM_Q8_32; }

bool packed(const Call& c) { return c.in[0].layout == kLayoutPlanes; }

// Up to here reading the weights once for 8 columns is better than tiles.
bool few_columns(const Call& c) {
  return c.in[1].dim[1] <= (caps_of(c).subgroup_size >= 32 ? 32 : 8);
}

namespace vec {  // packed weights, few columns

constexpr uint32_t kUnitBytes = 40;  // of activations in shared memory

const char* supports(const Call& c) {
  if (!packed(c)) return "w is not a packed weight";
  if (!few_columns(c)) return "x has many rows";
  return matmul_operands(c);
}

mica_status record(const Call& c, Recorder& recorder) {
  const DeviceCaps& caps = caps_of(c);
  const Tensor& x = c.in[1];
  MatmulPush push = matmul_push(c);
  const MatmulTeams t = matmul_teams(caps, c, push.k / 32);
  push.n_blocks = t.n_blocks;
  const Shader* shader = caps.dot ? weight_shader(kWeightShaders_matmul_vec_dot, c.in[0].dtype)
                                  : weight_shader(kWeightShaders_matmul_vec, c.in[0].dtype);
  MatmulVecSpecs specs = t.specs(x, rows_of_fours(x));
  specs.chunk = matmul_chunk(caps, t, kUnitBytes, t.rows * t.columns, push.k / 32);
  return launch(recorder, *shader, specs, push, folded(uint64_t{push.n_blocks} * push.n_slices),
                t.required_subgroup);
}

}  // namespace vec

namespace tile {  // packed or F16 weights, many columns

const char* supports(const Call& c) {
  if (!packed(c) && c.in[0].dtype != MICA_F16) return "w is neither a packed weight nor F16";
  if (few_columns(c)) return "x has few rows";
  return matmul_operands(c);
}

MatmulTile tile_of(const Call& c) { return matmul_tile(caps_of(c), c); }

uint64_t workspace(const Call& c) { return matmul_prepared(c, tile_of(c).m).bytes; }

mica_status record(const Call& c, Recorder& recorder) {
  constexpr uint32_t kPrepareThreads = 64;
  const Tensor& x = c.in[1];
  const MatmulTile t = tile_of(c);
  const MatmulPrepared prepared = matmul_prepared(c, t.m);
  MatmulPush push = matmul_push(c);
  push.w[0] = c.workspace;
  push.w[1] = c.workspace + prepared.sums;
  push.n_blocks = push.m * ((push.k + 31) / 32);
  const uint64_t n = uint64_t{push.n_blocks} * push.n_slices;
  MICA_TRY(record_matmul(
      recorder, shader_matmul_prepare, 0,
      {kPrepareThreads, 1, 1, static_cast<uint32_t>(x.dtype), rows_of_fours(x) ? 1u : 0u, t.m},
      push, (n + kPrepareThreads - 1) / kPrepareThreads));
  barrier(recorder);
  push = matmul_push(c);
  push.x = c.workspace;
  push.s_x[0] = c.workspace + prepared.sums;
  push.n_blocks = (push.n + t.n - 1) / t.n * ((push.m + t.m - 1) / t.m);
  const Shader* shader = packed(c) ? weight_shader(kWeightShaders_matmul_tile, c.in[0].dtype)
                                   : &shader_matmul_tile_f16;
  const uint32_t w_wide = !packed(c) && rows_of_eights(c.in[0]) ? 1 : 0;
  return record_matmul(recorder, *shader, 0, {t.threads, 1, 1, t.n, t.m, t.across, t.down, w_wide},
                       push, uint64_t{push.n_blocks} * push.n_slices);
}

}  // namespace tile

namespace stream {  // packed or F16 weights, some columns, on matrix units

Fused fused_of(const Call& c) {
  Fused f;
  f.streams = true;
  set_fused_x(f, c.in[1]);
  set_fused_weight(f, 0, c, c.out.address);
  return f;
}
uint64_t workspace(const Call& c) { return stream_workspace(caps_of(c), fused_of(c)); }
mica_status record(const Call& c, Recorder& recorder) {
  return record_stream(caps_of(c), fused_of(c), c.workspace, recorder);
}

}  // namespace stream

namespace gemm {  // packed or F16 weights, many columns, on matrix units

const char* supports(const Call& c) {
  if (few_columns(c)) return "x has few rows";
  return matmul_gemm(c).why;
}
uint64_t workspace(const Call& c) { return matmul_gemm(c).workspace_bytes; }
mica_status record(const Call& c, Recorder& recorder) {
  return record_matmul_gemm(c, matmul_gemm(c), recorder);
}

}  // namespace gemm

namespace vec_float {  // plain rows, 8 columns at a time

const char* supports(const Call& c) {
  if (packed(c) || !is_float(c.in[0].dtype)) return "w is quantized";
  return matmul_operands(c);
}

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& w = c.in[0];
  const Tensor& x = c.in[1];
  MatmulPush push = matmul_push(c);
  const MatmulTeams t = matmul_teams(caps_of(c), c, (push.k + 7) / 8);
  push.n_blocks = t.n_blocks;
  MatmulVecSpecs specs = t.specs(x, rows_of_fours(x));
  specs.w_dtype = static_cast<uint32_t>(w.dtype);
  specs.w_wide = rows_of_eights(w) ? 2 : rows_of_fours(w) ? 1 : 0;
  return launch(recorder, shader_matmul_vec_float, specs, push,
                folded(uint64_t{push.n_blocks} * push.n_slices), t.required_subgroup);
}

}  // namespace vec_float

namespace naive {

const char* supports(const Call& c) {
  const mica_dtype w = c.in[0].dtype;
  if (w == MICA_I32 || w == MICA_I64) return "w holds integers";
  if (c.in[0].dim[1] * c.in[1].dim[1] > UINT32_MAX) return "a slice has more than 2^32 elements";
  return matmul_operands(c);
}

mica_status record(const Call& c, Recorder& recorder) {
  constexpr uint32_t kThreads = 64;
  MatmulPush push = matmul_push(c);
  push.n_blocks = push.n * push.m;
  const Shader* shader =
      packed(c) ? weight_shader(kWeightShaders_matmul, c.in[0].dtype) : &shader_matmul_plain;
  const uint64_t n = uint64_t{push.n_blocks} * push.n_slices;
  return record_matmul(
      recorder, *shader, 0,
      {kThreads, 1, 1, static_cast<uint32_t>(c.in[1].dtype), static_cast<uint32_t>(c.in[0].dtype)},
      push, (n + kThreads - 1) / kThreads);
}

}  // namespace naive

constexpr Kernel kRows[] = {
    {"matmul", "stream", stream_supports, numerics_f16_w, stream::workspace, stream::record,
     gpu::takes_weight<kLayoutPlanes>},
    {"matmul", "vec", vec::supports, numerics_q8_32, nullptr, vec::record,
     gpu::takes_weight<kLayoutPlanes>},
    {"matmul", "gemm", gemm::supports, numerics_f16_w, gemm::workspace, gemm::record,
     gpu::takes_weight<kLayoutPlanes>},
    {"matmul", "tile", tile::supports, numerics_f16, tile::workspace, tile::record,
     gpu::takes_weight<kLayoutPlanes>},
    {"matmul", "vec_float", vec_float::supports, numerics_f32, nullptr, vec_float::record,
     gpu::takes_weight<kLayoutPlanes>},
    {"matmul", "naive", naive::supports, numerics_f32, nullptr, naive::record,
     gpu::takes_weight<kLayoutPlanes>},
};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(matmul, kRows)
