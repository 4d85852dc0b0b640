// The drivers of RowMath: a Step multiplies one record of 16 rows by one record of kColumns
// columns.
//   struct Step {
//     static constexpr uint32_t kNumerics, kRecordBytes, kColumnBytes;
//     static void prepare(dtype, x, n, n_records, width, i, panel);
//     template <int kColumns>
//     static void run(const uint8_t* record, const char* columns, f32x16* acc);  // always inline
//   };
#pragma once
#include "backends/cpu/quant/prepare.h"

MICA_CPU_BEGIN

#if defined(__AVX512F__)
constexpr int kPanelColumns = 8;  // 8 weight and 8 to 16 sum registers of 32
#else
constexpr int kPanelColumns = 4;
#endif

template <class Step, int kColumns>
static void tile(const uint8_t* group, int64_t n_records, const char* panel, float* out) {
  f32x16 acc[kColumns];
  MICA_UNROLL
  for (int i = 0; i < kColumns; ++i) acc[i] = zero();
  for (int64_t r = 0; r < n_records; ++r) {
    Step::template run<kColumns>(group, panel, acc);
    group += Step::kRecordBytes;
    panel += kColumns * Step::kColumnBytes;
  }
  MICA_UNROLL
  for (int i = 0; i < kColumns; ++i) store(out + 16 * i, acc[i]);
}

template <class Step, int kColumns>
constexpr auto tile_or_null() -> void (*)(const uint8_t*, int64_t, const char*, float*) {
  if constexpr (kColumns <= kPanelColumns) {
    return tile<Step, kColumns>;
  } else {
    return nullptr;
  }
}

template <class Step>
static constexpr RowMath row_math = {
    Step::kNumerics,
    kPanelColumns,
    Step::kColumnBytes,
    Step::prepare,
    {tile_or_null<Step, 1>(), tile_or_null<Step, 2>(), tile_or_null<Step, 3>(),
     tile_or_null<Step, 4>(), tile_or_null<Step, 5>(), tile_or_null<Step, 6>(),
     tile_or_null<Step, 7>(), tile_or_null<Step, 8>(), tile_or_null<Step, 9>(),
     tile_or_null<Step, 10>(), tile_or_null<Step, 11>(), tile_or_null<Step, 12>(),
     tile_or_null<Step, 13>(), tile_or_null<Step, 14>(), tile_or_null<Step, 15>(),
     tile_or_null<Step, 16>()}};

MICA_CPU_END

// Ends a quant/<type>.cpp: Format has kBlockElems, kBlockBytes, kBlocks, pack, unpack, decode.
#define MICA_CPU_ROWS16(name, Format, Step, math_bf16)                                     \
  extern const Rows16 rows16_##name;                                                       \
  const Rows16 rows16_##name = {Format::kBlockElems, Format::kBlockBytes, Format::kBlocks, \
                                Step::kRecordBytes,  Format::pack,        Format::unpack,  \
                                Format::decode,      &row_math<Step>,     math_bf16};
