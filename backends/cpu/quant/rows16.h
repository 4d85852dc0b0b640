// kLayoutRows16: 16 rows of a weight side by side, so that a lane of a vector is a row and no sum
// crosses lanes. Rows (counted over dims 1…3) form groups of 16, the last padded with zero rows; a
// group is a run of records, each holding the next few elements of all 16 rows. Quants are unsigned
// bytes or parts of bytes, 4 consecutive elements of a row in 32 bits: what one vpdpbusd takes.
// Every quant/<type>.cpp describes its record and brings the arithmetic on it.
#pragma once
#include "backends/cpu/kernel.h"

namespace mica::cpu {

constexpr int64_t kGroupRows = 16;
constexpr int64_t kMaxPanel = 16;  // columns of the widest panel of any instruction set

// Matrix times rounded activations. Activations lie in panels: up to panel_columns columns side by
// side, record by record, so that a tile reads them as one stream. A panel of `width` columns takes
// width * column_bytes * n_records bytes, whatever the width.
struct RowMath {
  uint32_t numerics;       // mica_numerics
  uint32_t panel_columns;  // at most kMaxPanel
  uint32_t column_bytes;   // of one column in one record
  // Rounds n elements (F32, F16, BF16) to column i of a panel; elements beyond n are zeros.
  void (*prepare)(mica_dtype dtype, const char* x, int64_t n, int64_t n_records, int64_t width,
                  int64_t i, char* panel);
  // out[width][16]: a group times a panel. tile[width - 1].
  void (*tile[kMaxPanel])(const uint8_t* group, int64_t n_records, const char* panel, float* out);
};

struct Rows16 {
  uint32_t block_elems;  // of a plain row
  uint32_t block_bytes;
  uint32_t blocks;  // blocks of one row in a record; 0: the type has no such layout
  uint32_t record_bytes;
  // The i-th block of 16 rows into a record, and one of them back.
  void (*pack)(const uint8_t* const* block, uint32_t i, uint8_t* record);
  void (*unpack)(const uint8_t* record, uint32_t i, uint32_t row, uint8_t* block);
  void (*decode)(const uint8_t* block, float* dst);  // a plain block to F32
  const RowMath* math;
  const RowMath* math_bf16;  // on CPUs that have avx512_bf16; nullptr: the same

  int64_t records(int64_t n_elems) const {
    const int64_t elems = static_cast<int64_t>(block_elems) * blocks;
    return (n_elems + elems - 1) / elems;
  }
  int64_t group_bytes(int64_t n_elems) const { return records(n_elems) * record_bytes; }
};

namespace MICA_ISA {

#define MICA_DTYPE(NAME, name, id, block_elems, block_bytes) extern const Rows16 rows16_##name;
#include "mica/dtype.def"
#undef MICA_DTYPE

// nullptr when there is no such type. The result's `blocks` is 0 when the type is never packed.
const Rows16* find_rows16(mica_dtype dtype);

// One row (counted over dims 1…3) of a weight in kLayoutRows16, bit-equal to the type's codec.
void decode_row16(const Tensor& w, int64_t row, float* dst);
// n elements from plain blocks (a row's whole blocks; of F32, F16, BF16 any n).
void decode_plain(mica_dtype dtype, const void* src, int64_t n, float* dst);

}  // namespace MICA_ISA
}  // namespace mica::cpu
