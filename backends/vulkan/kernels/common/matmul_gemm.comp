// Many columns times rows of F16, on matrix units: tiles of BM columns and BN rows of w, from
// activations that matmul_rows.comp and weights that matmul_halves.comp have rounded to F16 (or
// weights that are F16), summed in F32.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant plain -DPLAIN_FRAGMENTS
//! variant coop -DCOOP needs=coopmat
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/common/matmul.glsl"

layout(constant_id = 3) const uint BN = 128;
layout(constant_id = 4) const uint BM = 128;
layout(constant_id = 5) const uint ACROSS = 4;  // subgroups along n
layout(constant_id = 6) const uint DOWN = 2;    // along m

// What the push constants' strides of x are here: elements of a rounded row, a multiple of 32; where
// in y the rows of w begin that this dispatch has, and how many they are.
uint k_pad() { return uint(p.s_x[0]); }
uint m_pad() { return (p.m + BM - 1u) / BM * BM; }
uint first_n() { return uint(p.s_x[1]); }
uint count_n() { return uint(p.s_x[2]); }
uint64_t x_tile(Slice s, uint m) {
  return p.x + ((s.i2 + uint64_t(p.x2) * s.i3) * m_pad() + m) * (k_pad() * 2u);
}

#include "kernels/common/fragments.glsl"
#include "kernels/common/matmul_fragments.glsl"

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_tiles = (p.m + BM - 1u) / BM;
  const uint m0 = s.block % m_tiles * BM;
  const uint n0 = s.block / m_tiles * BN;
  if (!s.runs || m0 >= s.m) return;
  multiply_tile(s, n0, m0);
}
