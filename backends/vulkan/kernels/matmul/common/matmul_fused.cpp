// Checks, arguments and grids of fused matmuls.
#include "backends/vulkan/kernels/matmul/common/matmul_fused.h"

#include "backends/vulkan/kernels/matmul/common/matmul_stream.h"
#include "ops/norm_args.h"

MICA_VULKAN_SHADER(matmul_vec_float_fused)
MICA_VULKAN_WEIGHT_SHADERS(matmul_vec_fused)
MICA_VULKAN_WEIGHT_SHADERS(matmul_vec_fused_dot)

namespace mica::vulkan {
namespace {

constexpr uint32_t kUnitBytes = 44;       // of activations in shared memory
constexpr int64_t kMaxBytes = INT32_MAX;  // of a row of x, and of n and k
constexpr uint32_t kGroupsForFour = 6;    // workgroups a core, where teams have four rows

bool packed(const Tensor& w) { return w.layout == kLayoutPlanes; }

uint32_t teams_for(uint32_t n, uint32_t rows) { return (n + rows - 1) / rows; }

uint32_t n_teams(const Fused& f, uint32_t rows) {
  if (f.ending.ending == kGlu) return teams_for(2 * f.push.n[0], rows);
  uint32_t n = 0;
  for (const uint32_t n_rows : f.push.n) n += teams_for(n_rows, rows);
  return n;
}

// matmul's, of a weight with all the rows; rows that belong together stay in one team.
MatmulTeams fused_teams(const DeviceCaps& caps, const Fused& f, uint32_t n_items) {
  Call all{};
  for (const uint32_t n : f.push.n) all.in[0].dim[1] += n;
  all.in[1].dim[1] = f.push.m;
  all.in[1].dim[2] = all.in[1].dim[3] = 1;
  MatmulTeams t = matmul_teams(caps, all, n_items);
  const uint32_t passes = (f.push.m + t.columns - 1) / t.columns;
  const auto blocks = [&] {
    const uint32_t each = t.threads / t.team;
    return (n_teams(f, t.rows) + each - 1) / each * passes;
  };
  const uint32_t cores = caps.n_cores != 0 ? caps.n_cores : 32;
  t.team = t.reduce != 0 ? t.team : t.subgroup;
  t.rows = t.columns <= 4 ? 4 : 2;
  if (t.rows == 4 && blocks() < kGroupsForFour * cores) t.rows = 2;
  if (!f.has_pairs() && blocks() * 2 < 3 * cores) t.rows = 1;
  while (t.team * 2 <= t.threads && t.team * 2 <= n_items && blocks() * 2 < 3 * cores) t.team *= 2;
  t.n_blocks = blocks();
  return t;
}

// The weights of `dtype` alone.
Fused of_type(const Fused& f, mica_dtype dtype) {
  Fused one = f;
  for (uint32_t i = 0; i < kFusedWeights; ++i)
    if (f.push.n[i] != 0 && f.w[i]->dtype != dtype) one.push.n[i] = 0;
  return one;
}

// load8's, of all weights.
uint32_t weights_width(const Fused& f) {
  uint32_t width = 2;
  for (uint32_t i = 0; i < kFusedWeights; ++i) {
    if (f.push.n[i] == 0) continue;
    const uint32_t own = rows_of_eights(*f.w[i]) ? 2 : rows_of_fours(*f.w[i]) ? 1 : 0;
    width = own < width ? own : width;
  }
  return width;
}

// Weights that are all of one type. f.push is complete.
mica_status record_type(const DeviceCaps& caps, const Fused& f, const Tensor& w,
                        Recorder& recorder) {
  const uint32_t n_items = packed(w) ? f.push.k / 32 : (f.push.k + 7) / 8;
  const MatmulTeams t = fused_teams(caps, f, n_items);
  FusedSpecs specs = {.vec = t.specs(*f.x, fused_x_is_wide(f)), .ending = f.ending};
  const Shader* shader = &shader_matmul_vec_float_fused;
  if (packed(w)) {
    shader = caps.dot ? weight_shader(kWeightShaders_matmul_vec_fused_dot, w.dtype)
                      : weight_shader(kWeightShaders_matmul_vec_fused, w.dtype);
    const uint32_t sums = (t.rows + f.ending.norm) * t.columns;
    specs.vec.chunk = matmul_chunk(caps, t, kUnitBytes, sums, n_items);
  } else {
    specs.vec.w_dtype = static_cast<uint32_t>(w.dtype);
    specs.vec.w_wide = weights_width(f);
  }
  return launch(recorder, *shader, specs, f.push, folded(t.n_blocks), t.required_subgroup);
}

const char* rows_support(const Call& c) {
  const Tensor &w = c.in[0], &x = c.in[1];
  if (const char* why = matmul_operands(c); why != nullptr) return why;
  if (!packed(w) && !is_float(w.dtype)) return "w is neither a packed weight nor of floats";
  if (x.dim[1] > (caps_of(c).subgroup_size >= 32 ? 32 : 8)) return "x has many rows";
  if (x.rank > 2 || x.dim[2] != 1 || x.dim[3] != 1 || w.dim[2] != 1 || w.dim[3] != 1)
    return "x has several slices";
  if (!packed(w) && w.stride[1] != w.dim[0] * (w.dtype == MICA_F32 ? 4 : 2))
    return "the rows of w do not follow each other";
  if (x.stride[1] > kMaxBytes || w.dim[1] > kMaxBytes / 4) return "an operand is too large";
  return nullptr;
}

}  // namespace

bool fused_streams(const Call* const matmuls[], uint32_t n) {
  for (uint32_t i = 0; i < n; ++i)
    if (stream_supports(*matmuls[i]) != nullptr) return false;
  return true;
}

const char* fused_matmuls_support(const Call* const matmuls[], uint32_t n) {
  if (fused_streams(matmuls, n)) return nullptr;
  for (uint32_t i = 0; i < n; ++i) {
    if (const char* why = rows_support(*matmuls[i]); why != nullptr) return why;
    if (packed(matmuls[i]->in[0]) != packed(matmuls[0]->in[0]))
      return "one weight is quantized, another is not";
  }
  return nullptr;
}

const char* fused_norm_supports(const Call& norm) {
  const Tensor& x = norm.in[0];
  if (norm.out.address != 0) return "the norm's result is used elsewhere too";
  if (x.dtype != MICA_F32 || norm.in[1].dtype != MICA_F32) return "the norm is not of F32";
  if (x.rank > 2 || x.dim[2] != 1 || x.dim[3] != 1) return "x has several slices";
  if (x.stride[0] != 4) return "the elements of a row of x are not adjacent";
  return x.stride[1] > kMaxBytes ? "x is too large" : nullptr;
}

uint32_t fused_numerics(const Call* const matmuls[], uint32_t n) {
  if (fused_streams(matmuls, n)) return MICA_NUM_F16_W;
  return packed(matmuls[0]->in[0]) ? MICA_NUM_Q8_32 : MICA_NUM_F32;
}

bool fused_x_is_wide(const Fused& f) { return rows_of_fours(*f.x) && f.params.norm % 16 == 0; }

void set_fused_x(Fused& f, const Tensor& x) {
  f.x = &x;
  f.params.x = x.address;
  f.push.live = x.rank == 2 ? x.live : 0;
  f.push.k = static_cast<uint32_t>(x.dim[0]);
  f.push.m = static_cast<uint32_t>(x.dim[1]);
  f.params.s_x = static_cast<uint32_t>(x.stride[1]);
}

void set_fused_norm(Fused& f, const Call& norm) {
  set_fused_x(f, norm.in[0]);
  f.ending.norm = 1;
  f.params.norm = norm.in[1].address;
  f.params.eps = norm.arg<mica_rms_norm_args>().eps;
}

void set_fused_weight(Fused& f, uint32_t i, const Call& matmul, uint64_t y) {
  f.w[i] = &matmul.in[0];
  f.push.w[i] = matmul.in[0].address;
  f.push.n[i] = static_cast<uint32_t>(matmul.in[0].dim[1]);
  f.params.y[i] = y;
}

uint64_t fused_workspace(const DeviceCaps& caps, const Fused& f) {
  return f.streams ? stream_workspace(caps, f) : 0;
}

mica_status record_fused(const DeviceCaps& caps, Fused f, uint64_t workspace, Recorder& recorder) {
  if (f.streams) return record_stream(caps, f, workspace, recorder);
  MICA_TRY(constants(recorder, &f.params, sizeof f.params, f.push.params));
  for (uint32_t i = 0; i < kFusedWeights; ++i) {
    if (f.push.n[i] == 0) continue;
    bool done = false;
    for (uint32_t j = 0; j < i; ++j)
      done = done || (f.push.n[j] != 0 && f.w[j]->dtype == f.w[i]->dtype);
    if (!done) MICA_TRY(record_type(caps, of_type(f, f.w[i]->dtype), *f.w[i], recorder));
  }
  return MICA_OK;
}

}  // namespace mica::vulkan
