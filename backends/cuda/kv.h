// KV pages of the CUDA backend: the bytes of a page, and the backend table's functions for them.
//
// A page is 64 cells of one layer's K or V: n_kv_heads parts of head_bytes, so that a kv head's
// cells are one run of bytes. K and V alike:
//   F32 F16 BF16  [64][row_elems] elements, row_elems = head_dim rounded up to 16, padding is zero
//   quantized     quants  [64][n_blocks][32 or 16] bytes, as in the block
//                 fifth   u32 [64][n_blocks]      (Q5_0, Q5_1): the fifth bits
//                 d       f16 [n_blocks][64]
//                 m       f16 [n_blocks][64]      (Q4_1, Q5_1)
// n_blocks = head_dim / 32, rounded up. All planes start at multiples of 128 bytes.
#pragma once
#include <stdint.h>

#include <cstring>

#include "backends/cuda/encode.cuh"
#include "mica/backend.h"

#ifdef __CUDACC__
#define MICA_KV_FN __host__ __device__ inline
#else
#define MICA_KV_FN inline
#endif

namespace mica::cuda {

constexpr uint32_t kLayoutKvPage = 0x4b56;  // what kv_layout answers
constexpr int32_t kPageCells = 64;

struct KvPage {
  mica_dtype dtype;
  uint32_t head_dim, n_kv_heads;
  uint32_t elem_bytes;            // of F32 F16 BF16; else 0
  uint32_t quant_bytes;           // of a block's quants without the fifth bits; else 0
  uint32_t n_blocks;              // of a row; else 0
  uint32_t row_elems;             // stored of a row
  uint32_t plain_bytes;           // of a plain row, whole blocks
  uint32_t fifth_at, d_at, m_at;  // planes, from the head's first byte; 0: has none
  uint32_t head_bytes;
  uint64_t page_bytes;
};

// False when pages cannot hold the type.
MICA_KV_FN bool kv_page(mica_dtype dtype, uint32_t head_dim, uint32_t n_kv_heads, KvPage& out) {
  KvPage p = {};
  p.dtype = dtype;
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
      p.quant_bytes = 32;
      break;
    case MICA_Q4_0:
    case MICA_Q4_1:
    case MICA_Q5_0:
    case MICA_Q5_1:
      p.quant_bytes = 16;
      break;
    default:
      return false;
  }
  if (p.elem_bytes != 0) {
    p.row_elems = (head_dim + 15) / 16 * 16;
    p.plain_bytes = head_dim * p.elem_bytes;
    p.head_bytes = kPageCells * p.row_elems * p.elem_bytes;
  } else {
    const bool has_fifth = dtype == MICA_Q5_0 || dtype == MICA_Q5_1;
    const bool has_min = dtype == MICA_Q4_1 || dtype == MICA_Q5_1;
    p.n_blocks = (head_dim + 31) / 32;
    p.row_elems = p.n_blocks * 32;
    p.plain_bytes = p.n_blocks * (p.quant_bytes + 2 + (has_min ? 2 : 0) + (has_fifth ? 4 : 0));
    uint32_t at = kPageCells * p.n_blocks * p.quant_bytes;
    if (has_fifth) p.fifth_at = at, at += kPageCells * p.n_blocks * 4;
    p.d_at = at;
    at += kPageCells * p.n_blocks * 2;
    if (has_min) p.m_at = at, at += kPageCells * p.n_blocks * 2;
    p.head_bytes = at;
  }
  p.page_bytes = uint64_t{p.head_bytes} * n_kv_heads;
  out = p;
  return true;
}

// Where the parts of a block are, from the head's first byte.
MICA_KV_FN uint32_t kv_elem_at(const KvPage& p, uint32_t cell, uint32_t i) {
  return (cell * p.row_elems + i) * p.elem_bytes;
}
MICA_KV_FN uint32_t kv_quants_at(const KvPage& p, uint32_t cell, uint32_t block) {
  return (cell * p.n_blocks + block) * p.quant_bytes;
}
MICA_KV_FN uint32_t kv_fifth_at(const KvPage& p, uint32_t cell, uint32_t block) {
  return p.fifth_at + (cell * p.n_blocks + block) * 4;
}
MICA_KV_FN uint32_t kv_d_at(const KvPage& p, uint32_t cell, uint32_t block) {
  return p.d_at + (block * kPageCells + cell) * 2;
}
MICA_KV_FN uint32_t kv_m_at(const KvPage& p, uint32_t cell, uint32_t block) {
  return p.m_at + (block * kPageCells + cell) * 2;
}

