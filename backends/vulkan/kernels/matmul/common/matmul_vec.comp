// COLUMNS columns at a time times packed weights. Activations are rounded to int8, one scale for 32
// elements (MICA_NUM_Q8_32), in shared memory by each workgroup; products are sums of ints.
//
// A team of TEAM invocations has ROWS rows of w; its lanes take the units of a row in turn. Loads
// of the first units are issued before the activations are waited for, and of the next ones before
// the present ones are multiplied. FUSED: see matmul_fused.glsl.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant q4_0 -DW_TYPE=2
//! variant q4_1 -DW_TYPE=3
//! variant q5_0 -DW_TYPE=6
//! variant q5_1 -DW_TYPE=7
//! variant q8_0 -DW_TYPE=8
//! variant q4_k -DW_TYPE=12
//! variant q5_k -DW_TYPE=13
//! variant q6_k -DW_TYPE=14
//! variant dot_q4_0 -DW_TYPE=2 -DDOT
//! variant dot_q4_1 -DW_TYPE=3 -DDOT
//! variant dot_q5_0 -DW_TYPE=6 -DDOT
//! variant dot_q5_1 -DW_TYPE=7 -DDOT
//! variant dot_q8_0 -DW_TYPE=8 -DDOT
//! variant dot_q4_k -DW_TYPE=12 -DDOT
//! variant dot_q5_k -DW_TYPE=13 -DDOT
//! variant dot_q6_k -DW_TYPE=14 -DDOT
//! variant fused_q4_0 -DW_TYPE=2 -DFUSED
//! variant fused_q4_1 -DW_TYPE=3 -DFUSED
//! variant fused_q5_0 -DW_TYPE=6 -DFUSED
//! variant fused_q5_1 -DW_TYPE=7 -DFUSED
//! variant fused_q8_0 -DW_TYPE=8 -DFUSED
//! variant fused_q4_k -DW_TYPE=12 -DFUSED
//! variant fused_q5_k -DW_TYPE=13 -DFUSED
//! variant fused_q6_k -DW_TYPE=14 -DFUSED
//! variant fused_dot_q4_0 -DW_TYPE=2 -DDOT -DFUSED
//! variant fused_dot_q4_1 -DW_TYPE=3 -DDOT -DFUSED
//! variant fused_dot_q5_0 -DW_TYPE=6 -DDOT -DFUSED
//! variant fused_dot_q5_1 -DW_TYPE=7 -DDOT -DFUSED
//! variant fused_dot_q8_0 -DW_TYPE=8 -DDOT -DFUSED
//! variant fused_dot_q4_k -DW_TYPE=12 -DDOT -DFUSED
//! variant fused_dot_q5_k -DW_TYPE=13 -DDOT -DFUSED
//! variant fused_dot_q6_k -DW_TYPE=14 -DDOT -DFUSED
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "quant/weight.glsl"
#if !defined(FUSED)
#include "kernels/matmul/common/matmul.glsl"
#endif
#include "kernels/common/dot4.glsl"

layout(constant_id = 3) const uint TEAM = 32;  // a power of two
layout(constant_id = 4) const uint ROWS = 2;   // of w, a team
layout(constant_id = 5) const uint COLUMNS = 1;
layout(constant_id = 6) const uint CHUNK = 128;  // units of activations in shared memory
layout(constant_id = 7) const uint X_TYPE = 0;
layout(constant_id = 8) const uint X_WIDE = 0;  // load4's
layout(constant_id = 9) const uint REDUCE = 0;  // reduce.glsl's
layout(constant_id = 10) const uint SUBGROUP = 32;
#if defined(FUSED)
#include "kernels/matmul/common/matmul_fused.glsl"
const uint SUMS = ROWS * COLUMNS + NORM * COLUMNS;
#else
const uint SUMS = ROWS * COLUMNS;
#endif
#include "kernels/common/reduce.glsl"
#if defined(FUSED)
#include "kernels/matmul/common/matmul_endings.glsl"
#endif

