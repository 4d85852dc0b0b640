// q4_k and q5_k in kLayoutRows16. A record is one block of 256 elements of 16 rows: F16 d [16],
// dmin [16]; scales [8][16] bytes; mins [4][16][2] bytes (of groups 2i, 2i + 1); then of each group
// of 32 its fifth bits [64] (q5_k) and its quants [256]. Scales and mins keep their 6 bits; groups
// lie as blocks in nibbles.h.
#pragma once
#include "backends/cpu/quant/nibbles.h"
#include "ops/dtypes/k_scales.h"

MICA_CPU_BEGIN

// Rounds 256 elements with one scale. sum[16]: of each 16 elements.
MICA_INLINE float round_256(const float* v, int8_t* q, int64_t s_q, int32_t* sum) {
  const Rounding r = rounding<256>(v);
  MICA_UNROLL
  for (int g = 0; g < 8; ++g) {
    sum[2 * g] = round_to<16>(v + 32 * g, r.inverse, q + g * s_q);
    sum[2 * g + 1] = round_to<16>(v + 32 * g + 16, r.inverse, q + g * s_q + 16);
  }
  return r.scale;
}

namespace {

template <int kBits>
struct SuperBlocks {
  static constexpr uint32_t kNumerics = MICA_NUM_Q8_256;
  static constexpr uint32_t kBlockElems = 256;
  static constexpr uint32_t kBlockBytes = kBits == 5 ? 176 : 144;
  static constexpr uint32_t kBlocks = 1;
  static constexpr uint32_t kScales = 64;
  static constexpr uint32_t kMins = kScales + 128;
  static constexpr uint32_t kFifth = kMins + 128;
  static constexpr uint32_t kQuants = kFifth + (kBits == 5 ? 64 : 0);
  static constexpr uint32_t kStride = kBits == 5 ? 320 : 256;  // of a group's bits
  static constexpr uint32_t kRecordBytes = kFifth + 8 * kStride;
  // Per group [width][32] int8; then [width] F32 scale, [width][4] sums of two groups (I16 x 2).
  static constexpr uint32_t kColumnBytes = 256 + 4 + 16;
  static constexpr uint32_t kPlainQuants = kBits == 5 ? 48 : 16;

  static void pack(const uint8_t* const* block, uint32_t, uint8_t* record) {
    for (uint32_t r = 0; r < 16; ++r) {
      const uint8_t* b = block[r];
      __builtin_memcpy(record + 2 * r, b, 2);
      __builtin_memcpy(record + 32 + 2 * r, b + 2, 2);
      uint8_t scale[8];
      uint8_t min[8];
      unpack_k_scales(b + 4, scale, min);
      for (uint32_t g = 0; g < 8; ++g) {
        record[kScales + 16 * g + r] = scale[g];
        record[kMins + 32 * (g / 2) + 2 * r + g % 2] = min[g];
      }
      if (kBits == 5) pack_fifth(b + 16, record + kFifth + 4 * r);
      for (uint32_t g = 0; g < 8; g += 2) {
        const uint8_t* in = b + kPlainQuants + 16 * g;
        uint8_t* out = record + kQuants + kStride * g + 4 * r;
        for (uint32_t j = 0; j < 4; ++j) {
          const uint32_t first = get_word(in + 4 * j);
          const uint32_t second = get_word(in + 16 + 4 * j);
          put_word(out + 64 * j, (first & 0x0f0f0f0fu) | (second & 0x0f0f0f0fu) << 4);
          put_word(out + kStride + 64 * j, (first >> 4 & 0x0f0f0f0fu) | (second & 0xf0f0f0f0u));
        }
      }
    }
  }
  static void unpack(const uint8_t* record, uint32_t, uint32_t r, uint8_t* b) {
    __builtin_memcpy(b, record + 2 * r, 2);
    __builtin_memcpy(b + 2, record + 32 + 2 * r, 2);
    uint8_t scale[8];
    uint8_t min[8];
    for (uint32_t g = 0; g < 8; ++g) {
      scale[g] = record[kScales + 16 * g + r];
      min[g] = record[kMins + 32 * (g / 2) + 2 * r + g % 2];
    }
    pack_k_scales(scale, min, b + 4);
    if (kBits == 5) unpack_fifth(record + kFifth + 4 * r, b + 16);
    for (uint32_t g = 0; g < 8; g += 2) {
      const uint8_t* in = record + kQuants + kStride * g + 4 * r;
      uint8_t* out = b + kPlainQuants + 16 * g;
      for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t even = get_word(in + 64 * j);
        const uint32_t odd = get_word(in + kStride + 64 * j);
        put_word(out + 4 * j, (even & 0x0f0f0f0fu) | (odd & 0x0f0f0f0fu) << 4);
        put_word(out + 16 + 4 * j, (even >> 4 & 0x0f0f0f0fu) | (odd & 0xf0f0f0f0u));
      }
    }
  }
  // Plain: bit g of byte i is that of element i of group g. Here: word g, byte k, bit j is that of
  // element 4j + k. For each k an 8 x 8 transposition of bits (j, g).
  static void pack_fifth(const uint8_t* qh, uint8_t* out) {
    for (uint32_t k = 0; k < 4; ++k) {
      uint64_t m = 0;
      for (uint32_t j = 0; j < 8; ++j) m |= static_cast<uint64_t>(qh[4 * j + k]) << (8 * j);
      m = transposed(m);
      for (uint32_t g = 0; g < 8; ++g) out[kStride * g + k] = static_cast<uint8_t>(m >> (8 * g));
    }
  }
  static void unpack_fifth(const uint8_t* in, uint8_t* qh) {
    for (uint32_t k = 0; k < 4; ++k) {
      uint64_t m = 0;
      for (uint32_t g = 0; g < 8; ++g) m |= static_cast<uint64_t>(in[kStride * g + k]) << (8 * g);
      m = transposed(m);
      for (uint32_t j = 0; j < 8; ++j) qh[4 * j + k] = static_cast<uint8_t>(m >> (8 * j));
    }
  }
  // Of an 8 x 8 matrix of bits, a row a byte: swaps blocks of 1, 2 and 4.
  static uint64_t transposed(uint64_t m) {
    uint64_t t = (m ^ (m >> 7)) & 0x00aa00aa00aa00aau;
    m ^= t ^ (t << 7);
    t = (m ^ (m >> 14)) & 0x0000cccc0000ccccu;
    m ^= t ^ (t << 14);
    t = (m ^ (m >> 28)) & 0x00000000f0f0f0f0u;
    return m ^ t ^ (t << 28);
  }
  static void decode(const uint8_t* b, float* y) {
    const float d = f16_to_f32(get_half(b));
    const float dmin = f16_to_f32(get_half(b + 2));
    uint8_t scale[8];
    uint8_t min[8];
    unpack_k_scales(b + 4, scale, min);
    for (uint32_t g = 0; g < 8; ++g) {
      const float step = d * static_cast<float>(scale[g]);
      const float shift = dmin * static_cast<float>(min[g]);
      const uint8_t* qs = b + kPlainQuants + g / 2 * 32;
      for (uint32_t i = 0; i < 32; ++i) {
        uint32_t q = (qs[i] >> (g % 2 * 4)) & 15u;
        if (kBits == 5) q |= (b[16 + i] >> g & 1u) << 4;
        y[32 * g + i] = step * static_cast<float>(q) - shift;
      }
    }
  }

