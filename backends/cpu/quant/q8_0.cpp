// q8_0 in kLayoutRows16: a record is two blocks of 16 rows, F16 scales [2][16], then [2][8] vectors
// of 16 rows x 4 bytes, quants + 128.
#include "backends/cpu/quant/nibbles.h"

MICA_CPU_BEGIN

namespace {

struct Q8_0 {
  static constexpr uint32_t kNumerics = MICA_NUM_Q8_32;
  static constexpr uint32_t kBlockElems = 32;
  static constexpr uint32_t kBlockBytes = 34;
  static constexpr uint32_t kBlocks = 2;
  static constexpr uint32_t kQuants = 64;
  static constexpr uint32_t kRecordBytes = kQuants + 1024;
  static constexpr uint32_t kColumnBytes = 80;

  static void pack(const uint8_t* const* block, uint32_t i, uint8_t* record) {
    for (uint32_t r = 0; r < 16; ++r) {
      __builtin_memcpy(record + 32 * i + 2 * r, block[r], 2);
      uint8_t* out = record + kQuants + 512 * i + 4 * r;
      for (uint32_t j = 0; j < 8; ++j) {
        put_word(out + 64 * j, get_word(block[r] + 2 + 4 * j) ^ 0x80808080u);
      }
    }
  }
  static void unpack(const uint8_t* record, uint32_t i, uint32_t r, uint8_t* b) {
    __builtin_memcpy(b, record + 32 * i + 2 * r, 2);
    const uint8_t* in = record + kQuants + 512 * i + 4 * r;
    for (uint32_t j = 0; j < 8; ++j) put_word(b + 2 + 4 * j, get_word(in + 64 * j) ^ 0x80808080u);
  }
  static void decode(const uint8_t* b, float* y) {
    const float d = f16_to_f32(get_half(b));
    for (int k = 0; k < 32; ++k) y[k] = d * static_cast<float>(static_cast<int8_t>(b[2 + k]));
  }

  static constexpr auto prepare = prepare_q8_32<kBlocks, kByteZero, false>;
  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    MICA_UNROLL
    for (uint32_t i = 0; i < kBlocks; ++i) {
      u8x64 q[8];
      MICA_UNROLL
      for (int j = 0; j < 8; ++j) q[j] = load_bytes(record + kQuants + 512 * i + 64 * j);
      const f32x16 scale = load_f16(reinterpret_cast<const uint16_t*>(record + 32 * i));
      add_block<kColumns, 8, false>(q, scale, zero(), columns, acc);
    }
  }
};

}  // namespace

MICA_CPU_ROWS16(q8_0, Q8_0, Q8_0, nullptr)
MICA_CPU_END
