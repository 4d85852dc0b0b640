// F32, F16 and BF16 weights in kLayoutRows16: a record is 4 elements of 16 rows, [4][16]; of BF16
// [2][16][2], the pairs that vdpbf16ps takes.
#pragma once
#include "backends/cpu/quant/math.h"

MICA_CPU_BEGIN

namespace {

struct WordF32 {
  static constexpr uint32_t kBytes = 4;
  static constexpr bool kPairs = false;
  MICA_INLINE_MEMBER void load4(const uint8_t* p, f32x16* w) {
    MICA_UNROLL
    for (int k = 0; k < 4; ++k) w[k] = load(reinterpret_cast<const float*>(p) + 16 * k);
  }
  static float one(const uint8_t* p) {
    float f;
    __builtin_memcpy(&f, p, 4);
    return f;
  }
};
struct WordF16 {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kPairs = false;
  MICA_INLINE_MEMBER void load4(const uint8_t* p, f32x16* w) {
    MICA_UNROLL
    for (int k = 0; k < 4; ++k) w[k] = load_f16(reinterpret_cast<const uint16_t*>(p) + 16 * k);
  }
  static float one(const uint8_t* p) {
    uint16_t h;
    __builtin_memcpy(&h, p, 2);
    return f16_to_f32(h);
  }
};
struct WordBF16 {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kPairs = true;
  MICA_INLINE_MEMBER void load4(const uint8_t* p, f32x16* w) {
    const int32_t* pairs = reinterpret_cast<const int32_t*>(p);
    MICA_UNROLL
    for (int k = 0; k < 4; k += 2) {
      const i32x16 both = load_i32(pairs + 8 * k);
      w[k] = as_f32(shl<16>(both));
      w[k + 1] = as_f32(both & set1_i32(static_cast<int32_t>(0xffff0000u)));
    }
  }
  static float one(const uint8_t* p) {
    uint16_t h;
    __builtin_memcpy(&h, p, 2);
    return bf16_to_f32(h);
  }
};

template <class Word>
struct Elements {
  static constexpr uint32_t kNumerics = MICA_NUM_F32;
  static constexpr uint32_t kBlockElems = 4;
  static constexpr uint32_t kBlockBytes = 4 * Word::kBytes;
  static constexpr uint32_t kBlocks = 1;
  static constexpr uint32_t kRecordBytes = 16 * kBlockBytes;
  static constexpr uint32_t kColumnBytes = 16;  // [4][width] F32

  static constexpr uint32_t place(uint32_t k, uint32_t r) {
    return Word::kBytes * (Word::kPairs ? k / 2 * 32 + 2 * r + k % 2 : 16 * k + r);
  }
  static void pack(const uint8_t* const* block, uint32_t, uint8_t* record) {
    for (uint32_t r = 0; r < 16; ++r) {
      for (uint32_t k = 0; k < 4; ++k) {
        __builtin_memcpy(record + place(k, r), block[r] + Word::kBytes * k, Word::kBytes);
      }
    }
  }
  static void unpack(const uint8_t* record, uint32_t, uint32_t r, uint8_t* b) {
    for (uint32_t k = 0; k < 4; ++k) {
      __builtin_memcpy(b + Word::kBytes * k, record + place(k, r), Word::kBytes);
    }
  }
  static void decode(const uint8_t* b, float* y) {
    for (uint32_t k = 0; k < 4; ++k) y[k] = Word::one(b + Word::kBytes * k);
  }

  static void prepare(mica_dtype dtype, const char* x, int64_t n, int64_t n_records, int64_t width,
                      int64_t i, char* panel) {
    float* out = reinterpret_cast<float*>(panel) + i;
    for (int64_t first = 0; first < 4 * n_records; first += 16) {
      float buffer[16];
      const float* v = as_floats<16>(dtype, x + first * float_bytes(dtype), n - first, buffer);
      const int64_t end = min_i64(16, 4 * n_records - first);
      for (int64_t k = 0; k < end; ++k) out[(first + k) * width] = v[k];
    }
  }
  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    const float* x = reinterpret_cast<const float*>(columns);
    f32x16 w[4];
    Word::load4(record, w);
    MICA_UNROLL
    for (int k = 0; k < 4; ++k) {
      MICA_UNROLL
      for (int i = 0; i < kColumns; ++i) acc[i] = fma(w[k], set1(x[kColumns * k + i]), acc[i]);
    }
  }
};

}  // namespace

MICA_CPU_END
