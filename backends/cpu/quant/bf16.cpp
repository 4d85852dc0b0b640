// bf16 in kLayoutRows16: see elements.h. Where the CPU multiplies pairs of BF16, activations are
// rounded to BF16; else weights are widened.
#include "backends/cpu/quant/elements.h"

MICA_CPU_BEGIN
using Format = Elements<WordBF16>;

#if defined(__AVX512F__)
namespace {

struct Pairs {
  static constexpr uint32_t kNumerics = MICA_NUM_BF16;
  static constexpr uint32_t kRecordBytes = Format::kRecordBytes;
  static constexpr uint32_t kColumnBytes = 8;  // [2][width][2] BF16

  static void prepare(mica_dtype dtype, const char* x, int64_t n, int64_t n_records, int64_t width,
                      int64_t i, char* panel) {
    char* out = panel + 4 * i;
    for (int64_t first = 0; first < 4 * n_records; first += 16) {
      float buffer[16];
      uint16_t rounded[16];
      store_bf16(rounded,
                 load(as_floats<16>(dtype, x + first * float_bytes(dtype), n - first, buffer)));
      const int64_t end = min_i64(16, 4 * n_records - first);
      if (width == 1 && end == 16) {
        __builtin_memcpy(out + 2 * first, rounded, 32);
        continue;
      }
      for (int64_t k = 0; k < end; k += 2) {
        __builtin_memcpy(out + (first + k) / 2 * 4 * width, rounded + k, 4);
      }
    }
  }
  template <int kColumns>
  MICA_INLINE_MEMBER void run(const uint8_t* record, const char* columns, f32x16* acc) {
    MICA_UNROLL
    for (int p = 0; p < 2; ++p) {
      MICA_UNROLL
      for (int i = 0; i < kColumns; ++i) {
        acc[i] = dot_bf16(acc[i], record + 64 * p, columns + 4 * (kColumns * p + i));
      }
    }
  }
};

}  // namespace

MICA_CPU_ROWS16(bf16, Format, Format, &row_math<Pairs>)
#else
MICA_CPU_ROWS16(bf16, Format, Format, nullptr)
#endif
MICA_CPU_END
