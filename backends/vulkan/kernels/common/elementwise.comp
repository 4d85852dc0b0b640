// Elements of one or two tensors: y = op(act(a), b), any float types, b repeated over a.
#version 460
#extension GL_GOOGLE_include_directive : require
//! variant -
//! variant denorm -DKEEP_SUBNORMALS
#ifdef KEEP_SUBNORMALS
// DenormPreserve 32 of SPV_KHR_float_controls, for drivers that have it: without it a driver may
// take subnormal numbers for 0.
#extension GL_EXT_spirv_intrinsics : require
spirv_execution_mode(extensions = ["SPV_KHR_float_controls"], capabilities = [4464], 4459, 32);
#endif
#include "kernels/common/base.glsl"
#include "kernels/common/math.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kAct = 0;
layout(constant_id = 2) const uint kOp = 0;
layout(constant_id = 3) const uint kTypeA = MICA_F32;
layout(constant_id = 4) const uint kTypeB = MICA_F32;
layout(constant_id = 5) const uint kTypeY = MICA_F32;  // of act(a) too
layout(constant_id = 6) const uint kMode = 0;  // 0: strides; 1: runs of elements; 2: of four F32
layout(constant_id = 7) const uint kKeepAct = 0;
layout(constant_id = 8) const uint kLift = 0;  // 1: the device may take subnormal operands for 0

layout(push_constant, scalar) uniform Push {
  uint64_t a, b, y, act;
  uint64_t live;        // of the slowest dimension
  uint inner;           // elements of one index of it
  uint n;               // elements of y, at most
  uint dim[3];          // of y, all but the slowest
  uint s_a[4], s_b[4];  // elements
  float scale, bias;
}
args;

float activate(float x) {
  switch (kAct) {
    case 1:
      return fma(x, args.scale, args.bias);
    case 2:
      return silu_exact(x);
    case 3:
      return gelu_exact(x);
    case 4:
      return gelu_erf_exact(x);
    case 5:
      return tanh_exact(x);
    case 6:
      return x > 0.0 || is_nan(x) ? x : 0.0;
    case 7:
      return sigmoid_exact(x);
  }
  return x;
}
// A subnormal x times 2^85, made in integers: then it is in [2^-64, 2^-41). Others as they are.
float lifted(float x) {
  const uint u = floatBitsToUint(x), mag = u & 0x7fffffffu;
  if (mag == 0u || mag >= 0x800000u) return x;
  return uintBitsToFloat(floatBitsToUint(float(mag) * 5.421010862427522e-20) | (u & 0x80000000u));
}
float scale_of(float x, float lifted_x, float scale) {
  return floatBitsToUint(x) == floatBitsToUint(lifted_x) ? 1.0 : scale;
}
// What overflows or vanishes on the way does so in the result too.
float times(float a, float b) {
  if (kLift == 0) return a * b;
  const float l_a = lifted(a), l_b = lifted(b);
  precise float y = l_a * l_b;
  y = y * scale_of(a, l_a, 2.5849394142282115e-26);
  y = y * scale_of(b, l_b, 2.5849394142282115e-26);
  return y;
}
// x's significand in [1, 2), with its sign; what has none (0, infinity, NaN) as it is, exponent 0.
float significand(float x, out int exponent) {
  const float l = lifted(x);
  const uint u = floatBitsToUint(l), e = (u >> 23) & 255u;
  exponent = 0;
  if (e == 0u || e == 255u) return l;
  exponent = int(e) - 127 - (u == floatBitsToUint(x) ? 0 : 85);
  return uintBitsToFloat((u & 0x807fffffu) | 0x3f800000u);
}
// y * 2^k, half to even where that is subnormal; y is in (1/2, 2).
float scaled(float y, int k) {
  const uint u = floatBitsToUint(y), sign = u & 0x80000000u;
  const int e = int((u >> 23) & 255u) + k;
  if (e >= 255) return uintBitsToFloat(sign | 0x7f800000u);
  if (e >= 1) return uintBitsToFloat((u & 0x807fffffu) | uint(e) << 23);
  if (e < -23) return uintBitsToFloat(sign);
  const uint bits = (u & 0x7fffffu) | 0x800000u, shift = uint(1 - e);
  const uint below = (1u << (shift - 1u)) - 1u + ((bits >> shift) & 1u);
  return uintBitsToFloat(sign | (bits + below) >> shift);
}
// Drivers divide by multiplying with 1 / b, which Vulkan wants right for |b| <= 2^126 only: beyond,
// it may be subnormal and taken for 0. So the exponents are divided as integers.
float divided(float a, float b) {
  int e_a, e_b;
  const float m_a = significand(a, e_a), m_b = significand(b, e_b);
  const float y = divide_exact(m_a, m_b);
  const uvec2 exponents = uvec2(floatBitsToUint(m_a), floatBitsToUint(m_b)) & 0x7f800000u;
  return exponents == uvec2(0x3f800000u) ? scaled(y, e_a - e_b) : y;
}
float combine(float a, float b) {
  switch (kOp) {
    case 1:
      return a + b;
    case 2:
      return a - b;
    case 3:
      return times(a, b);
    case 4:
      return divided(a, b);
  }
  return a;
}
vec4 combine4(vec4 a, vec4 b) {
  return vec4(combine(a.x, b.x), combine(a.y, b.y), combine(a.z, b.z), combine(a.w, b.w));
}
vec4 activate4(vec4 x) { return vec4(activate(x.x), activate(x.y), activate(x.z), activate(x.w)); }

uint64_t offset_of(uvec4 i, uint s[4]) {
  return uint64_t(i.x) * s[0] + uint64_t(i.y) * s[1] + uint64_t(i.z) * s[2] + uint64_t(i.w) * s[3];
}

void element(uint i) {
  uint64_t a = args.a, b = args.b;
  uint i_a = i, i_b = i;
  if (kMode == 0) {
    uvec4 at;
    uint rest = i;
    at.x = rest % args.dim[0];
    rest /= args.dim[0];
    at.y = rest % args.dim[1];
    rest /= args.dim[1];
    at.z = rest % args.dim[2];
    at.w = rest / args.dim[2];
    a += offset_of(at, args.s_a) * float_bytes(kTypeA);
    if (kOp != 0) b += offset_of(at, args.s_b) * float_bytes(kTypeB);
    i_a = i_b = 0;
  }
  float x = activate(load_float(kTypeA, a, i_a));
  if (kOp != 0) {
    if (kAct != 0) x = rounded_to(kTypeY, x);
    if (kKeepAct != 0) store_float(kTypeY, args.act + uint64_t(i) * float_bytes(kTypeY), 0, x);
    x = combine(x, load_float(kTypeB, b, i_b));
  }
  store_float(kTypeY, args.y + uint64_t(i) * float_bytes(kTypeY), 0, x);
}

void main() {
  uint n = args.n;
  if (args.live != 0) n = min(n, live_count(args.live, args.n) * args.inner);
  const uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
  const uint first = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
  uint done = 0;
  if (kMode == 2) {
    done = n / 4;
    for (uint i = first; i < done; i += step) {
      vec4 x = activate4(F32x4P(args.a).v[i]);
      if (kKeepAct != 0) F32x4P(args.act).v[i] = x;
      if (kOp != 0) x = combine4(x, F32x4P(args.b).v[i]);
      F32x4P(args.y).v[i] = x;
    }
    done *= 4;
  }
  for (uint i = done + first; i < n; i += step) element(i);
}
