// Encoding Q4_K, Q5_K and Q6_K: the search for scales of ops/dtypes/k_fit.cpp, operation by
// operation. A workgroup encodes one block together: a thread a group of 32 (Q6_K: 16) elements.
//
// The same bits as the reference, as long as products of two values are not subnormal numbers: for
// blocks whose largest value is above 2^-62, or zero.
#ifndef MICA_VULKAN_K_BLOCKS_GLSL
#define MICA_VULKAN_K_BLOCKS_GLSL
#include "kernels/blocks.glsl"

const float kLimitK = 8.0 * kLargestF16;
const float kTooSmall = 8.271806125530277e-25;  // 2^-80
const float kOffsets[8] = float[8](-2.4, -2.0, -1.6, -1.2, -0.8, -0.4, 0.0, 0.4);

shared float k_value[256];
shared uint k_quant[256];
shared float k_scale[16];
shared float k_min[16];
shared uint k_number[16];  // the groups' integers: scale | min << 8

float k_weight(uint i, float rms) {
  precise const float w = rms + abs(k_value[i]);
  return w;
}
float k_rms(uint first, uint n) {
  precise float sum = 0.0;
  for (uint i = 0u; i < n; ++i) {
    precise const float square = k_value[first + i] * k_value[first + i];
    sum = sum + square;
  }
  return exact_sqrt(exact_div(sum, float(n)));
}

// Sums over the group of weight * (q, q * q, q * x) for one choice of quants.
vec3 k_sums(uint first, float rms, float low, float inverse, float last) {
  precise vec3 s = vec3(0.0);
  for (uint i = first; i < first + 32u; ++i) {
    precise const float above = k_value[i] - low;
    precise float q = above * inverse;
    q = roundEven(q > last ? last : q);
    precise const float wq = k_weight(i, rms) * q;
    precise const float wqq = wq * q;
    precise const float wqx = wq * k_value[i];
    s.x = s.x + wq;
    s.y = s.y + wqq;
    s.z = s.z + wqx;
  }
  return s;
}

// Scale and min (both >= 0) of a group of 32: x is about scale * q - min, q in 0 … last.
vec2 k_fit_scale_min(uint first, float rms, float last) {
  float low = 0.0, high = k_value[first];
  precise float w = 0.0;
  precise float wx = 0.0;
  for (uint i = first; i < first + 32u; ++i) {
    const float x = k_value[i];
    low = x < low ? x : low;
    high = x > high ? x : high;
    const float weight = k_weight(i, rms);
    precise const float product = weight * x;
    w = w + weight;
    wx = wx + product;
  }
  precise const float range = high - low;
  if (!(range > kTooSmall)) return vec2(0.0, -low);
  vec2 best = vec2(exact_div(range, last), -low);
  float least = uintBitsToFloat(kInfinity);
  for (uint k = 0u; k < 8u; ++k) {
    precise const float steps = last + kOffsets[k];
    const vec3 s = k_sums(first, rms, low, exact_div(steps, range), last);
    precise const float determinant = w * s.y - s.x * s.x;
    if (!(determinant > 0.0)) continue;
    precise const float over_scale = w * s.z - s.x * wx;
    precise const float over_min = s.x * s.z - s.y * wx;
    float scale = exact_div(over_scale, determinant);
    float min = exact_div(over_min, determinant);
    if (min < 0.0) {
      min = 0.0;
      scale = exact_div(s.z, s.y);
    }
    if (!(scale > 0.0)) continue;
    precise const float a = scale * s.y - 2.0 * min * s.x - 2.0 * s.z;
    precise const float b = min * w + 2.0 * wx;
    precise const float error = scale * a + min * b;
    if (error < least) {
      least = error;
      best = vec2(scale, min);
    }
  }
  return best;
}

// Quants of a group for a step and a shift, to k_quant if `keep`; the weighted squared error.
float k_quantize(uint first, float rms, float step, float shift, float last, bool keep) {
  const float inverse = step > 0.0 ? exact_div(1.0, step) : 0.0;
  precise float error = 0.0;
  for (uint i = first; i < first + 32u; ++i) {
    precise const float above = k_value[i] + shift;
    precise float q = above * inverse;
    q = roundEven(q > last ? last : q < 0.0 ? 0.0 : q);
    if (keep) k_quant[i] = uint(q);
    precise const float miss = step * q - shift - k_value[i];
    precise const float term = k_weight(i, rms) * miss * miss;
    error = error + term;
  }
  return error;
}

// x is about scale * q with q in -half_range … half_range - 1; 16 values.
float k_fit_scale(uint first, float rms, float half_range) {
  float largest = 0.0;
  for (uint i = first; i < first + 16u; ++i) {
    if (magnitude_bits(k_value[i]) > magnitude_bits(largest)) largest = k_value[i];
  }
  if (!(abs(largest) > kTooSmall)) return 0.0;
  float best = exact_div(-largest, half_range);
  float most = 0.0;
  for (uint k = 0u; k < 8u; ++k) {
    precise const float steps = half_range + kOffsets[k];
    const float inverse = exact_div(-steps, largest);
    precise float qq = 0.0;
    precise float qx = 0.0;
    for (uint i = first; i < first + 16u; ++i) {
      precise float q = k_value[i] * inverse;
      q = roundEven(q > half_range - 1.0 ? half_range - 1.0 : q < -half_range ? -half_range : q);
      precise const float wq = k_weight(i, rms) * q;
      precise const float wqq = wq * q;
      precise const float wqx = wq * k_value[i];
      qq = qq + wqq;
      qx = qx + wqx;
    }
    precise const float square = qx * qx;
    precise const float limit = most * qq;
    if (qq > 0.0 && square > limit) {
      most = exact_div(square, qq);
      best = exact_div(qx, qq);
    }
  }
  return best;
}

