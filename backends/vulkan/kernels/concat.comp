// One of the tensors that are joined, to its place in the result: any type, in grains of 2 or 4
// bytes; an element or block is `unit` grains.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels/common/base.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kGrainBytes = 4;
layout(constant_id = 2) const uint kUnit = 1;

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, live;
  uint inner, n;    // grains
  uint dim[3];      // of x: grains of a row, then counts
  uint s[4], t[3];  // of a unit and dims 1 to 3 of x, of dims 1 to 3 of y; grains
}
args;

void main() {
  uint n = args.n;
  if (args.live != 0) n = min(n, live_count(args.live, args.n) * args.inner);
  const uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  for (uint id = gl_GlobalInvocationID.x; id < n; id += step) {
    const uint i0 = id % args.dim[0], rest = id / args.dim[0];
    const uint i1 = rest % args.dim[1], rest2 = rest / args.dim[1];
    const uint i2 = rest2 % args.dim[2], i3 = rest2 / args.dim[2];
    const uint64_t from = uint64_t(i0 / kUnit) * args.s[0] + i0 % kUnit + uint64_t(i1) * args.s[1] +
                          uint64_t(i2) * args.s[2] + uint64_t(i3) * args.s[3];
    const uint64_t to = uint64_t(i0) + uint64_t(i1) * args.t[0] + uint64_t(i2) * args.t[1] +
                        uint64_t(i3) * args.t[2];
    if (kGrainBytes == 4) {
      U32P(args.y + to * 4).v[0] = U32P(args.x + from * 4).v[0];
    } else {
      U16P(args.y + to * 2).v[0] = U16P(args.x + from * 2).v[0];
    }
  }
}
