// The bytes of a KV page on the CPU: 64 cells of one layer's K or V, the same for every instruction
// set. A page is n_kv_heads parts of head_bytes, so that a kv head's cells are one run of bytes.
//
// K, a head: 16 cells lie side by side, so that q.k needs no sum across lanes.
//   F32 F16 BF16  [4][head_dim][16] elements: 4 runs of 16 cells
//   blocks of 32  [4][n_blocks] of {f16 d[n_halves][16]; uint8 q[quant_bytes][16]}
// V, a head: cells are rows.
//   F32 F16 BF16  [64][head_dim rounded up to 16] elements, what is padded is zero
//   blocks of 32  {f16 d[n_halves][n_blocks][64]; uint8 q[64][n_blocks][quant_bytes]}
// n_blocks = head_dim / 32, rounded up; a block's bits are those of ops/dtypes: n_halves F16
// numbers (d, of Q4_1 and Q5_1 also m), then quant_bytes bytes.
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
  int64_t elem_bytes;  // F32 F16 BF16; else 0
  // Of quantized types; else 0:
  int64_t n_halves;     // F16 numbers of a block
  int64_t quant_bytes;  // its bytes behind them: of 5-bit types 4 bytes of fifth bits, then quants
  int64_t block_bytes;  // both
  int32_t centre;       // the quant whose value is 0, or m
  int64_t n_blocks;
  int64_t row_elems;  // of V: elements a cell takes
  int64_t row_bytes;  // of a plain row, padded to whole blocks
  int64_t head_bytes;
  int64_t page_bytes;
};

constexpr const char* kPageTypes =
    "K and V pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";

static inline void set_block(KvPage* p, int64_t n_halves, int64_t quant_bytes, int32_t centre) {
  p->n_halves = n_halves;
  p->quant_bytes = quant_bytes;
  p->block_bytes = 2 * n_halves + quant_bytes;
  p->centre = centre;
}

// False when the type cannot be kept in pages.
static inline bool kv_page(mica_dtype dtype, bool is_v, int64_t head_dim, int64_t n_kv_heads,
                           KvPage* out) {
  KvPage p = {};
  p.dtype = dtype;
  p.is_v = is_v;
  p.head_dim = head_dim;
  p.n_kv_heads = n_kv_heads;
  switch (dtype) {
    case MICA_F32:
      p.elem_bytes = 4;
      break;
    case MICA_F16:
    case MICA_BF16:
      p.elem_bytes = 2;
      break;
    case MICA_Q8_0:
      set_block(&p, 1, 32, 0);
      break;
    case MICA_Q4_0:
      set_block(&p, 1, 16, 8);
      break;
    case MICA_Q4_1:
      set_block(&p, 2, 16, 0);
      break;
    case MICA_Q5_0:
      set_block(&p, 1, 20, 16);
      break;
    case MICA_Q5_1:
      set_block(&p, 2, 20, 0);
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
    p.row_bytes = p.n_blocks * p.block_bytes;
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
// K: the 16 scales of block `block` of a run; their m, if any, and the quants follow.
static inline int64_t k_block_at(const KvPage& p, int64_t run, int64_t block) {
  return (run * p.n_blocks + block) * 16 * p.block_bytes;
}
static inline int64_t k_quants_at(const KvPage& p, int64_t run, int64_t block) {
  return k_block_at(p, run, block) + p.n_halves * 32;
}
static inline int64_t v_half_at(const KvPage& p, int64_t cell, int64_t block, int64_t half) {
  return ((half * p.n_blocks + block) * kPageCells + cell) * 2;
}
static inline int64_t v_quants_at(const KvPage& p, int64_t cell, int64_t block) {
  return p.n_halves * p.n_blocks * kPageCells * 2 + (cell * p.n_blocks + block) * p.quant_bytes;
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
    const int64_t row = block * p.block_bytes;
    const int64_t quants = row + 2 * p.n_halves;
    const int64_t k_at = k_block_at(p, cell / 16, block) + cell % 16 * 2;
    for (int64_t i = 0; i < p.n_halves; ++i) {
      move(p.is_v ? v_half_at(p, cell, block, i) : k_at + i * 32, row + i * 2,
           static_cast<int64_t>(2));
    }
    if (p.is_v) {
      move(v_quants_at(p, cell, block), quants, p.quant_bytes);
      continue;
    }
    const int64_t at = k_quants_at(p, cell / 16, block) + cell % 16;
    for (int64_t i = 0; i < p.quant_bytes; ++i) {
      move(at + i * 16, quants + i, static_cast<int64_t>(1));
    }
  }
}

// Element j of a block: byte(i) is the i-th behind its F16 numbers.
template <class Byte>
static inline float kv_block_element(const KvPage& p, uint16_t d, uint16_t m, int64_t j,
                                     Byte byte) {
  int value = 0;
  if (p.dtype == MICA_Q8_0) {
    value = static_cast<int8_t>(byte(j));
  } else {
    const int64_t n_fifths = p.quant_bytes - 16;
    value = byte(n_fifths + j % 16) >> (j < 16 ? 0 : 4) & 15;
    if (n_fifths != 0) value |= (byte(j / 8) >> j % 8 & 1) << 4;
  }
  const float x = mica::f16_to_f32(d) * static_cast<float>(value - p.centre);
  return p.n_halves == 2 ? x + mica::f16_to_f32(m) : x;
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
  const int64_t lane = cell % 16;
  const auto half = [&](int64_t n) {
    uint16_t h;
    const int64_t k_at = k_block_at(p, cell / 16, block) + n * 32 + lane * 2;
    __builtin_memcpy(&h, head + (p.is_v ? v_half_at(p, cell, block, n) : k_at), 2);
    return h;
  };
  const auto byte = [&](int64_t n) {
    const int64_t k_at = k_quants_at(p, cell / 16, block) + n * 16 + lane;
    return static_cast<uint8_t>(head[p.is_v ? v_quants_at(p, cell, block) + n : k_at]);
  };
  const uint16_t m = p.n_halves == 2 ? half(1) : static_cast<uint16_t>(0);
  return kv_block_element(p, half(0), m, i % kQuantElems, byte);
}

}  // namespace mica::cpu
