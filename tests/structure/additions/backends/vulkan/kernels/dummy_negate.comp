#version 460
#extension GL_GOOGLE_include_directive : require
// y = -x.
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t x, y, live;
  uint n_slowest, per_slowest;
}
push;

void main() {
  const uint64_t i = folded_thread();
  if (i >= uint64_t(live_count(push.live, push.n_slowest)) * push.per_slowest) return;
  F32P(push.y).v[uint(i)] = -F32P(push.x).v[uint(i)];
}
