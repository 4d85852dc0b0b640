// The bytes of a KV page on the CPU: 64 cells of one layer's K or V, the same for every instruction
// set. A page is n_kv_heads parts of head_bytes, so that a kv head's cells are one run of bytes.
//
// K, a head: 16 cells lie side by side, so that q.k needs no sum across lanes.
//   F32 F16 BF16  [4][head_dim][16] elements: 4 runs of 16 cells
//   Q8_0          [4][n_blocks] of {f16 d[16]; int8 q[32][16]}: element j of cell c is q[j][c]
//   Q4_0          [4][n_blocks] of {f16 d[16]; uint8 q[16][16]}: byte j of the cell's block
// V, a head: cells are rows.
//   F32 F16 BF16  [64][head_dim rounded up to 16] elements, what is padded is zero
//   Q8_0 Q4_0     {f16 d[n_blocks][64]; uint8 q[64][n_blocks][32 or 16]}
// n_blocks = head_dim / 32, rounded up; a block's bits are those of ops/dtypes.
//
// Seen by kernels and by the backend: everything here is static.
#pragma once
#include "backends/cpu/kernel.h"
#include "ops/dtypes/half.h"

namespace mica::cpu {

// What kv_layout answers. K and V differ: kv_append knows only the state it writes.
constexpr uint32_t kLayoutKPage = kLayoutKvPage;
constexpr uint32_t kLayoutVPage = kLayoutKvPage + 0x100;

constexpr int64_t kPageCells = 64;
constexpr int64_t kRunCells = 16;  // cells side by side in a K page
constexpr int64_t kPageRuns = kPageCells / kRunCells;
constexpr int64_t kQuantElems = 32;  // of a block

struct KvPage {
  mica_dtype dtype;
  bool is_v;
  int64_t head_dim;
  int64_t n_kv_heads;
  int64_t elem_bytes;   // F32 F16 BF16; else 0
  int64_t quant_bytes;  // a block's bytes without its scale; else 0
  int64_t n_blocks;     // quantized types; else 0
  int64_t row_elems;    // of V: elements a cell takes
  int64_t row_bytes;    // of a plain row, padded to whole blocks
  int64_t head_bytes;
  int64_t page_bytes;
};

// False when the type cannot be kept in pages.
static inline bool kv_page(mica_dtype dtype, bool is_v, int64_t head_dim, int64_t n_kv_heads,
                           KvPage* out) {
  KvPage p = {dtype, is_v, head_dim, n_kv_heads, 0, 0, 0, 0, 0, 0, 0};
  switch (dtype) {
    case MICA_F32:
      p.elem_bytes = 4;
      break;
    case MICA_F16:
    case MICA_BF16:
      p.elem_bytes = 2;
      break;
    case MICA_Q8_0:
      p.quant_bytes = 32;
      break;
    case MICA_Q4_0:
      p.quant_bytes = 16;
      break;
    default:
      return false;
  }
  if (p.elem_bytes != 0) {
    p.row_elems = is_v ? (head_dim + 15) / 16 * 16 : head_dim;
    p.row_bytes = head_dim * p.elem_bytes;
    p.head_bytes = kPageCells * p.row_elems * p.elem_bytes;
  } else {
    p.n_blocks = (head_dim + kQuantElems - 1) / kQuantElems;
    p.row_elems = p.n_blocks * kQuantElems;
    p.row_bytes = p.n_blocks * (2 + p.quant_bytes);
    p.head_bytes = kPageCells * p.row_bytes;
  }
  p.page_bytes = p.head_bytes * n_kv_heads;
  *out = p;
  return true;
}

// Where things of one head are, from the head's first byte.
static inline int64_t k_elem_at(const KvPage& p, int64_t cell, int64_t i) {
  return ((cell / 16 * p.head_dim + i) * 16 + cell % 16) * p.elem_bytes;
}
static inline int64_t v_elem_at(const KvPage& p, int64_t cell, int64_t i) {
  return (cell * p.row_elems + i) * p.elem_bytes;
}
// K: the 16 scales of block `block` of a run; its quants follow.
static inline int64_t k_block_at(const KvPage& p, int64_t run, int64_t block) {
  return (run * p.n_blocks + block) * 16 * (2 + p.quant_bytes);
}
static inline int64_t v_scale_at(const KvPage&, int64_t cell, int64_t block) {
  return (block * kPageCells + cell) * 2;
}
static inline int64_t v_quants_at(const KvPage& p, int64_t cell, int64_t block) {
  return p.n_blocks * kPageCells * 2 + (cell * p.n_blocks + block) * p.quant_bytes;
}

// Visits the pieces of a cell's plain row (blocks whole, as ops/dtypes has them) with their places:
// move(place in the head, place in the row, bytes).
template <class Move>
static inline __attribute__((always_inline)) void kv_walk_cell(const KvPage& p, int64_t cell,
                                                               Move move) {
  if (p.elem_bytes != 0) {
    if (p.is_v) {
      move(v_elem_at(p, cell, 0), static_cast<int64_t>(0), p.row_bytes);
      return;
    }
    for (int64_t i = 0; i < p.head_dim; ++i) {
      move(k_elem_at(p, cell, i), i * p.elem_bytes, p.elem_bytes);
    }
    return;
  }
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    const int64_t row = block * (2 + p.quant_bytes);
    if (p.is_v) {
      move(v_scale_at(p, cell, block), row, static_cast<int64_t>(2));
      move(v_quants_at(p, cell, block), row + 2, p.quant_bytes);
      continue;
    }
    const int64_t at = k_block_at(p, cell / 16, block);
    move(at + cell % 16 * 2, row, static_cast<int64_t>(2));
    for (int64_t i = 0; i < p.quant_bytes; ++i) {
      move(at + 32 + i * 16 + cell % 16, row + 2 + i, static_cast<int64_t>(1));
    }
  }
}

// One element of a head, decoded. Slow and plain.
static inline float kv_element(const KvPage& p, const char* head, int64_t cell, int64_t i) {
  if (p.elem_bytes != 0) {
    const char* at = head + (p.is_v ? v_elem_at(p, cell, i) : k_elem_at(p, cell, i));
    uint32_t bits = 0;
    __builtin_memcpy(&bits, at, p.elem_bytes == 4 ? 4 : 2);
    if (p.dtype == MICA_F32) return mica::bits_float(bits);
    const uint16_t half = static_cast<uint16_t>(bits);
    return p.dtype == MICA_F16 ? mica::f16_to_f32(half) : mica::bf16_to_f32(half);
  }
  const int64_t block = i / kQuantElems;
  const int64_t j = i % kQuantElems;
  const int64_t byte = p.dtype == MICA_Q4_0 ? j % 16 : j;
  const int64_t k_at = k_block_at(p, cell / 16, block);
  uint16_t d;
  __builtin_memcpy(&d, head + (p.is_v ? v_scale_at(p, cell, block) : k_at + cell % 16 * 2), 2);
  const char q =
      head[p.is_v ? v_quants_at(p, cell, block) + byte : k_at + 32 + byte * 16 + cell % 16];
  int value = static_cast<int8_t>(q);
  if (p.dtype == MICA_Q4_0) value = ((static_cast<uint8_t>(q) >> (j < 16 ? 0 : 4)) & 15) - 8;
  return mica::f16_to_f32(d) * static_cast<float>(value);
}

}  // namespace mica::cpu
