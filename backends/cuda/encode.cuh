// Bit-exact codecs of plain GGUF blocks and of narrow floats, for host and device. What they
// compute is that of ops/dtypes, operation by operation; on the device no multiplication and
// addition may fuse, so all arithmetic that rounds goes through mul, add, sub and div.
#pragma once
#include <stdint.h>

#include "mica/dtype.h"

#ifdef __CUDACC__
#define MICA_HD __host__ __device__ inline
#define MICA_HD_LARGE __host__ __device__ __noinline__ inline
#else
#define MICA_HD inline
#define MICA_HD_LARGE inline
#endif

namespace mica::cuda {

#ifdef __CUDA_ARCH__
MICA_HD uint32_t bits_of(float f) { return __float_as_uint(f); }
MICA_HD float float_of(uint32_t u) { return __uint_as_float(u); }
MICA_HD float mul(float a, float b) { return __fmul_rn(a, b); }
MICA_HD float add(float a, float b) { return __fadd_rn(a, b); }
MICA_HD float sub(float a, float b) { return __fsub_rn(a, b); }
MICA_HD float div(float a, float b) { return __fdiv_rn(a, b); }
MICA_HD float root(float a) { return __fsqrt_rn(a); }
#else
MICA_HD uint32_t bits_of(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, sizeof u);
  return u;
}
MICA_HD float float_of(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, sizeof f);
  return f;
}
MICA_HD float mul(float a, float b) { return a * b; }
MICA_HD float add(float a, float b) { return a + b; }
MICA_HD float sub(float a, float b) { return a - b; }
MICA_HD float div(float a, float b) { return a / b; }
MICA_HD float root(float a) { return __builtin_sqrtf(a); }
#endif
MICA_HD float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
MICA_HD float infinity() { return float_of(0x7f800000u); }

// --- Narrow floats (ops/dtypes/half.h) ----------------------------------------------------------

// Exact; a NaN keeps its payload and becomes quiet.
MICA_HD float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t m = h & 0x7fffu;
  const uint32_t quiet = m > 0x7c00u ? 0x00400000u : 0u;
  const uint32_t special = (m << 13) | 0x7f800000u | quiet;
  const uint32_t normal = (m << 13) + (112u << 23);
  const uint32_t small = bits_of(mul(static_cast<float>(static_cast<int32_t>(m)), 0x1p-24f));
  return float_of(sign | (m < 0x400u ? small : m < 0x7c00u ? normal : special));
}

// Half to even; a NaN keeps its payload's top.
MICA_HD uint16_t f32_to_f16(float f) {
  const uint32_t bits = bits_of(f);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t x = bits & 0x7fffffffu;
  const uint32_t small = bits_of(add(float_of(x), 0.5f)) - 0x3f000000u;
  const uint32_t normal = (x + 0xfffu + ((x >> 13) & 1u) - (112u << 23)) >> 13;
  const uint32_t finite = x < 0x38800000u ? small : normal;
  const uint32_t special = x > 0x7f800000u ? 0x7e00u | ((x >> 13) & 0x3ffu) : 0x7c00u;
  return static_cast<uint16_t>(sign | (x < 0x477ff000u ? finite : special));
}

MICA_HD float bf16_to_f32(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

MICA_HD uint16_t f32_to_bf16(float f) {
  const uint32_t bits = bits_of(f);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// The bits of an element as a conversion leaves them: a NaN becomes quiet.
MICA_HD uint32_t quiet_f32(uint32_t bits) {
  return bits | ((bits & 0x7fffffffu) > 0x7f800000u ? 0x00400000u : 0u);
}
MICA_HD uint16_t quiet_f16(uint16_t h) {
  return static_cast<uint16_t>(h | ((h & 0x7fffu) > 0x7c00u ? 0x0200u : 0u));
}
MICA_HD uint16_t quiet_bf16(uint16_t h) {
  return static_cast<uint16_t>(h | ((h & 0x7fffu) > 0x7f80u ? 0x0040u : 0u));
}

// To the nearest integer, half to even, for |x| <= 2^22.
MICA_HD int32_t round_even(float x) {
  return static_cast<int32_t>(bits_of(add(x, 0x1.8p23f)) - 0x4b400000u);
}

// --- What the block types share (ops/dtypes/codec.h) --------------------------------------------

constexpr float kLargestF16 = 65504.0f;

MICA_HD float within(float x, float limit) {
  return x > limit ? limit : x < -limit ? -limit : x == x ? x : 0.0f;
}
MICA_HD int32_t clamp_int(int32_t v, int32_t low, int32_t high) {
  return v < low ? low : v > high ? high : v;
}
MICA_HD float inverse_scale(float d, uint16_t stored) {
  return (stored & 0x7fffu) == 0 ? 0.0f : div(1.0f, d);
}

MICA_HD uint16_t load16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | (static_cast<uint32_t>(p[1]) << 8));
}
MICA_HD void store16(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}

