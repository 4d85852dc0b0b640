// Rows brought to one size (rms_norm), or to mean 0 and variance 1 (layer_norm): a workgroup a row.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels/common/base.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kLayerNorm = 0;
layout(constant_id = 2) const uint kTypeX = MICA_F32;  // and of y
layout(constant_id = 3) const uint kTypeW = 255;       // 255: absent
layout(constant_id = 4) const uint kTypeB = 255;
layout(constant_id = 5) const uint kFour = 0;  // rows of four F32 at a time

layout(push_constant, scalar) uniform Push {
  uint64_t x, w, b, y;
  uint64_t live;
  uint inner;  // rows of one index of the slowest dimension
  uint n_rows;
  uint n;
  uint dim1, dim2;
  uint s1, s2, s3;  // of x, elements
  float eps;
}
args;

#include "kernels/common/sum_group.glsl"
#include "kernels/rsqrt_exact.glsl"

float affine(float x, float factor, uint i) {
  float v = x * factor;
  if (kTypeW != 255) v *= load_float(kTypeW, args.w, i);
  if (kTypeB != 255) v += load_float(kTypeB, args.b, i);
  return v;
}

void norm_row(uint64_t x, uint64_t y) {
  const uint t = gl_LocalInvocationID.x, step = gl_WorkGroupSize.x;
  const float n = float(args.n);
  float mean = 0.0;
  if (kLayerNorm != 0) {
    float s = 0.0;
    for (uint i = t; i < args.n; i += step) s += load_float(kTypeX, x, i);
    mean = sum_all(s) / n;
  }
  float squares = 0.0;
  if (kFour != 0) {
    for (uint i = t; i < args.n / 4; i += step) {
      const vec4 v = F32x4P(x).v[i] - mean;
      squares += dot(v, v);
    }
  } else {
    for (uint i = t; i < args.n; i += step) {
      const float v = load_float(kTypeX, x, i) - mean;
      squares += v * v;
    }
  }
  const float factor = rsqrt_exact(sum_all(squares) / n + args.eps);
  if (kFour != 0) {
    for (uint i = t; i < args.n / 4; i += step) {
      const vec4 v = F32x4P(x).v[i] - mean;
      F32x4P(y).v[i] = vec4(affine(v.x, factor, 4 * i), affine(v.y, factor, 4 * i + 1),
                            affine(v.z, factor, 4 * i + 2), affine(v.w, factor, 4 * i + 3));
    }
  } else {
    for (uint i = t; i < args.n; i += step)
      store_float(kTypeX, y, i, affine(load_float(kTypeX, x, i) - mean, factor, i));
  }
}

void main() {
  uint n_rows = args.n_rows;
  if (args.live != 0) n_rows = min(n_rows, live_count(args.live, args.n_rows) * args.inner);
  const uint bytes = float_bytes(kTypeX);
  for (uint row = gl_WorkGroupID.x; row < n_rows; row += gl_NumWorkGroups.x) {
    const uint i1 = row % args.dim1, rest = row / args.dim1;
    const uint i2 = rest % args.dim2, i3 = rest / args.dim2;
    const uint64_t at = uint64_t(i1) * args.s1 + uint64_t(i2) * args.s2 + uint64_t(i3) * args.s3;
    norm_row(args.x + at * bytes, args.y + uint64_t(row) * args.n * bytes);
  }
}
