// Rotary position embedding.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels/common/base.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kType = MICA_F32;
layout(constant_id = 2) const uint kHalfSplit = 0;

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, angles, live;
  uint head_dim, n_heads, n_tokens;
  uint n_rot, offset;
  uint s1, s2;  // of x, elements
  float magnitude;
}
args;

void main() {
  const uint n_pairs = args.n_rot / 2;
  const uint items = n_pairs + args.head_dim - args.n_rot;  // pairs, then what is only copied
  const uint n = live_count(args.live, args.n_tokens) * args.n_heads * items;
  const uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  const uint bytes = float_bytes(kType);
  for (uint id = gl_GlobalInvocationID.x; id < n; id += step) {
    const uint i = id % items, rest = id / items;
    const uint head = rest % args.n_heads, token = rest / args.n_heads;
    const uint64_t x = args.x + (uint64_t(head) * args.s1 + uint64_t(token) * args.s2) * bytes;
    const uint64_t y = args.y + uint64_t(rest) * args.head_dim * bytes;
    if (i >= n_pairs) {
      uint d = i - n_pairs;
      if (d >= args.offset) d += args.n_rot;
      store_float(kType, y, d, load_float(kType, x, d));
      continue;
    }
    F32P angle = F32P(args.angles + (uint64_t(token) * n_pairs + i) * 8ul);
    const vec2 cs = args.magnitude * vec2(angle.v[0], angle.v[1]);
    const uint d0 = args.offset + (kHalfSplit != 0 ? i : 2 * i);
    const uint d1 = d0 + (kHalfSplit != 0 ? n_pairs : 1);
    const float x0 = load_float(kType, x, d0), x1 = load_float(kType, x, d1);
    store_float(kType, y, d0, x0 * cs.x - x1 * cs.y);
    store_float(kType, y, d1, x0 * cs.y + x1 * cs.x);
  }
}
