// The 32-element types with 4 or 5 bits (q4_0, q4_1, q5_0, q5_1) in kLayoutRows16, and the pieces
// that the K types share. A block's quants: 4 vectors of 16 rows x 4 bytes, byte k of vector j has
// elements 4j + k (low nibble) and 16 + 4j + k (high); fifth bits: one vector, bit j of byte k is
// that of element 4j + k.
#pragma once
#include "backends/cpu/quant/math.h"

MICA_CPU_BEGIN

MICA_INLINE uint32_t get_word(const uint8_t* p) {
  uint32_t v;
  __builtin_memcpy(&v, p, 4);
  return v;
}
MICA_INLINE void put_word(uint8_t* p, uint32_t v) { __builtin_memcpy(p, &v, 4); }
MICA_INLINE uint16_t get_half(const uint8_t* p) {
  uint16_t v;
  __builtin_memcpy(&v, p, 2);
  return v;
}

// Bit 4j + k of a word (k < 4, j < 8) to bit 8k + j, and back.
MICA_INLINE uint32_t bits_to_bytes(uint32_t bits) {
  uint32_t word = 0;
  for (uint32_t j = 0; j < 8; ++j) {
    // The 4 bits of j, spread over 4 bytes.
    word |= ((((bits >> (4 * j)) & 15u) * 0x00204081u) & 0x01010101u) << j;
  }
  return word;
}
MICA_INLINE uint32_t bytes_to_bits(uint32_t word) {
  uint32_t bits = 0;
  for (uint32_t j = 0; j < 8; ++j) {
    bits |= ((((word >> j) & 0x01010101u) * 0x10204080u) >> 28) << (4 * j);
  }
  return bits;
}

// The 8 vectors of one block's 32 elements.
MICA_INLINE void load_nibbles(const uint8_t* p, u8x64* q) {
  MICA_UNROLL
  for (int j = 0; j < 4; ++j) {
    const u8x64 both = load_bytes(p + 64 * j);
    q[j] = low_nibbles(both);
    q[4 + j] = high_nibbles(both);
  }
}
MICA_INLINE void add_fifth_bits(const uint8_t* p, u8x64* q) {
  const u8x64 high = load_bytes(p);
  q[0] = add_bits<1, 0>(q[0], high);
  q[1] = add_bits<1, 1>(q[1], high);
  q[2] = add_bits<1, 2>(q[2], high);
  q[3] = add_bits<1, 3>(q[3], high);
  q[4] = add_bits<1, 4>(q[4], high);
  q[5] = add_bits<1, 5>(q[5], high);
  q[6] = add_bits<1, 6>(q[6], high);
  q[7] = add_bits<1, 7>(q[7], high);
}

// A panel's record of the 32-element types: per block [width][32] int8, [width] F32 scale, [width]
// F32 (the sum of the quants, for types with a min) or I32 (-kZero * sum).
template <int kBlocks, int32_t kZero, bool kMin>
static void prepare_q8_32(mica_dtype dtype, const char* x, int64_t n, int64_t n_records,
                          int64_t width, int64_t i, char* panel) {
  for (int64_t b = 0; b < n_records * kBlocks; ++b) {
    float buffer[32];
    const int64_t first = 32 * b;
    const float* v = as_floats<32>(dtype, x + first * float_bytes(dtype), n - first, buffer);
    char* block = panel + b * width * 40;
    const Rounding r = rounding<32>(v);
    const int32_t sum = round_to<32>(v, r.inverse, reinterpret_cast<int8_t*>(block + 32 * i));
    put_f32(block + 32 * width + 4 * i, r.scale);
    char* extra = block + 36 * width + 4 * i;
    if (kMin) {
      put_f32(extra, static_cast<float>(sum));
    } else {
      put_i32(extra, -kZero * sum);
    }
  }
}

// acc += block's quants times columns' int8, scaled. Moves `columns` past the block. The columns'
// scale comes last: large as they may be, a product overflows only where their sum does.
template <int kColumns, int kBits, bool kMin>
MICA_INLINE void add_block(const u8x64* q, f32x16 scale, f32x16 min, const char*& columns,
                           f32x16* acc) {
  const char* scales = columns + 32 * kColumns;
  const char* extras = columns + 36 * kColumns;
  MICA_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const i32x16 init = set1_i32(kMin ? 0 : get_i32(extras + 4 * i));
    const i32x16 sum = dot<8, kBits>(q, reinterpret_cast<const int8_t*>(columns + 32 * i), init);
    f32x16 product = to_f32(sum) * scale;
    if (kMin) product = fma(min, set1(get_f32(extras + 4 * i)), product);
    acc[i] = fma(product, set1(get_f32(scales + 4 * i)), acc[i]);
  }
  columns += 40 * kColumns;
}