// The parts of a block's bytes, in a GGUF block's order: visit(place in the head, place in the
// block, bytes).
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Visit>
MICA_KV_FN void kv_visit_block(const KvPage& p, uint32_t cell, uint32_t block, Visit visit) {
  uint32_t at = 0;
  visit(kv_d_at(p, cell, block), at, 2u);
  at += 2;
  if (p.m_at != 0) visit(kv_m_at(p, cell, block), at, 2u), at += 2;
  if (p.fifth_at != 0) visit(kv_fifth_at(p, cell, block), at, 4u), at += 4;
  visit(kv_quants_at(p, cell, block), at, p.quant_bytes);
}

// Between a page and 64 cells of n_kv_heads plain rows each, on the host: move(place in the page,
// place in the rows, bytes) for every piece. What is between the pieces is padding.
template <class Move>
inline void kv_visit_page(const KvPage& p, Move move) {
  for (uint32_t cell = 0; cell < kPageCells; ++cell)
    for (uint32_t head = 0; head < p.n_kv_heads; ++head) {
      const uint64_t from = uint64_t{head} * p.head_bytes;
      const uint64_t row = (uint64_t{cell} * p.n_kv_heads + head) * p.plain_bytes;
      if (p.elem_bytes != 0) {
        move(from + kv_elem_at(p, cell, 0), row, uint64_t{p.plain_bytes});
        continue;
      }
      const uint32_t block_bytes = p.plain_bytes / p.n_blocks;
      for (uint32_t block = 0; block < p.n_blocks; ++block)
        kv_visit_block(p, cell, block, [&](uint32_t at, uint32_t in_block, uint32_t bytes) {
          move(from + at, row + uint64_t{block} * block_bytes + in_block, uint64_t{bytes});
        });
    }
}
inline void kv_rows_to_page(const KvPage& p, const void* rows, void* page) {
  std::memset(page, 0, p.page_bytes);
  kv_visit_page(p, [&](uint64_t at, uint64_t in_rows, uint64_t bytes) {
    std::memcpy(static_cast<char*>(page) + at, static_cast<const char*>(rows) + in_rows, bytes);
  });
}
inline void kv_page_to_rows(const KvPage& p, const void* page, void* rows) {
  kv_visit_page(p, [&](uint64_t at, uint64_t in_rows, uint64_t bytes) {
    std::memcpy(static_cast<char*>(rows) + in_rows, static_cast<const char*>(page) + at, bytes);
  });
}

// One element of a head, decoded. Slow and plain.
MICA_KV_FN float kv_element(const KvPage& p, const char* head, uint32_t cell, uint32_t i) {
  if (p.elem_bytes != 0) return load_float(p.dtype, head + kv_elem_at(p, cell, i));
  const uint32_t block = i / 32;
  const uint32_t byte = p.quant_bytes == 16 ? i % 16 : i % 32;
  const auto half_at = [&](uint32_t at) {
    return f16_to_f32(*reinterpret_cast<const uint16_t*>(head + at));
  };
  const float d = half_at(kv_d_at(p, cell, block));
  const float m = p.m_at != 0 ? half_at(kv_m_at(p, cell, block)) : 0.0f;
  uint32_t fifth = 0;
  if (p.fifth_at != 0)
    fifth = *reinterpret_cast<const uint32_t*>(head + kv_fifth_at(p, cell, block)) >> (i % 32) & 1u;
  const uint8_t q = static_cast<uint8_t>(head[kv_quants_at(p, cell, block) + byte]);
  return decode_quant(p.dtype, d, m, q, fifth, static_cast<int>(i % 32));
}

// The backend table's.
mica_status kv_layout(mica_b_device* device, const mica_b_kv_desc* desc, uint32_t* out_layout,
                      uint64_t* out_page_bytes);
mica_status kv_pack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                    uint64_t offset, const void* rows);
mica_status kv_unpack(mica_b_device* device, const mica_b_kv_desc* desc, mica_b_buffer* buffer,
                      uint64_t offset, void* rows);

}  // namespace mica::cuda