struct BlockInfo {
  uint32_t elems;
  uint32_t bytes;
};
MICA_HD BlockInfo block_info(mica_dtype dtype) {
  switch (dtype) {
    case MICA_F32:
    case MICA_I32:
      return {1, 4};
    case MICA_I64:
      return {1, 8};
    case MICA_Q4_0:
      return {32, 18};
    case MICA_Q4_1:
      return {32, 20};
    case MICA_Q5_0:
      return {32, 22};
    case MICA_Q5_1:
      return {32, 24};
    case MICA_Q8_0:
      return {32, 34};
    case MICA_Q4_K:
      return {256, 144};
    case MICA_Q5_K:
      return {256, 176};
    case MICA_Q6_K:
      return {256, 210};
    default:  // F16, BF16
      return {1, 2};
  }
}

// --- Blocks of 32 (ops/dtypes/legacy_fit.h, nibbles.h) ------------------------------------------

MICA_HD void fit_symmetric(const float* x, int32_t zero, uint16_t& out_d, float& out_inverse) {
  const float limit = mul(static_cast<float>(zero), kLargestF16);
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    const float v = within(x[i], limit);
    if (magnitude(v) > magnitude(largest)) largest = v;
  }
  const float d = div(largest, static_cast<float>(-zero));
  out_d = f32_to_f16(d);
  out_inverse = inverse_scale(d, out_d);
}
MICA_HD int32_t quant_symmetric(float x, int32_t zero, float inverse) {
  const float limit = mul(static_cast<float>(zero), kLargestF16);
  return clamp_int(round_even(mul(within(x, limit), inverse)) + zero, 0, 2 * zero - 1);
}

MICA_HD void fit_range(const float* x, int32_t last, uint16_t& out_d, uint16_t& out_m,
                       float& out_low, float& out_inverse) {
  float low = within(x[0], kLargestF16);
  float high = low;
  for (int i = 1; i < 32; ++i) {
    const float v = within(x[i], kLargestF16);
    if (v < low) low = v;
    if (v > high) high = v;
  }
  const float d = div(sub(high, low), static_cast<float>(last));
  out_d = f32_to_f16(d);
  out_m = f32_to_f16(low);
  out_low = low;
  out_inverse = inverse_scale(d, out_d);
}
MICA_HD int32_t quant_range(float x, int32_t last, float low, float inverse) {
  return clamp_int(round_even(mul(sub(within(x, kLargestF16), low), inverse)), 0, last);
}

MICA_HD void encode_q8_0(const float* x, uint8_t* out) {
  constexpr float kLimit = 127 * kLargestF16;
  float largest = 0;
  for (int i = 0; i < 32; ++i) {
    const float m = magnitude(within(x[i], kLimit));
    if (m > largest) largest = m;
  }
  const float d = div(largest, 127.0f);
  const uint16_t stored = f32_to_f16(d);
  const float inverse = inverse_scale(d, stored);
  store16(out, stored);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<uint8_t>(round_even(mul(within(x[i], kLimit), inverse)));
}