// Of unit i of column m, at m * CHUNK + i: quants of elements 0 … 15 and 16 … 31; the scale and,
// in 16 bits each, the sums of both halves' quants.
shared uvec4 x_lo[COLUMNS * CHUNK];
shared uvec4 x_hi[COLUMNS * CHUNK];
shared uvec2 x_scale[COLUMNS * CHUNK];
#if defined(FUSED)
shared float x_squares[NORM != 0 ? COLUMNS * CHUNK : 1];
#endif

uint round4(vec4 x, float inverse, inout int sum) {
  precise const vec4 product = x * inverse;
  const ivec4 q = ivec4(roundEven(product));
  sum += q.x + q.y + q.z + q.w;
  const uvec4 b = uvec4(q) & 255u;
  return b.x | b.y << 8 | b.z << 16 | b.w << 24;
}

// a / b rounded once, half to even, of positive numbers whose quotient is normal: a quotient that
// is a few units off is put right by its remainder, which 32 bits of the exact difference hold.
float exact_quotient(float a, float b) {
  const uint ua = floatBitsToUint(a);
  const uint ub = floatBitsToUint(b);
  const uint ma = (ua & 0x7fffffu) | 0x800000u;
  const uint mb = (ub & 0x7fffffu) | 0x800000u;
  const uint shift = ma < mb ? 24u : 23u;
  uint q = uint(float(ma) / float(mb) * (ma < mb ? 16777216.0 : 8388608.0));
  int rest = int((ma << shift) - q * mb);
  while (rest < 0) {
    rest += int(mb);
    --q;
  }
  while (rest >= int(mb)) {
    rest -= int(mb);
    ++q;
  }
  if (2u * uint(rest) > mb || (2u * uint(rest) == mb && (q & 1u) != 0u)) ++q;
  const uint exponent = (ua >> 23) - (ub >> 23) + 150u - shift;
  return uintBitsToFloat((exponent << 23) + (q - 0x800000u));
}

void stage_unit(uint64_t row, uint unit, uint slot) {
#if defined(FUSED)
  float squares = 0.0;
#endif
  vec4 v[8];
  uvec4 most = uvec4(0);  // magnitudes compare as integers do, infinities and NaN above all
  [[unroll]] for (uint i = 0; i < 8u; ++i) {
#if defined(FUSED)
    v[i] = load_x(X_TYPE, row, 32u * unit + 4u * i, X_WIDE != 0, squares);
#else
    v[i] = load4(X_TYPE, row, 32u * unit + 4u * i, p.k, X_WIDE != 0);
#endif
    most = max(most, floatBitsToUint(v[i]) & 0x7fffffffu);
  }
  const uint bits = max(max(most.x, most.y), max(most.z, most.w));
  const float amax = uintBitsToFloat(bits);
  float inverse = 0.0;
  float scale = 0.0;
  if (bits >= kInfinity) {
    scale = not_a_number();
  } else if (bits > 0x02fe0001u) {  // 127 / amax is finite
    inverse = exact_quotient(127.0, amax);
    scale = bits > 0x06000000u ? exact_quotient(amax, 127.0) : amax / 127.0;
  }
  ivec2 sum = ivec2(0);
  uvec4 lo, hi;
  [[unroll]] for (uint i = 0; i < 4u; ++i) {
    lo[i] = round4(v[i], inverse, sum.x);
    hi[i] = round4(v[4u + i], inverse, sum.y);
  }
  x_lo[slot] = lo;
  x_hi[slot] = hi;
  x_scale[slot] = uvec2(floatBitsToUint(scale), uint(sum.x & 0xffff) | uint(sum.y) << 16);
#if defined(FUSED)
  if (NORM != 0) x_squares[slot] = squares;
#endif
}

