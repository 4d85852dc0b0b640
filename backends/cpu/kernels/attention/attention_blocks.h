// Quantized K and V of a page to F32. Included by attention_tile.h only.
#pragma once
#include "backends/cpu/kernels/attention/kv_page.h"
#include "backends/cpu/simd/simd.h"

MICA_CPU_BEGIN

// A block of 16 cells of K, [32][16]. `q`: its bytes behind the F16 numbers.
template <bool kFifths>
static void decode_k_nibbles(const uint8_t* q, f32x16 d, f32x16 m, float* y) {
  const uint8_t* nibbles = q + (kFifths ? 4 * 16 : 0);
  i32x16 fifth0 = set1_i32(0), fifth1 = fifth0;  // bit 4: of elements j and j + 16
  for (int64_t j = 0; j < 16; ++j) {
    if (kFifths && j % 8 == 0) {
      fifth0 = shl<4>(load_u8(q + j / 8 * 16));
      fifth1 = shl<4>(load_u8(q + (2 + j / 8) * 16));
    }
    const i32x16 both = load_u8(nibbles + j * 16);
    i32x16 q0 = both & set1_i32(15), q1 = shr<4>(both);
    if (kFifths) {
      q0 = q0 | (fifth0 & set1_i32(16));
      q1 = q1 | (fifth1 & set1_i32(16));
      fifth0 = shr<1>(fifth0);
      fifth1 = shr<1>(fifth1);
    }
    store(y + j * 16, fma(to_f32(q0), d, m));
    store(y + (j + 16) * 16, fma(to_f32(q1), d, m));
  }
}

// What a block's quants times d are added to: its m, or what makes `centre` zero. The latter is
// exact, and so is q * d + m then: a quant has 5 bits, d has 11.
static inline f32x16 offset_of(const KvPage& p, f32x16 d, const uint16_t* m) {
  return p.n_halves == 2 ? load_f16(m) : d * set1(static_cast<float>(-p.centre));
}

// Runs of quantized K to F32 [run][row_elems][16].
static void decode_k(const KvPage& p, const char* head, int64_t run0, int64_t run1, float* to) {
  for (int64_t run = run0; run < run1; ++run) {
    for (int64_t block = 0; block < p.n_blocks; ++block) {
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(head + k_block_at(p, run, block));
      const char* at = head + k_quants_at(p, run, block);
      const f32x16 d = load_f16(halves);
      const f32x16 m = offset_of(p, d, halves + 16);
      float* y = to + (run * p.row_elems + block * kQuantElems) * 16;
      const uint8_t* q = reinterpret_cast<const uint8_t*>(at);
      if (p.dtype == MICA_Q8_0) {
        const int8_t* bytes = reinterpret_cast<const int8_t*>(at);
        for (int64_t j = 0; j < 32; ++j) store(y + j * 16, to_f32(load_i8(bytes + j * 16)) * d);
      } else if (p.quant_bytes == 16) {
        decode_k_nibbles<false>(q, d, m, y);
      } else {
        decode_k_nibbles<true>(q, d, m, y);
      }
    }
  }
}

// Bit i to bit 4 of lane i.
static inline i32x16 fifth_lanes(uint32_t word) {
  constexpr int32_t kBits[16] = {1,   2,   4,    8,    16,   32,   64,    128,
                                 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  const i32x16 bits = set1_i32(static_cast<int32_t>(word)) & load_i32(kBits);
  return select(eq(bits, set1_i32(0)), set1_i32(0), set1_i32(16));
}

// A block of a cell of V: 16 elements, and 16 more if `whole`.
template <bool kFifths>
static inline void decode_v_nibbles(const uint8_t* q, f32x16 d, f32x16 m, bool whole, float* y) {
  uint32_t fifths = 0;
  if (kFifths) __builtin_memcpy(&fifths, q, 4);
  const i32x16 both = load_u8(q + (kFifths ? 4 : 0));
  i32x16 q0 = both & set1_i32(15), q1 = shr<4>(both);
  if (kFifths) {
    q0 = q0 | fifth_lanes(fifths);
    q1 = q1 | fifth_lanes(fifths >> 16);
  }
  store(y, fma(to_f32(q0), d, m));
  if (whole) store(y + 16, fma(to_f32(q1), d, m));
}

// Cells of quantized V to F32 [cell][dim_v_pad].
static void decode_v(const KvPage& p, const char* head, int64_t cell0, int64_t cell1,
                     int64_t dim_v_pad, float* to) {
  for (int64_t block = 0; block < p.n_blocks; ++block) {
    float d[kPageCells];
    float m[kPageCells];
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(head + v_half_at(p, 0, block, 0));
    const uint16_t* offsets = reinterpret_cast<const uint16_t*>(head + v_half_at(p, 0, block, 1));
    for (int64_t i = 0; i < kPageCells; i += 16) {
      const f32x16 scale = load_f16(halves + i);
      store(d + i, scale);
      store(m + i, offset_of(p, scale, offsets + i));
    }
    // dim_v_pad may end in the middle of a block.
    const bool whole = (block + 1) * kQuantElems <= dim_v_pad;
    for (int64_t cell = cell0; cell < cell1; ++cell) {
      const char* at = head + v_quants_at(p, cell, block);
      float* y = to + cell * dim_v_pad + block * kQuantElems;
      const f32x16 scale = set1(d[cell]);
      const uint8_t* q = reinterpret_cast<const uint8_t*>(at);
      if (p.dtype == MICA_Q8_0) {
        const int8_t* bytes = reinterpret_cast<const int8_t*>(at);
        store(y, to_f32(load_i8(bytes)) * scale);
        if (whole) store(y + 16, to_f32(load_i8(bytes + 16)) * scale);
      } else if (p.quant_bytes == 16) {
        decode_v_nibbles<false>(q, scale, set1(m[cell]), whole, y);
      } else {
        decode_v_nibbles<true>(q, scale, set1(m[cell]), whole, y);
      }
    }
  }
}

MICA_CPU_END