// Q4_0, Q4_1, Q5_0, Q5_1: d, m of the *_1 types, the fifth bits of Q5, 16 bytes of two nibbles.
MICA_HD void encode_nibbles(mica_dtype dtype, const float* x, uint8_t* out) {
  const bool has_min = dtype == MICA_Q4_1 || dtype == MICA_Q5_1;
  const bool has_fifth = dtype == MICA_Q5_0 || dtype == MICA_Q5_1;
  const int32_t zero = has_fifth ? 16 : 8;
  uint16_t d = 0;
  uint16_t m = 0;
  float low = 0;
  float inverse = 0;
  if (has_min) {
    fit_range(x, 2 * zero - 1, d, m, low, inverse);
  } else {
    fit_symmetric(x, zero, d, inverse);
  }
  store16(out, d);
  if (has_min) store16(out + 2, m);
  uint8_t* qh = out + (has_min ? 4 : 2);
  uint8_t* qs = qh + (has_fifth ? 4 : 0);
  uint32_t fifth = 0;
  for (int i = 0; i < 16; ++i) {
    int32_t q[2];
    for (int half = 0; half < 2; ++half) {
      const float v = x[i + 16 * half];
      q[half] =
          has_min ? quant_range(v, 2 * zero - 1, low, inverse) : quant_symmetric(v, zero, inverse);
      fifth |= static_cast<uint32_t>(q[half] >> 4 & 1) << (i + 16 * half);
    }
    qs[i] = static_cast<uint8_t>((q[0] & 15) | ((q[1] & 15) << 4));
  }
  if (has_fifth) {
    for (int i = 0; i < 4; ++i) qh[i] = static_cast<uint8_t>(fifth >> (8 * i));
  }
}

// --- Blocks of 256 (ops/dtypes/k_fit.h) ---------------------------------------------------------

constexpr float kLimitK = 8 * kLargestF16;

// The candidate steps: the full range is spread over q_last + offset quants.
MICA_HD float k_offset(int i) {
  switch (i) {
    case 0:
      return -2.4f;
    case 1:
      return -2.0f;
    case 2:
      return -1.6f;
    case 3:
      return -1.2f;
    case 4:
      return -0.8f;
    case 5:
      return -0.4f;
    case 6:
      return 0.0f;
    default:
      return 0.4f;
  }
}

MICA_HD void k_weights(const float* x, int n, float* weight) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum = add(sum, mul(x[i], x[i]));
  const float rms = root(div(sum, static_cast<float>(n)));
  for (int i = 0; i < n; ++i) weight[i] = add(rms, magnitude(x[i]));
}

struct KScaleMin {
  float scale, min;
};

MICA_HD KScaleMin fit_scale_min(const float* x, const float* weight, int32_t q_last) {
  float low = 0;
  float high = x[0];
  float w = 0;
  float wx = 0;
  for (int i = 0; i < 32; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    w = add(w, weight[i]);
    wx = add(wx, mul(weight[i], x[i]));
  }
  const float range = sub(high, low);
  const float last = static_cast<float>(q_last);
  if (!(range > 0x1p-80f)) return {0, -low};
  KScaleMin best = {div(range, last), -low};
  float least = infinity();
  for (int k = 0; k < 8; ++k) {
    const float inverse = div(add(last, k_offset(k)), range);
    float sq = 0;
    float sqq = 0;
    float sqx = 0;
    for (int i = 0; i < 32; ++i) {
      float q = mul(sub(x[i], low), inverse);
      q = q > last ? last : q;
      q = sub(add(q, 0x1.8p23f), 0x1.8p23f);
      const float wq = mul(weight[i], q);
      sq = add(sq, wq);
      sqq = add(sqq, mul(wq, q));
      sqx = add(sqx, mul(wq, x[i]));
    }
    const float determinant = sub(mul(w, sqq), mul(sq, sq));
    if (!(determinant > 0)) continue;
    float scale = div(sub(mul(w, sqx), mul(sq, wx)), determinant);
    float min = div(sub(mul(sq, sqx), mul(sqq, wx)), determinant);
    if (min < 0) {
      min = 0;
      scale = div(sqx, sqq);
    }
    if (!(scale > 0)) continue;
    const float first = mul(scale, sub(sub(mul(scale, sqq), mul(mul(2, min), sq)), mul(2, sqx)));
    const float error = add(first, mul(min, add(mul(min, w), mul(2, wx))));
    if (error < least) {
      least = error;
      best = {scale, min};
    }
  }
  return best;
}

