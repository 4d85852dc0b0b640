// add_norm: rows a + b, and their rms_norm, F32: a workgroup a row.
#version 460
#extension GL_GOOGLE_include_directive : require
// Ahead of what uses gl_WorkGroupSize: glslang takes it as it is known there.
layout(local_size_x_id = 0, local_size_y_id = 1, local_size_z_id = 2) in;
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/common/load4.glsl"
#include "kernels/common/sum_group.glsl"
#include "kernels/rsqrt_exact.glsl"

layout(constant_id = 3) const uint WIDE = 0;  // load4's, of all rows

layout(push_constant, scalar) uniform Push {
  uint64_t a, b, w, sum, y;  // sum 0: not wanted
  uint64_t s_a, s_b;         // bytes from a row to the next; those of the results are packed
  uint64_t live;
  uint n, n_rows;
  float eps;
}
p;

void store4(uint64_t row, uint e, vec4 v) {
  if (WIDE != 0) {
    F32x4P(row).v[e >> 2] = v;
    return;
  }
  [[unroll]] for (uint i = 0; i < 4u; ++i) if (e + i < p.n) F32P(row).v[e + i] = v[i];
}

void main() {
  const uint n_rows = live_count(p.live, p.n_rows);
  const uint first = 4u * gl_LocalInvocationIndex, step = 4u * gl_WorkGroupSize.x;
  for (uint row = gl_WorkGroupID.x; row < n_rows; row += gl_NumWorkGroups.x) {
    const uint64_t a = p.a + row * p.s_a, b = p.b + row * p.s_b, to = 4ul * row * p.n;
    float squares = 0.0;
    for (uint e = first; e < p.n; e += step) {
      const vec4 v = load4(MICA_F32, a, e, p.n, WIDE != 0) + load4(MICA_F32, b, e, p.n, WIDE != 0);
      if (p.sum != 0) store4(p.sum + to, e, v);
      squares += dot(v, v);
    }
    const float factor = rsqrt_exact(sum_all(squares) / float(p.n) + p.eps);
    for (uint e = first; e < p.n; e += step) {
      const vec4 v = load4(MICA_F32, a, e, p.n, WIDE != 0) + load4(MICA_F32, b, e, p.n, WIDE != 0);
      store4(p.y + to, e, v * factor * load4(MICA_F32, p.w, e, p.n, WIDE != 0));
    }
  }
}
