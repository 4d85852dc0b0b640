// Arguments and grids of matmul.
#include "backends/vulkan/kernels/matmul/common/matmul.h"

namespace mica::vulkan {
namespace {

constexpr uint64_t kMaxColumns = 8;  // of a workgroup

}  // namespace

const char* matmul_operands(const Call& c) {
  const Tensor& w = c.in[0];
  const Tensor& x = c.in[1];
  if (!is_float(x.dtype)) return "x is not F32, F16 or BF16";
  for (const Tensor* t : {&w, &x})
    for (const int64_t d : t->dim)
      if (d > INT32_MAX) return "an operand has a dimension of 2^31 or more";
  if (x.dim[2] * x.dim[3] > INT32_MAX) return "x has 2^31 slices or more";
  return nullptr;
}

MatmulPush matmul_push(const Call& c) {
  const Tensor& w = c.in[0];
  const Tensor& x = c.in[1];
  MatmulPush p{};
  if (w.layout == kLayoutPlanes) {
    plane_addresses(w, p.w);
  } else {
    p.w[0] = w.address;
    for (uint32_t i = 1; i < 4; ++i) p.w[i] = static_cast<uint64_t>(w.stride[i]);
  }
  p.x = x.address;
  for (uint32_t i = 0; i < 3; ++i) p.s_x[i] = static_cast<uint64_t>(x.stride[i + 1]);
  p.y = c.out.address;
  p.live = x.live;
  p.n = static_cast<uint32_t>(w.dim[1]);
  p.k = static_cast<uint32_t>(w.dim[0]);
  p.m = static_cast<uint32_t>(x.dim[1]);
  p.w2 = static_cast<uint32_t>(w.dim[2]);
  p.x2 = static_cast<uint32_t>(x.dim[2]);
  p.r2 = static_cast<uint32_t>(x.dim[2] / w.dim[2]);
  p.r3 = static_cast<uint32_t>(x.dim[3] / w.dim[3]);
  p.n_slices = static_cast<uint32_t>(x.dim[2] * x.dim[3]);
  p.live_dim = x.rank - 1;
  return p;
}

namespace {

bool is_power_of_two(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

// Workgroups of a slice.
uint64_t blocks_of(const MatmulTeams& t, uint64_t n, uint64_t m) {
  return (n + t.n_rows() - 1) / t.n_rows() * ((m + t.columns - 1) / t.columns);
}
bool can_have(const DeviceCaps& caps, uint32_t subgroup) {
  return caps.min_subgroup_size <= subgroup && subgroup <= caps.max_subgroup_size;
}

}  // namespace

MatmulTeams matmul_teams(const DeviceCaps& caps, const Call& c, uint64_t n_items) {
  MatmulTeams t{};
  const auto n = static_cast<uint64_t>(c.in[0].dim[1]);
  const auto m = static_cast<uint64_t>(c.in[1].dim[1]);
  const auto n_slices = static_cast<uint64_t>(c.in[1].dim[2] * c.in[1].dim[3]);
  const uint64_t passes = (m + kMaxColumns - 1) / kMaxColumns;
  t.columns = static_cast<uint32_t>((m + passes - 1) / passes);
  // Where a pipeline may get one of several subgroup sizes, it asks for one.
  t.subgroup = caps.subgroup_size;
  if (caps.min_subgroup_size != caps.max_subgroup_size) {
    if (can_have(caps, 32)) t.subgroup = 32;
    t.required_subgroup = t.subgroup;
  }
  t.threads = t.subgroup >= 32 ? 256 : 64;
  if (t.threads > caps.max_invocations) t.threads = caps.max_invocations;
  t.team = t.subgroup;
  if (!is_power_of_two(t.subgroup) || t.subgroup < 4 || t.subgroup > t.threads) {
    t.reduce = 1;
    t.subgroup = 1;
    t.required_subgroup = 0;
    t.team = 32;
  }
  // Enough workgroups to fill the cores evenly: first fewer rows a team, then larger teams.
  const uint64_t cores = caps.n_cores != 0 ? caps.n_cores : 32;
  const auto groups = [&] { return blocks_of(t, n, m) * n_slices; };
  t.rows = t.columns <= 4 ? 4 : 2;
  if (t.rows == 4 && groups() < 6 * cores) t.rows = 2;
  if (groups() * 2 < 3 * cores) t.rows = 1;
  while (t.team * 2 <= t.threads && t.team * 2 <= n_items && groups() * 2 < 3 * cores) t.team *= 2;
  t.n_blocks = static_cast<uint32_t>(blocks_of(t, n, m));
  return t;
}

uint32_t matmul_chunk(const DeviceCaps& caps, const MatmulTeams& t, uint32_t unit_bytes,
                      uint32_t sums, uint32_t n_units) {
  const uint32_t reduce_bytes = t.reduce != 0         ? 4 * t.threads
                                : t.team > t.subgroup ? 4 * t.threads / t.subgroup * sums
                                                      : 4;
  const uint32_t shared = caps.max_shared_bytes < 49152 ? caps.max_shared_bytes : 49152;
  const uint32_t most = (shared - reduce_bytes) / (unit_bytes * t.columns);
  if (n_units <= most) return n_units;
  return most > t.team ? most / t.team * t.team : most;
}

MatmulTile matmul_tile(const DeviceCaps& caps, const Call& c) {
  constexpr MatmulTile kSmall = {32, 32, 4, 4, 64}, kLarge = {64, 64, 4, 4, 256};
  const auto n = static_cast<uint64_t>(c.in[0].dim[1]);
  const auto m = static_cast<uint64_t>(c.in[1].dim[1]);
  const auto n_slices = static_cast<uint64_t>(c.in[1].dim[2] * c.in[1].dim[3]);
  const uint64_t groups =
      (n + kLarge.n - 1) / kLarge.n * ((m + kLarge.m - 1) / kLarge.m) * n_slices;
  const bool wide = caps.subgroup_size >= 32 && caps.max_invocations >= 256;
  return wide && groups >= 2 * uint64_t{caps.n_cores} ? kLarge : kSmall;
}

MatmulPrepared matmul_prepared(const Call& c, uint32_t m_tile) {
  const auto n_units = static_cast<uint64_t>((c.in[0].dim[0] + 31) / 32);
  const auto m = static_cast<uint64_t>(c.in[1].dim[1]);
  const auto n_slices = static_cast<uint64_t>(c.in[1].dim[2] * c.in[1].dim[3]);
  const uint64_t rows = n_slices * n_units * ((m + m_tile - 1) / m_tile * m_tile);
  return {rows * 64, rows * 72};
}

}  // namespace mica::vulkan