MICA_HD float fit_scale(const float* x, const float* weight, int n, int32_t q_half) {
  float largest = 0;
  for (int i = 0; i < n; ++i)
    if (magnitude(x[i]) > magnitude(largest)) largest = x[i];
  if (!(magnitude(largest) > 0x1p-80f)) return 0;
  const float half = static_cast<float>(q_half);
  float best = div(-largest, half);
  float most = 0;
  for (int k = 0; k < 8; ++k) {
    const float inverse = div(-add(half, k_offset(k)), largest);
    float qq = 0;
    float qx = 0;
    for (int i = 0; i < n; ++i) {
      float q = mul(x[i], inverse);
      q = q > half - 1 ? half - 1 : q < -half ? -half : q;
      q = sub(add(q, 0x1.8p23f), 0x1.8p23f);
      qq = add(qq, mul(mul(weight[i], q), q));
      qx = add(qx, mul(mul(weight[i], q), x[i]));
    }
    if (qq > 0 && mul(qx, qx) > mul(most, qq)) {
      most = div(mul(qx, qx), qq);
      best = div(qx, qq);
    }
  }
  return best;
}

MICA_HD int32_t quant_group_k(float x, float shift, float inverse, float last) {
  const float q = mul(add(x, shift), inverse);
  return round_even(q > last ? last : q < 0 ? 0 : q);
}

// The weighted squared error of a group's quants for a step and a shift.
MICA_HD float group_error(const float* x, const float* weight, float step, float shift,
                          int32_t q_last) {
  const float inverse = step > 0 ? div(1.0f, step) : 0.0f;
  float error = 0;
  for (int i = 0; i < 32; ++i) {
    const int32_t q = quant_group_k(x[i], shift, inverse, static_cast<float>(q_last));
    const float miss = sub(sub(mul(step, static_cast<float>(q)), shift), x[i]);
    error = add(error, mul(mul(weight[i], miss), miss));
  }
  return error;
}

MICA_HD void pack_k_scales(const uint8_t* scale, const uint8_t* min, uint8_t* packed) {
  for (int i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(scale[i] | (scale[4 + i] >> 4 << 6));
    packed[4 + i] = static_cast<uint8_t>(min[i] | (min[4 + i] >> 4 << 6));
    packed[8 + i] = static_cast<uint8_t>((scale[4 + i] & 15) | (min[4 + i] << 4));
  }
}

MICA_HD void load_group(const float* from, int n, float* to) {
  for (int i = 0; i < n; ++i) to[i] = within(from[i], kLimitK);
}

// Q4_K and Q5_K.
MICA_HD_LARGE void encode_k_min(mica_dtype dtype, const float* x, uint8_t* out) {
  const int32_t q_last = dtype == MICA_Q5_K ? 31 : 15;
  KScaleMin fit[8];
  float value[32];
  float weight[32];
  float largest_scale = 0;
  float largest_min = 0;
  for (int g = 0; g < 8; ++g) {
    load_group(x + 32 * g, 32, value);
    k_weights(value, 32, weight);
    fit[g] = fit_scale_min(value, weight, q_last);
    largest_scale = fit[g].scale > largest_scale ? fit[g].scale : largest_scale;
    largest_min = fit[g].min > largest_min ? fit[g].min : largest_min;
  }
  const uint16_t stored_d = f32_to_f16(div(largest_scale, 63.0f));
  const uint16_t stored_min = f32_to_f16(div(largest_min, 63.0f));
  const float d = f16_to_f32(stored_d);
  const float dmin = f16_to_f32(stored_min);
  uint8_t* qh = out + 16;  // of Q5_K
  uint8_t* qs = out + (dtype == MICA_Q5_K ? 48 : 16);
  for (int i = 0; i < 128; ++i) qs[i] = 0;
  for (int i = 0; dtype == MICA_Q5_K && i < 32; ++i) qh[i] = 0;
  uint8_t scales[8] = {};
  uint8_t mins[8] = {};
  for (int g = 0; g < 8; ++g) {
    load_group(x + 32 * g, 32, value);
    k_weights(value, 32, weight);
    const int32_t scale = static_cast<int32_t>(mul(fit[g].scale, inverse_scale(d, stored_d)));
    const int32_t min = static_cast<int32_t>(mul(fit[g].min, inverse_scale(dmin, stored_min)));
    float least = infinity();
    bool any = false;
    for (int k = 0; k < 4; ++k) {
      const int32_t try_scale = clamp_int(scale + k % 2, 0, 63);
      const int32_t try_min = clamp_int(min + k / 2, 0, 63);
      const float error = group_error(value, weight, mul(d, static_cast<float>(try_scale)),
                                      mul(dmin, static_cast<float>(try_min)), q_last);
      if (error < least) {
        least = error;
        any = true;
        scales[g] = static_cast<uint8_t>(try_scale);
        mins[g] = static_cast<uint8_t>(try_min);
      }
    }
    if (!any) continue;
    const float step = mul(d, static_cast<float>(scales[g]));
    const float shift = mul(dmin, static_cast<float>(mins[g]));
    const float inverse = step > 0 ? div(1.0f, step) : 0.0f;
    for (int i = 0; i < 32; ++i) {
      const int32_t q = quant_group_k(value[i], shift, inverse, static_cast<float>(q_last));
      uint8_t& low = qs[g / 2 * 32 + i];
      low = static_cast<uint8_t>(low | (q & 15) << (g % 2 * 4));
      if (dtype == MICA_Q5_K) qh[i] = static_cast<uint8_t>(qh[i] | (q >> 4) << g);
    }
  }
  store16(out, stored_d);
  store16(out + 2, stored_min);
  pack_k_scales(scales, mins, out + 4);
}