  static void prepare(mica_dtype dtype, const char* x, int64_t n, int64_t n_records, int64_t width,
                      int64_t i, char* panel) {
    for (int64_t b = 0; b < n_records; ++b) {
      float buffer[256];
      int32_t sum[16];
      const float* v = as_floats<256>(dtype, x + 256 * b * float_bytes(dtype), n - 256 * b, buffer);
      char* columns = panel + b * width * kColumnBytes;
      int8_t* q = reinterpret_cast<int8_t*>(columns + 32 * i);
      put_f32(columns + 256 * width + 4 * i, round_256(v, q, 32 * width, sum));
      for (int64_t g = 0; g < 4; ++g) {
        const int32_t even = sum[4 * g] + sum[4 * g + 1];
        const int32_t odd = sum[4 * g + 2] + sum[4 * g + 3];
        put_i32(columns + 260 * width + 16 * i + 4 * g, (even & 0xffff) | odd * 65536);
      }
    }
  }

  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    const char* scales = columns + 256 * kColumns;
    const char* sums = columns + 260 * kColumns;
    f32x16 total[kColumns];
    MICA_UNROLL
    for (int i = 0; i < kColumns; ++i) total[i] = zero();
    for (uint32_t g = 0; g < 8; ++g) {
      u8x64 q[8];
      load_nibbles(record + kQuants + kStride * g, q);
      if (kBits == 5) add_fifth_bits(record + kFifth + kStride * g, q);
      const f32x16 scale = to_f32(load_u8(record + kScales + 16 * g));
      MICA_UNROLL
      for (int i = 0; i < kColumns; ++i) {
        const int8_t* x = reinterpret_cast<const int8_t*>(columns + 32 * i);
        total[i] = fma(to_f32(dot<8, kBits>(q, x, set1_i32(0))), scale, total[i]);
      }
      columns += 32 * kColumns;
    }
    const f32x16 d = load_f16(reinterpret_cast<const uint16_t*>(record));
    const f32x16 dmin = load_f16(reinterpret_cast<const uint16_t*>(record + 32));
    MICA_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      i32x16 mins = set1_i32(0);
      MICA_UNROLL
      for (int g = 0; g < 4; ++g) {
        mins = dot_pair(mins, record + kMins + 32 * g, get_i32(sums + 16 * i + 4 * g));
      }
      // The columns' scale last, as in add_block.
      const f32x16 product = fnma(to_f32(mins), dmin, total[i] * d);
      acc[i] = fma(product, set1(get_f32(scales + 4 * i)), acc[i]);
    }
  }
};

}  // namespace

MICA_CPU_END
