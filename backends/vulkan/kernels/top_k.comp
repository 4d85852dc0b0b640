#version 460
#extension GL_GOOGLE_include_directive : require
// top_k: a workgroup a row.
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/select.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, live, workspace;
  uint64_t s_x[3];  // bytes of dimensions 1 to 3
  uint dim[4];
  uint rank, k;
}
push;

void main() {
  uvec4 n = uvec4(push.dim[0], push.dim[1], push.dim[2], push.dim[3]);
  if (push.rank > 1u) n[push.rank - 1u] = live_count(push.live, n[push.rank - 1u]);
  const uint64_t group = folded_group();
  if (group >= uint64_t(n.y) * n.z * n.w) return;
  const uint row = uint(group);
  const uint64_t x = push.x + row % n.y * push.s_x[0] + row / n.y % n.z * push.s_x[1] +
                     row / n.y / n.z * push.s_x[2];
  const uint64_t room = push.workspace + group * power_of_two(push.k) * 8ul;
  const uint64_t list = select_largest(Source(x, 0u, n.x, false), push.k, room);
  for (uint i = gl_LocalInvocationID.x; i < push.k; i += gl_WorkGroupSize.x) {
    I32P(push.y + group * push.k * 4ul).v[i] = int(~rank_at(list, i).y);
  }
}