// Unit `slot` of the activations times a unit of a row.
float unit_product(int w[8], vec2 scale, vec2 bias, uint slot) {
  const uvec4 lo = x_lo[slot];
  const uvec4 hi = x_hi[slot];
  const uvec2 s = x_scale[slot];
  ivec2 product = ivec2(0);
  [[unroll]] for (uint i = 0; i < 4u; ++i) {
    product.x = dot4(w[i], int(lo[i]), product.x);
    product.y = dot4(w[4u + i], int(hi[i]), product.y);
  }
#if W_ZERO || W_BIAS
  const ivec2 sum = ivec2(int(s.y << 16) >> 16, int(s.y) >> 16);
  product -= W_ZERO * sum;
#endif
#if W_HALVES
  float value = scale.x * float(product.x) + scale.y * float(product.y);
#else
  float value = scale.x * float(product.x + product.y);
#endif
#if W_BIAS
  value += bias.x * float(sum.x + sum.y);
#endif
  return value * uintBitsToFloat(s.x);
}

void multiply_unit(Raw raw, uint r, uint unit, uint slot, uint n_live) {
  int w[8];
  [[unroll]] for (uint i = 0; i < 8u; ++i) w[i] = quad(raw, i);
  vec2 scale, bias;
  affine(raw.s, unit, scale, bias);
  [[unroll]] for (uint m = 0; m < COLUMNS; ++m) if (m < n_live) sums[m * ROWS + r] +=
      unit_product(w, scale, bias, m * CHUNK + slot);
}

#if defined(FUSED)
void add_squares(uint slot, uint n_live) {
  if (NORM == 0) return;
  [[unroll]] for (uint m = 0; m < COLUMNS; ++m) if (m < n_live) sums[SUMS - COLUMNS + m] +=
      x_squares[m * CHUNK + slot];
}
#endif

void main() {
  const Slice s = find_slice(folded_group());
  const uint m_groups = (p.m + COLUMNS - 1u) / COLUMNS;
  const uint m0 = s.block % m_groups * COLUMNS;
  if (!s.runs || m0 >= s.m) return;
  const uint thread = team_thread();
  const uint lane = thread % TEAM;
  const uint n_units = p.k / 32u;
  const uint n_live = min(s.m - m0, COLUMNS);
  const uint n0 = (s.block / m_groups * (gl_WorkGroupSize.x / TEAM) + thread / TEAM) * ROWS;
  Row row[ROWS];
  Raw raw[ROWS];
#if defined(FUSED)
  [[unroll]] for (uint r = 0; r < ROWS; ++r) row[r] = w_row(place_of(n0 / ROWS, r));
#else
  [[unroll]] for (uint r = 0; r < ROWS; ++r) row[r] = w_row(s, min(n0 + r, p.n - 1u));
#endif
  [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] = 0.0;
  uint unit = lane;
  if (unit < n_units) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) raw[r] = load_raw(row[r], unit);
  }
#if defined(FUSED)
  const Ahead ahead = fetch_ahead(n0 / ROWS, lane, m0, n_live);
#endif
  for (uint chunk = 0; chunk < n_units; chunk += CHUNK) {
    const uint end = min(chunk + CHUNK, n_units);
    if (chunk > 0u) barrier();
    for (uint i = gl_LocalInvocationIndex; i < COLUMNS * CHUNK; i += gl_WorkGroupSize.x) {
      const uint m = i / CHUNK;
      if (chunk + i % CHUNK < end && m < n_live) stage_unit(x_row(s, m0 + m), chunk + i % CHUNK, i);
    }
    barrier();
    while (unit < end) {
      Raw now[ROWS];
      [[unroll]] for (uint r = 0; r < ROWS; ++r) now[r] = raw[r];
      const uint next = unit + TEAM;
      if (next < n_units) {
        [[unroll]] for (uint r = 0; r < ROWS; ++r) raw[r] = load_raw(row[r], next);
      }
      [[unroll]] for (uint r = 0; r < ROWS; ++r)
          multiply_unit(now[r], r, unit, unit - chunk, n_live);
#if defined(FUSED)
      add_squares(unit - chunk, n_live);
#endif
      unit = next;
    }
  }
  reduce_sums(thread, lane);
#if defined(FUSED)
  end_team(n0 / ROWS, lane, m0, n_live, ahead);
#else
  [[unroll]] for (uint m = 0; m < COLUMNS; ++m) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      if (lane == 0u && m < n_live && n0 + r < p.n)
        F32P(y_row(s, m0 + m)).v[n0 + r] = sums[m * ROWS + r];
    }
  }
#endif
}