MICA_HD_LARGE void encode_q6_k(const float* x, uint8_t* out) {
  float scale[16];
  float largest = 0;
  float value[16];
  for (int g = 0; g < 16; ++g) {
    float weight[16];
    load_group(x + 16 * g, 16, value);
    k_weights(value, 16, weight);
    scale[g] = fit_scale(value, weight, 16, 32);
    if (magnitude(scale[g]) > magnitude(largest)) largest = scale[g];
  }
  const uint16_t stored = f32_to_f16(div(largest, -128.0f));
  const float d = f16_to_f32(stored);
  const float inverse_d = inverse_scale(d, stored);
  for (int i = 0; i < 192; ++i) out[i] = 0;
  for (int g = 0; g < 16; ++g) {
    const int32_t k = clamp_int(round_even(mul(scale[g], inverse_d)), -128, 127);
    out[192 + g] = static_cast<uint8_t>(k);
    const float step = mul(d, static_cast<float>(k));
    const float inverse = step != 0 ? div(1.0f, step) : 0.0f;
    load_group(x + 16 * g, 16, value);
    for (int j = 0; j < 16; ++j) {
      const float exact = mul(value[j], inverse);
      const float near = exact > 31 ? 31.0f : exact < -32 ? -32.0f : exact;
      const int32_t q = round_even(near) + 32;
      const int i = 16 * g + j;
      const int half = i / 128;
      const int column = i % 128;
      uint8_t& low = out[half * 64 + column % 64];
      uint8_t& high = out[128 + half * 32 + column % 32];
      low = static_cast<uint8_t>(low | (q & 15) << (column / 64 * 4));
      high = static_cast<uint8_t>(high | (q >> 4) << (column / 32 * 2));
    }
  }
  store16(out + 208, stored);
}

// --- All types ----------------------------------------------------------------------------------

// Encodes one block of 32; bit by bit what mica_dtype_encode gives.
MICA_HD void encode_block32(mica_dtype dtype, const float* x, uint8_t* out) {
  if (dtype == MICA_Q8_0) {
    encode_q8_0(x, out);
  } else {
    encode_nibbles(dtype, x, out);
  }
}

// The same for a block of any type. `x`: 32 or 256 floats.
MICA_HD_LARGE void encode_block(mica_dtype dtype, const float* x, uint8_t* out) {
  switch (dtype) {
    case MICA_Q4_K:
    case MICA_Q5_K:
      return encode_k_min(dtype, x, out);
    case MICA_Q6_K:
      return encode_q6_k(x, out);
    default:
      return encode_block32(dtype, x, out);
  }
}

