// Cosines and sines of RoPE's angles.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels/common/base.glsl"
#include "kernels/rope_angle.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kFactors = 0;

layout(push_constant, scalar) uniform Push {
  uint64_t y, positions, revolutions, factors, live;
  uint n_rows, n_pairs;
}
args;

void main() {
  const uint n = live_count(args.live, args.n_rows) * args.n_pairs;
  const uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint id = gl_GlobalInvocationID.x; id < n; id += step) {
    const uint i = id % args.n_pairs;
    uint64_t revolutions = U64P(args.revolutions).v[i];
    if (kFactors != 0) revolutions = divided(revolutions, F32P(args.factors).v[i]);
    const int64_t position = int64_t(I32P(args.positions).v[id / args.n_pairs]);
    const vec2 cs = cos_sin(revolutions * uint64_t(position));
    const uint64_t y = args.y + uint64_t(id) * 8ul;
    F32P(y).v[0] = cs.x;
    F32P(y).v[1] = cs.y;
  }
}
