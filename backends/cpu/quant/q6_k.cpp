// q6_k in kLayoutRows16. A record is one block of 256 elements of 16 rows: F16 d [16], 32 bytes of
// padding (vectors stay in one cache line); scales [16][16] int8; then of each group of 32 its top
// two bits [2][64] (of vector h, bits 2j of byte k: element 16h + 4j + k) and its low four bits
// [256] as in nibbles.h.
#include "backends/cpu/quant/superblocks.h"

MICA_CPU_BEGIN

namespace {

struct Q6_K {
  static constexpr uint32_t kNumerics = MICA_NUM_Q8_256;
  static constexpr uint32_t kBlockElems = 256;
  static constexpr uint32_t kBlockBytes = 210;
  static constexpr uint32_t kBlocks = 1;
  static constexpr uint32_t kScales = 64;
  static constexpr uint32_t kTop = kScales + 256;
  static constexpr uint32_t kQuants = kTop + 128;
  static constexpr uint32_t kStride = 384;  // of a group's bits
  static constexpr uint32_t kRecordBytes = kTop + 8 * kStride;
  // Per group [width][32] int8, [width][2] I32 (-32 * sum of 16); then [width] F32 scale.
  static constexpr uint32_t kColumnBytes = 8 * 40 + 4;
  static constexpr uint32_t kPlainTop = 128;
  static constexpr uint32_t kPlainScales = 192;
  static constexpr uint32_t kPlainD = 208;

  // Group g: its low bits are a nibble of 32 bytes of ql, its top bits a pair of 32 bytes of qh.
  static constexpr uint32_t low_byte(uint32_t g) { return g / 4 * 64 + g % 2 * 32; }
  static constexpr uint32_t low_shift(uint32_t g) { return g % 4 / 2 * 4; }
  static constexpr uint32_t top_byte(uint32_t g) { return kPlainTop + g / 4 * 32; }
  static constexpr uint32_t top_shift(uint32_t g) { return g % 4 * 2; }

  static void pack(const uint8_t* const* block, uint32_t, uint8_t* record) {
    for (uint32_t r = 0; r < 16; ++r) {
      const uint8_t* b = block[r];
      __builtin_memcpy(record + 2 * r, b + kPlainD, 2);
      put_half(record + 32 + 2 * r, 0);
      for (uint32_t g = 0; g < 16; ++g) record[kScales + 16 * g + r] = b[kPlainScales + g];
      for (uint32_t g = 0; g < 8; ++g) {
        for (uint32_t j = 0; j < 4; ++j) {
          const uint8_t* low = b + low_byte(g) + 4 * j;
          const uint32_t first = get_word(low) >> low_shift(g) & 0x0f0f0f0fu;
          const uint32_t second = get_word(low + 16) >> low_shift(g) & 0x0f0f0f0fu;
          put_word(record + kQuants + kStride * g + 64 * j + 4 * r, first | second << 4);
        }
        for (uint32_t h = 0; h < 2; ++h) {
          uint32_t word = 0;
          for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t top = get_word(b + top_byte(g) + 16 * h + 4 * j);
            word |= (top >> top_shift(g) & 0x03030303u) << (2 * j);
          }
          put_word(record + kTop + kStride * g + 64 * h + 4 * r, word);
        }
      }
    }
  }
  static void unpack(const uint8_t* record, uint32_t, uint32_t r, uint8_t* b) {
    __builtin_memset(b, 0, kPlainScales);
    for (uint32_t g = 0; g < 8; ++g) {
      for (uint32_t j = 0; j < 4; ++j) {
        const uint32_t both = get_word(record + kQuants + kStride * g + 64 * j + 4 * r);
        or_word(b + low_byte(g) + 4 * j, (both & 0x0f0f0f0fu) << low_shift(g));
        or_word(b + low_byte(g) + 16 + 4 * j, (both >> 4 & 0x0f0f0f0fu) << low_shift(g));
        for (uint32_t h = 0; h < 2; ++h) {
          const uint32_t top = get_word(record + kTop + kStride * g + 64 * h + 4 * r);
          or_word(b + top_byte(g) + 16 * h + 4 * j, (top >> (2 * j) & 0x03030303u) << top_shift(g));
        }
      }
    }
    for (uint32_t g = 0; g < 16; ++g) b[kPlainScales + g] = record[kScales + 16 * g + r];
    __builtin_memcpy(b + kPlainD, record + 2 * r, 2);
  }
  static void put_half(uint8_t* p, uint16_t v) { __builtin_memcpy(p, &v, 2); }
  static void or_word(uint8_t* p, uint32_t v) { put_word(p, get_word(p) | v); }
  static void decode(const uint8_t* b, float* y) {
    const float d = f16_to_f32(get_half(b + kPlainD));
    for (uint32_t k = 0; k < 256; ++k) {
      const uint32_t g = k / 32;
      const uint32_t low = b[low_byte(g) + k % 32] >> low_shift(g) & 15u;
      const uint32_t top = b[top_byte(g) + k % 32] >> top_shift(g) & 3u;
      const float scale = static_cast<float>(static_cast<int8_t>(b[kPlainScales + k / 16]));
      y[k] = d * scale * static_cast<float>(static_cast<int32_t>(low | top << 4) - 32);
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
      put_f32(columns + 320 * width + 4 * i, round_256(v, q, 40 * width, sum));
      for (int64_t g = 0; g < 8; ++g) {
        char* out = columns + 40 * width * g + 32 * width + 8 * i;
        put_i32(out, -32 * sum[2 * g]);
        put_i32(out + 4, -32 * sum[2 * g + 1]);
      }
    }
  }

  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    f32x16 total[kColumns];
    MICA_UNROLL
    for (int i = 0; i < kColumns; ++i) total[i] = zero();
    for (uint32_t g = 0; g < 8; ++g) {
      u8x64 q[8];
      load_nibbles(record + kQuants + kStride * g, q);
      add_top(record + kTop + kStride * g, q);
      add_top(record + kTop + kStride * g + 64, q + 4);
      const int8_t* scales = reinterpret_cast<const int8_t*>(record + kScales + 32 * g);
      const f32x16 scale0 = to_f32(load_i8(scales));
      const f32x16 scale1 = to_f32(load_i8(scales + 16));
      const char* sums = columns + 32 * kColumns;
      MICA_UNROLL
      for (int i = 0; i < kColumns; ++i) {
        const int8_t* x = reinterpret_cast<const int8_t*>(columns + 32 * i);
        const i32x16 dot0 = dot<4, 6>(q, x, set1_i32(get_i32(sums + 8 * i)));
        const i32x16 dot1 = dot<4, 6>(q + 4, x + 16, set1_i32(get_i32(sums + 8 * i + 4)));
        total[i] = fma(to_f32(dot0), scale0, total[i]);
        total[i] = fma(to_f32(dot1), scale1, total[i]);
      }
      columns += 40 * kColumns;
    }
    const f32x16 d = load_f16(reinterpret_cast<const uint16_t*>(record));
    MICA_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      acc[i] = fma(total[i] * d, set1(get_f32(columns + 4 * i)), acc[i]);
    }
  }
  MICA_INLINE_MEMBER void add_top(const uint8_t* p, u8x64* q) {
    const u8x64 top = load_bytes(p);
    q[0] = add_bits<3, 0>(q[0], top);
    q[1] = add_bits<3, 2>(q[1], top);
    q[2] = add_bits<3, 4>(q[2], top);
    q[3] = add_bits<3, 6>(q[3], top);
  }
};

}  // namespace

MICA_CPU_ROWS16(q6_k, Q6_K, Q6_K, nullptr)
MICA_CPU_END
