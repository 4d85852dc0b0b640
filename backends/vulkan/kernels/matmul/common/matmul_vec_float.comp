// COLUMNS columns at a time times F32, F16 or BF16 rows of any strides, in F32. Teams and lanes are
// those of matmul_vec.comp; a lane takes 8 elements at a time. Activations come from the caches:
// each value is read once for ROWS rows. FUSED: see matmul_fused.glsl.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant -
//! variant fused -DFUSED
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"

layout(constant_id = 3) const uint TEAM = 32;  // a power of two
layout(constant_id = 4) const uint ROWS = 2;   // of w, a team
layout(constant_id = 5) const uint COLUMNS = 1;
layout(constant_id = 7) const uint X_TYPE = 0;
layout(constant_id = 8) const uint X_WIDE = 0;  // load4's
layout(constant_id = 9) const uint REDUCE = 0;  // reduce.glsl's
layout(constant_id = 10) const uint SUBGROUP = 32;
layout(constant_id = 11) const uint W_KIND = 0;  // mica_dtype
layout(constant_id = 12) const uint W_WIDE = 0;  // load4's; 2: 16 bytes of 16-bit types too
#if defined(FUSED)
#include "kernels/matmul/common/matmul_fused.glsl"
const uint SUMS = ROWS * COLUMNS + NORM * COLUMNS;
#else
#include "kernels/matmul/common/matmul.glsl"
const uint SUMS = ROWS * COLUMNS;
#endif
#include "kernels/common/reduce.glsl"
#if defined(FUSED)
#include "kernels/matmul/common/matmul_endings.glsl"
#endif

void load8(uint64_t row, uint e, out vec4 lo, out vec4 hi) {
  if (W_WIDE == 2 && W_KIND != MICA_F32) {
    const uvec4 w = U32x4P(row).v[e >> 3];
    if (W_KIND == MICA_F16) {
      lo = vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
      hi = vec4(unpackHalf2x16(w.z), unpackHalf2x16(w.w));
    } else {
      lo = uintBitsToFloat(uvec4(w.x << 16, w.x & 0xffff0000u, w.y << 16, w.y & 0xffff0000u));
      hi = uintBitsToFloat(uvec4(w.z << 16, w.z & 0xffff0000u, w.w << 16, w.w & 0xffff0000u));
    }
    return;
  }
  lo = load4(W_KIND, row, e, p.k, W_WIDE != 0);
  hi = load4(W_KIND, row, e + 4u, p.k, W_WIDE != 0);
}

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_groups = (p.m + COLUMNS - 1u) / COLUMNS;
  const uint m0 = s.block % m_groups * COLUMNS;
  if (!s.runs || m0 >= s.m) return;
  const uint thread = team_thread();
  const uint lane = thread % TEAM;
  const uint n0 = (s.block / m_groups * (gl_WorkGroupSize.x / TEAM) + thread / TEAM) * ROWS;
  uint64_t row[ROWS];
#if defined(FUSED)
  [[unroll]] for (uint r = 0; r < ROWS; ++r) row[r] = w_row(place_of(n0 / ROWS, r));
  const Ahead ahead = fetch_ahead(n0 / ROWS, lane, m0, min(s.m - m0, COLUMNS));
#else
  [[unroll]] for (uint r = 0; r < ROWS; ++r) row[r] = w_row(s, min(n0 + r, p.n - 1u));
#endif
  [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] = 0.0;
  for (uint e = 8u * lane; e < p.k; e += 8u * TEAM) {
    vec4 w_lo[ROWS];
    vec4 w_hi[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; ++r) load8(row[r], e, w_lo[r], w_hi[r]);
    [[unroll]] for (uint m = 0; m < COLUMNS; ++m) {
      if (m0 + m >= s.m) break;
#if defined(FUSED)
      float squares = 0.0;
      const vec4 x_lo = load_x(X_TYPE, x_row(s, m0 + m), e, X_WIDE != 0, squares);
      const vec4 x_hi = load_x(X_TYPE, x_row(s, m0 + m), e + 4u, X_WIDE != 0, squares);
      if (NORM != 0) sums[SUMS - COLUMNS + m] += squares;
#else
      const vec4 x_lo = load4(X_TYPE, x_row(s, m0 + m), e, p.k, X_WIDE != 0);
      const vec4 x_hi = load4(X_TYPE, x_row(s, m0 + m), e + 4u, p.k, X_WIDE != 0);
#endif
      [[unroll]] for (uint r = 0; r < ROWS; ++r) sums[m * ROWS + r] +=
          dot(w_lo[r], x_lo) + dot(w_hi[r], x_hi);
    }
  }
  reduce_sums(thread, lane);
#if defined(FUSED)
  end_team(n0 / ROWS, lane, m0, min(s.m - m0, COLUMNS), ahead);
#else
  [[unroll]] for (uint m = 0; m < COLUMNS; ++m) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      if (lane == 0u && m0 + m < s.m && n0 + r < p.n)
        F32P(y_row(s, m0 + m)).v[n0 + r] = sums[m * ROWS + r];
    }
  }
#endif
}
