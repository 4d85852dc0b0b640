#version 460
#extension GL_GOOGLE_include_directive : require
// softmax of scale * x + mask: a workgroup a row, the scores are computed three times.
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t x, mask, y, live;
  uint64_t s_x[3], s_mask[3];  // bytes of dimensions 1 to 3; 0 where the mask repeats
  uint dim[4];
  uint dtypes;  // of x | of the mask << 8 | rank << 16
  float scale;
}
push;

shared float partial[gl_WorkGroupSize.x];

float reduced(float value, bool largest) {
  const uint i = gl_LocalInvocationID.x;
  partial[i] = value;
  barrier();
  for (uint half_size = gl_WorkGroupSize.x / 2u; half_size > 0u; half_size /= 2u) {
    if (i < half_size) {
      const float other = partial[i + half_size];
      partial[i] = largest ? max(partial[i], other) : partial[i] + other;
    }
    barrier();
  }
  const float result = partial[0];
  barrier();
  return result;
}

float score(uint64_t x, uint64_t mask, uint i) {
  const float s = load_float(push.dtypes & 255u, x, i) * push.scale;
  return push.mask != 0ul ? s + load_float(push.dtypes >> 8 & 255u, mask, i) : s;
}

void main() {
  uvec4 n = uvec4(push.dim[0], push.dim[1], push.dim[2], push.dim[3]);
  const uint rank = push.dtypes >> 16;
  n[rank - 1u] = live_count(push.live, n[rank - 1u]);
  const uint64_t group = folded_group();
  if (group >= uint64_t(n.y) * n.z * n.w) return;
  const uint row = uint(group);
  const uvec3 at = uvec3(row % n.y, row / n.y % n.z, row / n.y / n.z);
  const uint64_t x = push.x + at.x * push.s_x[0] + at.y * push.s_x[1] + at.z * push.s_x[2];
  const uint64_t mask =
      push.mask + at.x * push.s_mask[0] + at.y * push.s_mask[1] + at.z * push.s_mask[2];
  const uint dtype = push.dtypes & 255u;
  const uint64_t y = push.y + group * (n.x * float_bytes(dtype));
  const float infinity = uintBitsToFloat(kInfinity);
  const uint first = gl_LocalInvocationID.x, step = gl_WorkGroupSize.x;

  float largest = -infinity;
  for (uint i = first; i < n.x; i += step) {
    const float s = score(x, mask, i);
    largest = is_nan(s) ? infinity : max(largest, s);
  }
  largest = reduced(largest, true);
  if (isinf(largest)) {
    // Nothing is visible, or there is no answer.
    const float value = largest < 0.0 ? 0.0 : not_a_number();
    for (uint i = first; i < n.x; i += step) store_float(dtype, y, i, value);
    return;
  }
  float sum = 0.0;
  for (uint i = first; i < n.x; i += step) sum += exp_accurate(score(x, mask, i) - largest);
  const float factor = 1.0 / reduced(sum, false);
  for (uint i = first; i < n.x; i += step) {
    store_float(dtype, y, i, exp_accurate(score(x, mask, i) - largest) * factor);
  }
}
