// The blocks of GGUF types, bit by bit as ops/dtypes has them: decoding single elements, and
// encoding the types of 32 elements. The K types are encoded in k_blocks.glsl.
#ifndef MICA_VULKAN_BLOCKS_GLSL
#define MICA_VULKAN_BLOCKS_GLSL
#include "kernels/numbers.glsl"

uint block_elems(uint dtype) {
  if (dtype == MICA_Q4_K || dtype == MICA_Q5_K || dtype == MICA_Q6_K) return 256u;
  const bool is_plain = dtype == MICA_F32 || dtype == MICA_F16 || dtype == MICA_BF16 ||
                        dtype == MICA_I32 || dtype == MICA_I64;
  return is_plain ? 1u : 32u;
}
uint block_bytes(uint dtype) {
  switch (dtype) {
    case MICA_Q4_0:
      return 18u;
    case MICA_Q4_1:
      return 20u;
    case MICA_Q5_0:
      return 22u;
    case MICA_Q5_1:
      return 24u;
    case MICA_Q8_0:
      return 34u;
    case MICA_Q4_K:
      return 144u;
    case MICA_Q5_K:
      return 176u;
    case MICA_Q6_K:
      return 210u;
    default:
      return plain_bytes(dtype);
  }
}

float half_at(uint64_t at) { return f16_value(uint(U16P(at).v[0])); }
uint byte_at(uint64_t at, uint i) { return uint(U8P(at).v[i]); }

// Scale (x) and min (y) number g of the 12 bytes of ops/dtypes/k_scales.h.
uvec2 k_scale_min(uint64_t at, uint g) {
  if (g < 4u) return uvec2(byte_at(at, g) & 63u, byte_at(at, 4u + g) & 63u);
  const uint both = byte_at(at, 4u + g);
  return uvec2((both & 15u) | (byte_at(at, g - 4u) >> 6 << 4),
               (both >> 4) | (byte_at(at, g) >> 6 << 4));
}

float decode_k_element(uint dtype, uint64_t at, uint j) {
  if (dtype == MICA_Q6_K) {
    const uint part = j / 128u, column = j % 128u;
    const uint low = byte_at(at, part * 64u + column % 64u) >> (column / 64u * 4u) & 15u;
    const uint high = byte_at(at, 128u + part * 32u + column % 32u) >> (column / 32u * 2u) & 3u;
    const int scale = bitfieldExtract(int(byte_at(at, 192u + j / 16u)), 0, 8);
    return half_at(at + 208ul) * float(scale) * float(int(low | high << 4) - 32);
  }
  const uint g = j / 32u, i = j % 32u;
  const uvec2 s = k_scale_min(at + 4ul, g);
  const uint quants = dtype == MICA_Q5_K ? 48u : 16u;
  uint q = byte_at(at, quants + g / 2u * 32u + i) >> (g % 2u * 4u) & 15u;
  if (dtype == MICA_Q5_K) q |= (byte_at(at, 16u + i) >> g & 1u) << 4;
  precise const float step = half_at(at) * float(s.x);
  precise const float shift = half_at(at + 2ul) * float(s.y);
  precise const float y = step * float(q) - shift;
  return y;
}

// Element j of the block at `at`.
float decode_element(uint dtype, uint64_t at, uint j) {
  if (dtype >= MICA_Q4_K && dtype <= MICA_Q6_K) return decode_k_element(dtype, at, j);
  if (dtype == MICA_Q8_0) {
    return half_at(at) * float(bitfieldExtract(int(byte_at(at, 2u + j)), 0, 8));
  }
  const bool has_min = dtype == MICA_Q4_1 || dtype == MICA_Q5_1;
  const bool has_fifth = dtype == MICA_Q5_0 || dtype == MICA_Q5_1;
  const uint fifths = has_min ? 4u : 2u;
  const uint quants = fifths + (has_fifth ? 4u : 0u);
  uint q = byte_at(at, quants + j % 16u) >> (j / 16u * 4u) & 15u;
  if (has_fifth) q |= (byte_at(at, fifths + j / 8u) >> (j % 8u) & 1u) << 4;
  if (!has_min) return half_at(at) * float(int(q) - (has_fifth ? 16 : 8));
  precise const float product = half_at(at) * float(q);
  precise const float y = product + half_at(at + 2ul);
  return y;
}

// --- encoding -----------------------------------------------------------------------------------

const float kLargestF16 = 65504.0;