namespace {

// A record is two blocks of 16 rows: F16 scales [2][16], mins [2][16], then of each block its fifth
// bits [64] and its quants [256].
template <int kBits, bool kMin>
struct Nibbles {
  static constexpr uint32_t kNumerics = MICA_NUM_Q8_32;
  static constexpr uint32_t kBlockElems = 32;
  static constexpr uint32_t kBlockBytes = 2 + (kMin ? 2 : 0) + (kBits == 5 ? 4 : 0) + 16;
  static constexpr uint32_t kBlocks = 2;
  static constexpr int32_t kZero = kBits == 5 ? 16 : 8;
  static constexpr uint32_t kMins = 64;
  static constexpr uint32_t kFifth = kMins + (kMin ? 64 : 0);
  static constexpr uint32_t kQuants = kFifth + (kBits == 5 ? 64 : 0);
  static constexpr uint32_t kStride = kBits == 5 ? 320 : 256;  // of a block's bits
  static constexpr uint32_t kRecordBytes = kFifth + 2 * kStride;
  static constexpr uint32_t kColumnBytes = 80;
  static constexpr uint32_t kPlainFifth = kMin ? 4 : 2;
  static constexpr uint32_t kPlainQuants = kBlockBytes - 16;

  static void pack(const uint8_t* const* block, uint32_t i, uint8_t* record) {
    for (uint32_t r = 0; r < 16; ++r) {
      const uint8_t* b = block[r];
      __builtin_memcpy(record + 32 * i + 2 * r, b, 2);
      if (kMin) __builtin_memcpy(record + kMins + 32 * i + 2 * r, b + 2, 2);
      if (kBits == 5) {
        put_word(record + kFifth + kStride * i + 4 * r, bits_to_bytes(get_word(b + kPlainFifth)));
      }
      for (uint32_t j = 0; j < 4; ++j) {
        put_word(record + kQuants + kStride * i + 64 * j + 4 * r,
                 get_word(b + kPlainQuants + 4 * j));
      }
    }
  }
  static void unpack(const uint8_t* record, uint32_t i, uint32_t r, uint8_t* b) {
    __builtin_memcpy(b, record + 32 * i + 2 * r, 2);
    if (kMin) __builtin_memcpy(b + 2, record + kMins + 32 * i + 2 * r, 2);
    if (kBits == 5) {
      put_word(b + kPlainFifth, bytes_to_bits(get_word(record + kFifth + kStride * i + 4 * r)));
    }
    for (uint32_t j = 0; j < 4; ++j) {
      put_word(b + kPlainQuants + 4 * j, get_word(record + kQuants + kStride * i + 64 * j + 4 * r));
    }
  }
  static void decode(const uint8_t* b, float* y) {
    const float d = f16_to_f32(get_half(b));
    const float m = kMin ? f16_to_f32(get_half(b + 2)) : 0.0f;
    const uint32_t fifth = kBits == 5 ? get_word(b + kPlainFifth) : 0;
    for (uint32_t k = 0; k < 32; ++k) {
      const uint32_t low = (b[kPlainQuants + k % 16] >> (k / 16 * 4)) & 15u;
      const int32_t q = static_cast<int32_t>(low | (fifth >> k & 1u) << 4);
      y[k] = kMin ? d * static_cast<float>(q) + m : d * static_cast<float>(q - kZero);
    }
  }

  static constexpr auto prepare = prepare_q8_32<kBlocks, kZero, kMin>;
  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    MICA_UNROLL
    for (uint32_t i = 0; i < kBlocks; ++i) {
      u8x64 q[8];
      load_nibbles(record + kQuants + kStride * i, q);
      if (kBits == 5) add_fifth_bits(record + kFifth + kStride * i, q);
      const f32x16 scale = load_f16(reinterpret_cast<const uint16_t*>(record + 32 * i));
      const f32x16 min =
          kMin ? load_f16(reinterpret_cast<const uint16_t*>(record + kMins + 32 * i)) : zero();
      add_block<kColumns, kBits, kMin>(q, scale, min, columns, acc);
    }
  }
};

}  // namespace

MICA_CPU_END
