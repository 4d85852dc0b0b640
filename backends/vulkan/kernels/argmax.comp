#version 460
#extension GL_GOOGLE_include_directive : require
// argmax: a workgroup finds the best rank of a piece of a row. Rows of several pieces go through
// the workspace and a second dispatch.
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/select.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, live;
  uint64_t s_x[3];  // bytes of dimensions 1 to 3
  uint dim[4];
  uint rank;
  uint piece, n_pieces;  // elements of a piece; pieces of a row
  uint of_ranks;         // x holds n_pieces ranks a row
  uint to_ranks;         // y does
}
push;

shared uvec2 best[gl_WorkGroupSize.x];

void main() {
  uvec4 n = uvec4(push.dim[0], push.dim[1], push.dim[2], push.dim[3]);
  if (push.rank > 1u) n[push.rank - 1u] = live_count(push.live, n[push.rank - 1u]);
  const uint64_t group = folded_group();
  const uint pieces = push.of_ranks != 0u ? 1u : push.n_pieces;
  if (group >= uint64_t(n.y) * n.z * n.w * pieces) return;
  const uint row = uint(group / pieces);
  const uint piece = uint(group) % pieces;
  uvec2 mine = uvec2(0u);
  if (push.of_ranks != 0u) {
    const uint64_t ranks = push.x + uint64_t(row) * push.n_pieces * 8ul;
    for (uint i = gl_LocalInvocationID.x; i < push.n_pieces; i += gl_WorkGroupSize.x) {
      const uvec2 rank = RankP(ranks).v[i];
      if (is_above(rank, mine)) mine = rank;
    }
  } else {
    const uint64_t x = push.x + row % n.y * push.s_x[0] + row / n.y % n.z * push.s_x[1] +
                       row / n.y / n.z * push.s_x[2];
    const uint end = min(n.x, (piece + 1u) * push.piece);
    for (uint i = piece * push.piece + gl_LocalInvocationID.x; i < end; i += gl_WorkGroupSize.x) {
      const uvec2 rank = rank_of(F32P(x).v[i], i);
      if (is_above(rank, mine)) mine = rank;
    }
  }
  best[gl_LocalInvocationID.x] = mine;
  barrier();
  for (uint apart = gl_WorkGroupSize.x / 2u; apart > 0u; apart /= 2u) {
    if (gl_LocalInvocationID.x < apart) {
      const uvec2 other = best[gl_LocalInvocationID.x + apart];
      if (is_above(other, best[gl_LocalInvocationID.x])) best[gl_LocalInvocationID.x] = other;
    }
    barrier();
  }
  if (gl_LocalInvocationID.x != 0u) return;
  if (push.to_ranks != 0u) {
    RankP(push.y).v[uint(group)] = best[0];
  } else {
    I32P(push.y).v[row] = int(~best[0].y);
  }
}