// NaN counts as 0; what a block cannot hold is moved to the limit.
float within(float x, float limit) {
  if (is_nan(x)) return 0.0;
  return x > limit ? limit : x < -limit ? -limit : x;
}
// 1 / d for a block scale d that is stored as F16: 0 when that is 0.
float inverse_scale(float d, uint stored) {
  return (stored & 0x7fffu) == 0u ? 0.0 : exact_div(1.0, d);
}
uint magnitude_bits(float x) { return floatBitsToUint(x) & 0x7fffffffu; }

// A block of 32 in its parts: scales as F16 bits, fifth bits, quants as bytes or nibble pairs.
struct Block {
  uint d, m, fifths;
  uint quants[8];
};

int quantized(float x, float inverse) {
  precise const float y = x * inverse;
  return int(roundEven(y));
}

void put_quant(inout Block b, bool bytes, uint i, uint q) {
  if (bytes) {
    b.quants[i / 4u] |= (q & 255u) << (i % 4u * 8u);
  } else {
    b.quants[i % 16u / 4u] |= (q & 15u) << (i % 4u * 8u + i / 16u * 4u);
    b.fifths |= (q >> 4 & 1u) << i;
  }
}

// x[0 … 32) of Q4_0, Q5_0 and Q8_0: by the value of largest magnitude, the first of equals.
Block encode_symmetric(uint dtype, float x[32]) {
  Block b = Block(0u, 0u, 0u, uint[8](0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u));
  const bool bytes = dtype == MICA_Q8_0;
  const int zero = bytes ? 0 : dtype == MICA_Q4_0 ? 8 : 16;
  const float divisor = bytes ? 127.0 : float(-zero);
  const float limit = abs(divisor) * kLargestF16;
  float largest = 0.0;
  for (uint i = 0u; i < 32u; ++i) {
    const float v = within(x[i], limit);
    if (magnitude_bits(v) > magnitude_bits(largest)) largest = v;
  }
  if (bytes) largest = uintBitsToFloat(magnitude_bits(largest));
  const float d = exact_div(largest, divisor);
  // The sign apart: a quotient that is flushed to zero may lose it.
  const uint sign = (floatBitsToUint(largest) ^ floatBitsToUint(divisor)) >> 16 & 0x8000u;
  b.d = (f16_bits(d) & 0x7fffu) | sign;
  const float inverse = inverse_scale(d, b.d);
  for (uint i = 0u; i < 32u; ++i) {
    const int q = quantized(within(x[i], limit), inverse);
    put_quant(b, bytes, i, uint(bytes ? q : clamp(q + zero, 0, 2 * zero - 1)));
  }
  return b;
}

// Q4_1 and Q5_1: by the range.
Block encode_range(uint dtype, float x[32]) {
  Block b = Block(0u, 0u, 0u, uint[8](0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u));
  const int last = dtype == MICA_Q4_1 ? 15 : 31;
  float low = within(x[0], kLargestF16);
  float high = low;
  for (uint i = 1u; i < 32u; ++i) {
    const float v = within(x[i], kLargestF16);
    if (v < low) low = v;
    if (v > high) high = v;
  }
  precise const float range = high - low;
  const float d = exact_div(range, float(last));
  b.d = f16_bits(d);
  b.m = f16_bits(low);
  const float inverse = inverse_scale(d, b.d);
  for (uint i = 0u; i < 32u; ++i) {
    precise const float above = within(x[i], kLargestF16) - low;
    put_quant(b, false, i, uint(clamp(quantized(above, inverse), 0, last)));
  }
  return b;
}

Block encode_block(uint dtype, float x[32]) {
  if (dtype == MICA_Q4_1 || dtype == MICA_Q5_1) return encode_range(dtype, x);
  return encode_symmetric(dtype, x);
}

void put_word(uint64_t at, uint word) {  // `at` is even
  U16P(at).v[0] = uint16_t(word & 0xffffu);
  U16P(at).v[1] = uint16_t(word >> 16);
}

// As files have it.
void store_block(uint dtype, uint64_t at, Block b) {
  U16P(at).v[0] = uint16_t(b.d);
  at += 2ul;
  if (dtype == MICA_Q4_1 || dtype == MICA_Q5_1) {
    U16P(at).v[0] = uint16_t(b.m);
    at += 2ul;
  }
  if (dtype == MICA_Q5_0 || dtype == MICA_Q5_1) {
    put_word(at, b.fifths);
    at += 4ul;
  }
  const uint n = dtype == MICA_Q8_0 ? 8u : 4u;
  for (uint i = 0u; i < n; ++i) put_word(at + 4u * i, b.quants[i]);
}

#endif
