// Many columns: tiles of BM columns and BN rows of w, from activations that matmul_prepare.comp has
// rounded to F16. Quantized weights become the integers they hold, which F16 has exactly; a unit's
// (32 elements') product is scaled in F32, so weights are never rounded. While a unit is
// multiplied, the next one is on its way from memory. Each invocation has TM x TN outputs.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant f16 -DW_TYPE=1
//! variant q4_0 -DW_TYPE=2
//! variant q4_1 -DW_TYPE=3
//! variant q5_0 -DW_TYPE=6
//! variant q5_1 -DW_TYPE=7
//! variant q8_0 -DW_TYPE=8
//! variant q4_k -DW_TYPE=12
//! variant q5_k -DW_TYPE=13
//! variant q6_k -DW_TYPE=14
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"
#include "kernels/matmul/common/matmul.glsl"

layout(constant_id = 3) const uint BN = 32;
layout(constant_id = 4) const uint BM = 32;
layout(constant_id = 5) const uint TN = 4;
layout(constant_id = 6) const uint TM = 4;
layout(constant_id = 7) const uint W_WIDE = 0;  // f16: rows of w are whole 16 bytes

#include "kernels/matmul/common/matmul_stage.glsl"
#include "kernels/matmul/common/matmul_scalar.glsl"

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_tiles = (p.m + BM - 1u) / BM;
  const uint m0 = s.block % m_tiles * BM;
  const uint n0 = s.block / m_tiles * BN;
  if (!s.runs || m0 >= s.m) return;
  const uint n_units = (p.k + 31u) / 32u;
  clear_outputs();
  begin_stage(s, n0, m0, n_units);
  fetch(0);
  for (uint unit = 0; unit < n_units; ++unit) {
    put(unit);
    barrier();
    if (unit + 1u < n_units) fetch(unit + 1u);
    multiply();
    barrier();
  }
  write_outputs(s, n0, m0);
}