MICA_HD float decode_k_min(mica_dtype dtype, const uint8_t* b, int i) {
  const int g = i / 32;
  const uint8_t* packed = b + 4;
  int32_t scale, min;
  if (g < 4) {
    scale = packed[g] & 63;
    min = packed[4 + g] & 63;
  } else {
    scale = (packed[4 + g] & 15) | (packed[g - 4] >> 6 << 4);
    min = (packed[4 + g] >> 4) | (packed[g] >> 6 << 4);
  }
  const uint8_t* qs = b + (dtype == MICA_Q5_K ? 48 : 16);
  int32_t q = qs[g / 2 * 32 + i % 32] >> (g % 2 * 4) & 15;
  if (dtype == MICA_Q5_K) q |= (b[16 + i % 32] >> g & 1) << 4;
  const float step = mul(f16_to_f32(load16(b)), static_cast<float>(scale));
  const float shift = mul(f16_to_f32(load16(b + 2)), static_cast<float>(min));
  return sub(mul(step, static_cast<float>(q)), shift);
}

MICA_HD float decode_q6_k(const uint8_t* b, int i) {
  const int half = i / 128;
  const int column = i % 128;
  const int32_t low = b[half * 64 + column % 64] >> (column / 64 * 4) & 15;
  const int32_t high = b[128 + half * 32 + column % 32] >> (column / 32 * 2) & 3;
  const int32_t q = (low | high << 4) - 32;
  const float step =
      mul(f16_to_f32(load16(b + 208)), static_cast<float>(static_cast<int8_t>(b[192 + i / 16])));
  return mul(step, static_cast<float>(q));
}

// Element i of a block of 32 whose parts lie apart: `q` the byte of its nibble (or its int8),
// `fifth` its fifth bit.
MICA_HD float decode_quant(mica_dtype dtype, float d, float m, uint8_t q, uint32_t fifth, int i) {
  if (dtype == MICA_Q8_0) return mul(d, static_cast<float>(static_cast<int8_t>(q)));
  const int32_t value = static_cast<int32_t>((i < 16 ? q & 15u : q >> 4) | fifth << 4);
  switch (dtype) {
    case MICA_Q4_0:
      return mul(d, static_cast<float>(value - 8));
    case MICA_Q5_0:
      return mul(d, static_cast<float>(value - 16));
    default:
      return add(mul(d, static_cast<float>(value)), m);
  }
}

// Element i of a block.
MICA_HD float decode_element(mica_dtype dtype, const uint8_t* b, int i) {
  switch (dtype) {
    case MICA_Q4_K:
    case MICA_Q5_K:
      return decode_k_min(dtype, b, i);
    case MICA_Q6_K:
      return decode_q6_k(b, i);
    default:
      break;
  }
  const float d = f16_to_f32(load16(b));
  if (dtype == MICA_Q8_0) return decode_quant(dtype, d, 0, b[2 + i], 0, i);
  const bool has_min = dtype == MICA_Q4_1 || dtype == MICA_Q5_1;
  const bool has_fifth = dtype == MICA_Q5_0 || dtype == MICA_Q5_1;
  const float m = has_min ? f16_to_f32(load16(b + 2)) : 0;
  const uint8_t* qh = b + (has_min ? 4 : 2);
  const uint8_t* qs = qh + (has_fifth ? 4 : 0);
  const uint32_t fifth = has_fifth ? qh[i / 8] >> (i % 8) & 1u : 0;
  return decode_quant(dtype, d, m, qs[i % 16], fifth, i);
}

MICA_HD bool is_float_type(mica_dtype t) {
  return t == MICA_F32 || t == MICA_F16 || t == MICA_BF16;
}
MICA_HD bool is_plain_type(mica_dtype t) {
  return is_float_type(t) || t == MICA_I32 || t == MICA_I64;
}

// An element of F32, F16 or BF16 at any address of its own alignment.
MICA_HD float load_float(mica_dtype dtype, const void* p) {
  if (dtype == MICA_F32) return *static_cast<const float*>(p);
  const uint16_t h = *static_cast<const uint16_t*>(p);
  return dtype == MICA_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}
MICA_HD void store_float(mica_dtype dtype, float v, void* p) {
  if (dtype == MICA_F32) {
    *static_cast<float*>(p) = v;
  } else {
    *static_cast<uint16_t*>(p) = dtype == MICA_F16 ? f32_to_f16(v) : f32_to_bf16(v);
  }
}

}  // namespace mica::cuda
