// Some columns times weights as they lie in memory, on matrix units: packed ones are rounded to F16
// where they are used, so they are read once. A workgroup sums a tile of BM columns and BN rows of
// w over one of SPLITS parts of K, from activations that matmul_rows.comp has rounded; what it
// gets, whole tiles [split][m_pad][n_pad] in F32, matmul_end.comp adds up.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant plain_f16 -DW_TYPE=1 -DPLAIN_FRAGMENTS
//! variant plain_q4_0 -DW_TYPE=2 -DPLAIN_FRAGMENTS
//! variant plain_q4_1 -DW_TYPE=3 -DPLAIN_FRAGMENTS
//! variant plain_q5_0 -DW_TYPE=6 -DPLAIN_FRAGMENTS
//! variant plain_q5_1 -DW_TYPE=7 -DPLAIN_FRAGMENTS
//! variant plain_q8_0 -DW_TYPE=8 -DPLAIN_FRAGMENTS
//! variant plain_q4_k -DW_TYPE=12 -DPLAIN_FRAGMENTS
//! variant plain_q5_k -DW_TYPE=13 -DPLAIN_FRAGMENTS
//! variant plain_q6_k -DW_TYPE=14 -DPLAIN_FRAGMENTS
//! variant coop_f16 -DW_TYPE=1 -DCOOP needs=coopmat
//! variant coop_q4_0 -DW_TYPE=2 -DCOOP needs=coopmat
//! variant coop_q4_1 -DW_TYPE=3 -DCOOP needs=coopmat
//! variant coop_q5_0 -DW_TYPE=6 -DCOOP needs=coopmat
//! variant coop_q5_1 -DW_TYPE=7 -DCOOP needs=coopmat
//! variant coop_q8_0 -DW_TYPE=8 -DCOOP needs=coopmat
//! variant coop_q4_k -DW_TYPE=12 -DCOOP needs=coopmat
//! variant coop_q5_k -DW_TYPE=13 -DCOOP needs=coopmat
//! variant coop_q6_k -DW_TYPE=14 -DCOOP needs=coopmat
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"
#include "kernels/matmul/common/matmul.glsl"

layout(constant_id = 3) const uint BN = 64;
layout(constant_id = 4) const uint BM = 16;
layout(constant_id = 5) const uint ACROSS = 4;  // subgroups along n
layout(constant_id = 6) const uint DOWN = 1;    // along m
layout(constant_id = 7) const uint UNITS = 2;   // of a step
layout(constant_id = 8) const uint SPLITS = 1;
layout(constant_id = 9) const uint W_WIDE = 1;  // f16: rows of w are whole 16 bytes
const uint BUFFERS = 1;

// What the push constants' strides of x are here: elements of a rounded row, whole steps.
uint k_pad() { return uint(p.s_x[0]); }
uint count_n() { return p.n; }
uint64_t x_tile(Slice s, uint m) { return p.x + uint64_t(m) * (k_pad() * 2u); }

#include "kernels/common/fragments.glsl"
#include "kernels/matmul/common/matmul_fragments.glsl"

void write_outputs(uint split, uint n0, uint m0) {
  const uint n_pad = (p.n + BN - 1u) / BN * BN, m_pad = (p.m + BM - 1u) / BM * BM;
  FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j) {
    const uint64_t y = p.y + (uint64_t(split) * m_pad + m0 + frag_m(j)) * n_pad * 4ul;
    FRAG_UNROLL for (uint i = 0; i < kFragsN; ++i) {
      const uint n = n0 + frag_n(i);
#if defined(COOP)
      coopMatStore(outputs[j * kFragsN + i], F32x4P(y).v, n / 4u, n_pad / 4u,
                   gl_CooperativeMatrixLayoutRowMajor);
#else
      for (uint e = 0; e < 64u; ++e)
        F32x4P(y).v[(e / 4u * n_pad + n) / 4u + e % 4u] = outputs[j * kFragsN + i].e[e];
#endif
    }
  }
}

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_tiles = (p.m + BM - 1u) / BM;
  const uint m0 = s.block % m_tiles * BM;
  const uint n0 = s.block / m_tiles / SPLITS * BN;
  const uint split = s.block / m_tiles % SPLITS;
  if (!s.runs || m0 >= s.m) return;
  const uint n_steps = k_pad() / (32u * UNITS);
  const uint each = (n_steps + SPLITS - 1u) / SPLITS;
  multiply_steps(s, n0, m0, split * each, min((split + 1u) * each, n_steps));
  write_outputs(split, n0, m0);
}
