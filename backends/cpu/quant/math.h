// The drivers of RowMath: a Step multiplies one record of 16 rows by one record of kColumns columns.
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
constexpr int kPanelColumns = 8;   // 8 weight and 8 to 16 sum registers of 32
#else
constexpr int kPanelColumns = 4;
#endif
constexpr int64_t kPrefetchBytes = 1024;  // ahead of the record in use, in every stream

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

template <class Step, int kStreams>
static void streams(const uint8_t* group, int64_t group_bytes, int64_t n_records,
                    const char* panel, float* out) {
  f32x16 acc[kStreams][1];
  MICA_UNROLL
  for (int g = 0; g < kStreams; ++g) acc[g][0] = zero();
  for (int64_t r = 0; r < n_records; ++r) {
    MICA_UNROLL
    for (int g = 0; g < kStreams; ++g) {
      const uint8_t* record = group + g * group_bytes;
      for (uint32_t i = 0; i < Step::kRecordBytes; i += 64) {
        __builtin_prefetch(record + kPrefetchBytes + i);
      }
      Step::template run<1>(record, panel, acc[g]);
    }
    group += Step::kRecordBytes;
    panel += Step::kColumnBytes;
  }
  MICA_UNROLL
  for (int g = 0; g < kStreams; ++g) store(out + 16 * g, acc[g][0]);
}

template <class Step>
static void stream(const uint8_t* group, int64_t group_bytes, int64_t n, int64_t n_records,
                   const char* panel, float* out) {
  int64_t i = 0;
  if (n == 4) {
    streams<Step, 4>(group, group_bytes, n_records, panel, out);
    return;
  }
  for (; i + 2 <= n; i += 2) {
    streams<Step, 2>(group + i * group_bytes, group_bytes, n_records, panel, out + 16 * i);
  }
  if (i < n) streams<Step, 1>(group + i * group_bytes, group_bytes, n_records, panel, out + 16 * i);
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
     tile_or_null<Step, 16>()},
    stream<Step>};

MICA_CPU_END

// Ends a quant/<type>.cpp: Format has kBlockElems, kBlockBytes, kBlocks, pack, unpack, decode.
#define MICA_CPU_ROWS16(name, Format, Step, math_bf16)                                          \
  extern const Rows16 rows16_##name;                                                            \
  const Rows16 rows16_##name = {Format::kBlockElems, Format::kBlockBytes, Format::kBlocks,      \
                                Step::kRecordBytes,  Format::pack,        Format::unpack,       \
                                Format::decode,      &row_math<Step>,     math_bf16};
