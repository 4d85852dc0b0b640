// The end of a region whose products matmul_stream.comp made: adds up their SPLITS parts and does
// with the sums, times their column's factor (at x, F32 [m]), what the fused kernels do with theirs
// (matmul_endings.glsl). An invocation has one row of a weight, or two where rows belong together,
// of one column.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"

layout(constant_id = 4) const uint ROWS = 1;
layout(constant_id = 25) const uint SPLITS = 1;
layout(constant_id = 26) const uint BN = 64;  // what n_pad and m_pad are multiples of
layout(constant_id = 27) const uint BM = 16;
const uint W_KIND = 0, TEAM = 1, SUBGROUP = 1, REDUCE = 1, COLUMNS = 1;
#include "kernels/matmul/common/matmul_fused.glsl"
const uint SUMS = ROWS;
#include "kernels/common/reduce.glsl"
#include "kernels/matmul/common/matmul_endings.glsl"

void main() {
  const uint64_t item = folded_thread();
  const uint team = uint(item % n_teams());
  const uint64_t m = item / n_teams();
  if (m >= live_count(p.live, p.m)) return;
  const float factor = F32P(x_address).v[uint(m)];
  const uint m_pad = (p.m + BM - 1u) / BM * BM;
  [[unroll]] for (uint r = 0; r < ROWS; ++r) {
    const Place at = place_of(team, r);
    const uint n = at.i == 0u ? p.n[0] : at.i == 1u ? p.n[1] : p.n[2];
    const uint n_pad = (n + BN - 1u) / BN * BN;
    uint64_t part = w_of(at) + m * n_pad * 4ul;  // here w[] are the products
    sums[r] = 0.0;
    for (uint i = 0; i < SPLITS; ++i) {
      sums[r] += F32P(part).v[at.n];
      part += uint64_t(m_pad) * n_pad * 4ul;
    }
    sums[r] *= factor;
  }
  end_item(team, 0u, uint(m), 0u, 1.0, fetch_ahead(team, 0u, uint(m), 1u));
}
