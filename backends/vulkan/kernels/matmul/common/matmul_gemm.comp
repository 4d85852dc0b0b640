// Many columns times rows of F16, on matrix units: tiles of BM columns and BN rows of w, from
// activations that matmul_rows.comp and weights that matmul_halves.comp have rounded to F16 (or
// weights that are F16), summed in F32, and multiplied by their rows' factors.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant plain -DPLAIN_FRAGMENTS
//! variant coop -DCOOP needs=coopmat
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/matmul/common/matmul.glsl"

layout(constant_id = 3) const uint BN = 128;
layout(constant_id = 4) const uint BM = 128;
layout(constant_id = 5) const uint ACROSS = 4;  // subgroups along n
layout(constant_id = 6) const uint DOWN = 2;    // along m
const uint UNITS = 1, BUFFERS = 2, W_WIDE = 1;

// What the push constants' strides of x are here: elements of a rounded row, a multiple of 32;
// where in y the rows of w begin that this dispatch has, and how many they are.
uint k_pad() { return uint(p.s_x[0]); }
uint m_pad() { return (p.m + BM - 1u) / BM * BM; }
uint first_n() { return uint(p.s_x[1]); }
uint count_n() { return uint(p.s_x[2]); }
uint64_t x_tile(Slice s, uint m) {
  return p.x + ((s.i2 + uint64_t(p.x2) * s.i3) * m_pad() + m) * (k_pad() * 2u);
}

#include "kernels/common/fragments.glsl"
#include "kernels/matmul/common/matmul_fragments.glsl"

shared float edge[ACROSS * DOWN * 256];  // a fragment a subgroup, where a tile is cut off

// By way of `edge`: there is no more shared memory.
void multiply_by_factors(Slice s, uint m0) {
  const uint64_t n_rows = uint64_t(p.n_slices) * m_pad();
  const uint64_t row = (s.i2 + uint64_t(p.x2) * s.i3) * m_pad() + m0;
  const uint64_t factors = p.x + n_rows * (k_pad() * 2u) + row * 4ul;
  for (uint i = gl_LocalInvocationIndex; i < BM; i += kThreads) edge[i] = F32P(factors).v[i];
  barrier();
  FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j) {
    FragC f;
    load_repeated(f, edge, frag_m(j));
    FRAG_UNROLL for (uint i = 0; i < kFragsN; ++i) frag_times(outputs[j * kFragsN + i], f);
  }
  barrier();
}

void write_outputs(Slice s, uint n0, uint m0) {
  const uint y_n = first_n();
#if defined(COOP)
  const bool whole = m0 + BM <= s.m && n0 + BN <= count_n() && (p.n | y_n) % 4u == 0u;
#else
  const bool whole = false;
#endif
  FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j) {
    FRAG_UNROLL for (uint i = 0; i < kFragsN; ++i) {
      const uint m = m0 + frag_m(j);
      const uint n = n0 + frag_n(i);
#if defined(COOP)
      if (whole) {
        coopMatStore(outputs[j * kFragsN + i], F32x4P(y_row(s, m)).v, (y_n + n) / 4u, p.n / 4u,
                     gl_CooperativeMatrixLayoutRowMajor);
        continue;
      }
#endif
      const uint at = frag_team() * 256u;
      frag_barrier();
      store_rows(outputs[j * kFragsN + i], edge, at, 16u);
      frag_barrier();
      for (uint e = frag_lane(); e < 256u; e += frag_lanes())
        if (m + e / 16u < s.m && n + e % 16u < count_n())
          F32P(y_row(s, m + e / 16u)).v[y_n + n + e % 16u] = edge[at + e];
    }
  }
}

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_tiles = (p.m + BM - 1u) / BM;
  const uint m0 = s.block % m_tiles * BM;
  const uint n0 = s.block / m_tiles * BN;
  if (!s.runs || m0 >= s.m) return;
  multiply_steps(s, n0, m0, 0u, k_pad() / 32u);
  multiply_by_factors(s, m0);
  write_outputs(s, n0, m0);
}