void k_put_byte(uint64_t at, uint i, uint byte) { U8P(at).v[i] = uint8_t(byte & 255u); }

void k_encode_45(uint dtype, uint64_t at) {
  const uint g = gl_LocalInvocationID.x;
  const float last = dtype == MICA_Q4_K ? 15.0 : 31.0;
  float rms = 0.0;
  vec2 fit = vec2(0.0);
  if (g < 8u) {
    rms = k_rms(32u * g, 32u);
    fit = k_fit_scale_min(32u * g, rms, last);
    k_scale[g] = fit.x;
    k_min[g] = fit.y;
  }
  barrier();
  float largest_scale = 0.0, largest_min = 0.0;
  for (uint i = 0u; i < 8u; ++i) {
    largest_scale = max(largest_scale, k_scale[i]);
    largest_min = max(largest_min, k_min[i]);
  }
  const uint d_bits = f16_bits(exact_div(largest_scale, 63.0));
  const uint dmin_bits = f16_bits(exact_div(largest_min, 63.0));
  const float d = f16_value(d_bits), dmin = f16_value(dmin_bits);
  if (g < 8u) {
    const int scale = int(fit.x * inverse_scale(d, d_bits));
    const int min = int(fit.y * inverse_scale(dmin, dmin_bits));
    float least = uintBitsToFloat(kInfinity);
    uint number = 0u;
    for (int k = 0; k < 4; ++k) {
      const int try_scale = clamp(scale + k % 2, 0, 63);
      const int try_min = clamp(min + k / 2, 0, 63);
      const float error =
          k_quantize(32u * g, rms, d * float(try_scale), dmin * float(try_min), last, false);
      if (error < least) {
        least = error;
        number = uint(try_scale) | uint(try_min) << 8;
      }
    }
    k_quantize(32u * g, rms, d * float(number & 255u), dmin * float(number >> 8), last, true);
    k_number[g] = number;
  }
  barrier();
  const uint quants = dtype == MICA_Q5_K ? 48u : 16u;
  for (uint i = g; i < 128u; i += gl_WorkGroupSize.x) {
    const uint j = i / 32u * 64u + i % 32u;
    k_put_byte(at, quants + i, (k_quant[j] & 15u) | (k_quant[j + 32u] & 15u) << 4);
  }
  for (uint i = g; dtype == MICA_Q5_K && i < 32u; i += gl_WorkGroupSize.x) {
    uint bits = 0u;
    for (uint k = 0u; k < 8u; ++k) bits |= (k_quant[32u * k + i] >> 4) << k;
    k_put_byte(at, 16u + i, bits);
  }
  if (g < 4u) {
    const uint low = k_number[g], high = k_number[4u + g];
    k_put_byte(at, 4u + g, (low & 63u) | (high & 255u) >> 4 << 6);
    k_put_byte(at, 8u + g, (low >> 8) | high >> 12 << 6);
    k_put_byte(at, 12u + g, (high & 15u) | (high >> 8 & 15u) << 4);
  }
  if (g == 0u) put_word(at, d_bits | dmin_bits << 16);
}

void k_encode_6(uint64_t at) {
  const uint g = gl_LocalInvocationID.x;
  if (g < 16u) k_scale[g] = k_fit_scale(16u * g, k_rms(16u * g, 16u), 32.0);
  barrier();
  float largest = 0.0;
  for (uint i = 0u; i < 16u; ++i) {
    if (magnitude_bits(k_scale[i]) > magnitude_bits(largest)) largest = k_scale[i];
  }
  const float quotient = exact_div(largest, -128.0);
  const uint sign = ~floatBitsToUint(largest) >> 16 & 0x8000u;
  const uint d_bits = (f16_bits(quotient) & 0x7fffu) | sign;
  const float d = f16_value(d_bits);
  const float inverse_d = inverse_scale(d, d_bits);
  if (g < 16u) {
    const int k = clamp(quantized(k_scale[g], inverse_d), -128, 127);
    precise const float step = d * float(k);
    const float inverse = step != 0.0 ? exact_div(1.0, step) : 0.0;
    k_put_byte(at, 192u + g, uint(k));
    for (uint i = 16u * g; i < 16u * g + 16u; ++i) {
      precise const float exact = k_value[i] * inverse;
      const float near = exact > 31.0 ? 31.0 : exact < -32.0 ? -32.0 : exact;
      k_quant[i] = uint(int(roundEven(near)) + 32);
    }
  }
  barrier();
  for (uint i = g; i < 64u; i += gl_WorkGroupSize.x) {
    const uint p = i / 32u * 128u + i % 32u;
    const uint q0 = k_quant[p], q1 = k_quant[p + 32u], q2 = k_quant[p + 64u];
    const uint q3 = k_quant[p + 96u];
    const uint column = i / 32u * 64u + i % 32u;
    k_put_byte(at, column, (q0 & 15u) | (q2 & 15u) << 4);
    k_put_byte(at, column + 32u, (q1 & 15u) | (q3 & 15u) << 4);
    k_put_byte(at, 128u + i, q0 >> 4 | q1 >> 4 << 2 | q2 >> 4 << 4 | q3 >> 4 << 6);
  }
  if (g == 0u) U16P(at).v[104] = uint16_t(d_bits);
}

// Called by a whole workgroup of at least 16, with the 256 values in k_value before a barrier.
void k_encode(uint dtype, uint64_t at) {
  for (uint i = gl_LocalInvocationID.x; i < 256u; i += gl_WorkGroupSize.x) {
    k_value[i] = within(k_value[i], kLimitK);
  }
  barrier();
  if (dtype == MICA_Q6_K) {
    k_encode_6(at);
  } else {
    k_encode_45(dtype, at);
  }
  barrier();
}

#endif
