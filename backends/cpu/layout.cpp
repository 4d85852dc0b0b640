// Packing rows into groups of 16 and back; what a record holds is the types' business (quant/).
#include "backends/cpu/layout.h"

#include <cstring>

#include "core/base/checked.h"

#ifndef MICA_ISA
#define MICA_ISA plain  // the bytes are the same for all
#endif
#include "backends/cpu/quant/rows16.h"

namespace mica::cpu {
namespace {

constexpr int64_t kMaxBlockBytes = 256;

struct Shape {
  const Rows16* type;
  int64_t n_elems;  // of a row
  int64_t n_rows;
  int64_t row_bytes;  // plain
};

// False when sizes do not fit; the core has validated the plain tensor.
bool shape_of(const mica_b_value& w, Shape& s) {
  s.type = plain::find_rows16(w.dtype);
  if (s.type == nullptr) return false;
  s.n_elems = w.dim[0];
  s.n_rows = 1;
  for (uint32_t i = 1; i < w.rank; ++i) {
    if (!checked_mul(s.n_rows, w.dim[i], s.n_rows)) return false;
  }
  const int64_t elem_bytes = s.type->block_bytes / s.type->block_elems;
  return s.type->blocks == 0 || s.type->block_elems > 4
             ? checked_mul(s.n_elems / s.type->block_elems,
                           static_cast<int64_t>(s.type->block_bytes), s.row_bytes)
             : checked_mul(s.n_elems, elem_bytes, s.row_bytes);
}

bool is_rows16(const mica_b_value& w, const Shape& s) { return w.rank >= 2 && s.type->blocks != 0; }

// The i-th block of a row, or of a row's incomplete last block a copy padded with zeros.
const uint8_t* block_of(const Shape& s, const uint8_t* row, int64_t i, uint8_t* padded) {
  const int64_t first = i * s.type->block_bytes;
  const int64_t left = s.row_bytes - first;
  if (left >= s.type->block_bytes) return row + first;
  std::memset(padded, 0, kMaxBlockBytes);
  if (left > 0) std::memcpy(padded, row + first, static_cast<size_t>(left));
  return padded;
}

void pack_group(const Shape& s, const uint8_t* rows, int64_t n_rows, uint8_t* group) {
  static constexpr uint8_t kZeros[kMaxBlockBytes] = {};
  uint8_t padded[kGroupRows][kMaxBlockBytes];
  const uint8_t* block[kGroupRows];
  const int64_t n_records = s.type->records(s.n_elems);
  for (int64_t record = 0; record < n_records; ++record) {
    for (uint32_t i = 0; i < s.type->blocks; ++i) {
      for (int64_t r = 0; r < kGroupRows; ++r) {
        block[r] = r < n_rows
                       ? block_of(s, rows + r * s.row_bytes, record * s.type->blocks + i, padded[r])
                       : kZeros;
      }
      s.type->pack(block, i, group + record * s.type->record_bytes);
    }
  }
}

void unpack_row(const Shape& s, const uint8_t* group, uint32_t lane, uint8_t* row) {
  uint8_t block[kMaxBlockBytes];
  const int64_t block_bytes = s.type->block_bytes;
  const uint32_t blocks = s.type->blocks;
  int64_t i = 0;
  for (int64_t done = 0; done < s.row_bytes; done += block_bytes, ++i) {
    const uint8_t* record = group + i / blocks * s.type->record_bytes;
    s.type->unpack(record, static_cast<uint32_t>(i % blocks), lane, block);
    const int64_t left = s.row_bytes - done;
    std::memcpy(row + done, block, static_cast<size_t>(left < block_bytes ? left : block_bytes));
  }
}

}  // namespace

uint32_t weight_layout(const mica_b_value& weight, uint64_t* out_bytes,
                       uint32_t* out_granule_rows) {
  *out_granule_rows = 1;
  *out_bytes = UINT64_MAX;
  Shape s;
  if (!shape_of(weight, s)) return kLayoutPlain;
  int64_t bytes = 0;
  if (!is_rows16(weight, s)) {
    if (checked_mul(s.row_bytes, s.n_rows, bytes)) *out_bytes = static_cast<uint64_t>(bytes);
    return kLayoutPlain;
  }
  *out_granule_rows = kGroupRows;
  const int64_t n_groups = s.n_rows / kGroupRows + (s.n_rows % kGroupRows != 0 ? 1 : 0);
  if (s.n_elems <= INT64_MAX / 256 && s.type->records(s.n_elems) <= INT64_MAX / 8192 &&
      checked_mul(s.type->group_bytes(s.n_elems), n_groups, bytes)) {
    *out_bytes = static_cast<uint64_t>(bytes);
  }
  return kLayoutRows16;
}

void weight_pack(const mica_b_value& weight, char* data, const void* rows, uint64_t first,
                 uint64_t n) {
  Shape s;
  if (!shape_of(weight, s)) return;
  const uint8_t* in = static_cast<const uint8_t*>(rows);
  uint8_t* out = reinterpret_cast<uint8_t*>(data);
  const int64_t begin = static_cast<int64_t>(first);
  const int64_t count = static_cast<int64_t>(n);
  if (!is_rows16(weight, s)) {
    std::memcpy(out + begin * s.row_bytes, in, static_cast<size_t>(count * s.row_bytes));
    return;
  }
  const int64_t group_bytes = s.type->group_bytes(s.n_elems);
  for (int64_t i = 0; i < count; i += kGroupRows) {
    const int64_t n_rows = count - i < kGroupRows ? count - i : kGroupRows;
    pack_group(s, in + i * s.row_bytes, n_rows, out + (begin + i) / kGroupRows * group_bytes);
  }
}

void weight_unpack(const mica_b_value& weight, const char* data, void* rows, uint64_t first,
                   uint64_t n) {
  Shape s;
  if (!shape_of(weight, s)) return;
  const uint8_t* in = reinterpret_cast<const uint8_t*>(data);
  uint8_t* out = static_cast<uint8_t*>(rows);
  const int64_t begin = static_cast<int64_t>(first);
  const int64_t count = static_cast<int64_t>(n);
  if (!is_rows16(weight, s)) {
    std::memcpy(out, in + begin * s.row_bytes, static_cast<size_t>(count * s.row_bytes));
    return;
  }
  const int64_t group_bytes = s.type->group_bytes(s.n_elems);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = begin + i;
    unpack_row(s, in + row / kGroupRows * group_bytes, static_cast<uint32_t>(row % kGroupRows),
               out + i * s.row_bytes);
  }
}

}  // namespace mica::cpu
