// The quantized types: how a block of 32 elements is held in a packed weight (quant/packed.h), what
// its values are, and how it gets there from a GGUF block and back. For host and device.
//
// A type gives
//   kBlock     elements of a GGUF block; kBytes its bytes
//   kParts    sizes of its parts
//   kZero      what is subtracted from a quant
//   kMin       has minimums; kHalves: has a scale for each 16
//   quant, put_quant, scale_bits, put_scale, super_bits, put_super: fields of a GGUF block; the
//              put_ functions only set bits
//   low(p, w)  the quants 4w…4w+3 as bytes, high(p, w) the quants 16+4w…
//   step(p, i) the scale of half i; shift(p) what is added to step * (q - kZero)
#pragma once
#include "backends/cuda/quant/packed.h"
#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace mica::cuda {

// A block of 32, as in a packed weight.
template <class T>
struct Piece {
  uint32_t q[4 * T::kParts.units];
  uint32_t h[2];
  uint32_t s, d;
};

MICA_HD float half_value(uint32_t low16) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(static_cast<unsigned short>(low16)));
#else
  return f16_to_f32(static_cast<uint16_t>(low16));
#endif
}
MICA_HD float half_value_high(uint32_t bits) { return half_value(bits >> 16); }
MICA_HD uint32_t rotate_right(uint32_t x, int by) {
#ifdef __CUDA_ARCH__
  return __funnelshift_r(x, x, by);
#else
  const uint32_t n = static_cast<uint32_t>(by) & 31u;
  return n == 0 ? x : x >> n | x << (32 - n);
#endif
}
MICA_HD void or16(uint8_t* p, uint32_t v) {
  p[0] = static_cast<uint8_t>(p[0] | (v & 255));
  p[1] = static_cast<uint8_t>(p[1] | (v >> 8 & 255));
}
MICA_HD void or8(uint8_t& p, uint32_t v) { p = static_cast<uint8_t>(p | v); }

// --- Blocks of 32 -------------------------------------------------------------------------------

// Four bits in 16 bytes at kQuants: low nibbles are elements 0…15, high nibbles 16…31.
template <int kQuants>
struct Nibbles {
  static MICA_HD uint32_t nibble(const uint8_t* b, int e) {
    return b[kQuants + e % 16] >> (e / 16 * 4) & 15;
  }
  static MICA_HD void put_nibble(uint8_t* b, int e, uint32_t q) {
    or8(b[kQuants + e % 16], (q & 15) << (e / 16 * 4));
  }
};
struct NoSuper {
  static MICA_HD uint32_t super_bits(const uint8_t*) { return 0; }
  static MICA_HD void put_super(uint8_t*, uint32_t) {}
};
// What types of four bits share.
struct LowNibbles {
  template <class P>
  static MICA_HD uint32_t low(const P& p, int w) {
    return p.q[w] & 0x0f0f0f0fu;
  }
  template <class P>
  static MICA_HD uint32_t high(const P& p, int w) {
    return p.q[w] >> 4 & 0x0f0f0f0fu;
  }
};
// Of five bits: `h` has element 4w + j at bit 8j + w, element 16 + 4w + j at bit 8j + 4 + w.
struct FiveBits {
  template <class P>
  static MICA_HD uint32_t low(const P& p, int w) {
    return (p.q[w] & 0x0f0f0f0fu) | (rotate_right(p.h[0], w - 4) & 0x10101010u);
  }
  template <class P>
  static MICA_HD uint32_t high(const P& p, int w) {
    return (p.q[w] >> 4 & 0x0f0f0f0fu) | (rotate_right(p.h[0], w) & 0x10101010u);
  }
};

struct Q4_0 : Nibbles<2>, NoSuper, LowNibbles {
  static constexpr mica_dtype kType = MICA_Q4_0;
  static constexpr int kBlock = 32, kBytes = 18, kZero = 8;
  static constexpr bool kMin = false, kHalves = false;
  static constexpr PartSizes kParts = {1, 0, 2, 0};
  static MICA_HD uint32_t quant(const uint8_t* b, int, int e) { return nibble(b, e); }
  static MICA_HD void put_quant(uint8_t* b, int, int e, uint32_t q) { put_nibble(b, e, q); }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int) { return load16(b); }
  static MICA_HD void put_scale(uint8_t* b, int, uint32_t s) { or16(b, s); }
  static MICA_HD float step(const Piece<Q4_0>& p, int) { return half_value(p.s); }
  static MICA_HD float shift(const Piece<Q4_0>&) { return 0; }
};

struct Q4_1 : Nibbles<4>, NoSuper, LowNibbles {
  static constexpr mica_dtype kType = MICA_Q4_1;
  static constexpr int kBlock = 32, kBytes = 20, kZero = 0;
  static constexpr bool kMin = true, kHalves = false;
  static constexpr PartSizes kParts = {1, 0, 4, 0};
  static MICA_HD uint32_t quant(const uint8_t* b, int, int e) { return nibble(b, e); }
  static MICA_HD void put_quant(uint8_t* b, int, int e, uint32_t q) { put_nibble(b, e, q); }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int) {
    return load16(b) | static_cast<uint32_t>(load16(b + 2)) << 16;
  }
  static MICA_HD void put_scale(uint8_t* b, int, uint32_t s) { or16(b, s), or16(b + 2, s >> 16); }
  static MICA_HD float step(const Piece<Q4_1>& p, int) { return half_value(p.s); }
  static MICA_HD float shift(const Piece<Q4_1>& p) { return half_value_high(p.s); }
};

struct Q5_0 : Nibbles<6>, NoSuper, FiveBits {
  static constexpr mica_dtype kType = MICA_Q5_0;
  static constexpr int kBlock = 32, kBytes = 22, kZero = 16;
  static constexpr bool kMin = false, kHalves = false;
  static constexpr PartSizes kParts = {1, 4, 2, 0};
  static MICA_HD uint32_t quant(const uint8_t* b, int, int e) {
    return nibble(b, e) | (b[2 + e / 8] >> (e % 8) & 1) << 4;
  }
  static MICA_HD void put_quant(uint8_t* b, int, int e, uint32_t q) {
    put_nibble(b, e, q), or8(b[2 + e / 8], (q >> 4) << (e % 8));
  }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int) { return load16(b); }
  static MICA_HD void put_scale(uint8_t* b, int, uint32_t s) { or16(b, s); }
  static MICA_HD float step(const Piece<Q5_0>& p, int) { return half_value(p.s); }
  static MICA_HD float shift(const Piece<Q5_0>&) { return 0; }
};

struct Q5_1 : Nibbles<8>, NoSuper, FiveBits {
  static constexpr mica_dtype kType = MICA_Q5_1;
  static constexpr int kBlock = 32, kBytes = 24, kZero = 0;
  static constexpr bool kMin = true, kHalves = false;
  static constexpr PartSizes kParts = {1, 4, 4, 0};
  static MICA_HD uint32_t quant(const uint8_t* b, int, int e) {
    return nibble(b, e) | (b[4 + e / 8] >> (e % 8) & 1) << 4;
  }
  static MICA_HD void put_quant(uint8_t* b, int, int e, uint32_t q) {
    put_nibble(b, e, q), or8(b[4 + e / 8], (q >> 4) << (e % 8));
  }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int) { return Q4_1::scale_bits(b, 0); }
  static MICA_HD void put_scale(uint8_t* b, int, uint32_t s) { Q4_1::put_scale(b, 0, s); }
  static MICA_HD float step(const Piece<Q5_1>& p, int) { return half_value(p.s); }
  static MICA_HD float shift(const Piece<Q5_1>& p) { return half_value_high(p.s); }
};

struct Q8_0 : NoSuper {
  static constexpr mica_dtype kType = MICA_Q8_0;
  static constexpr int kBlock = 32, kBytes = 34, kZero = 0;
  static constexpr bool kMin = false, kHalves = false;
  static constexpr PartSizes kParts = {2, 0, 2, 0};
  static MICA_HD uint32_t quant(const uint8_t* b, int, int e) { return b[2 + e]; }
  static MICA_HD void put_quant(uint8_t* b, int, int e, uint32_t q) { or8(b[2 + e], q); }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int) { return load16(b); }
  static MICA_HD void put_scale(uint8_t* b, int, uint32_t s) { or16(b, s); }
  static MICA_HD uint32_t low(const Piece<Q8_0>& p, int w) { return p.q[w]; }
  static MICA_HD uint32_t high(const Piece<Q8_0>& p, int w) { return p.q[4 + w]; }
  static MICA_HD float step(const Piece<Q8_0>& p, int) { return half_value(p.s); }
  static MICA_HD float shift(const Piece<Q8_0>&) { return 0; }
};

// --- Blocks of 256 ------------------------------------------------------------------------------

// Q4_K and Q5_K: d and dmin are the block's first four bytes, the packed 6-bit scales and minimums
// the next twelve (ops/dtypes/k_scales.h). In a packed weight a scale and a minimum are a byte
// each.
struct KScales {
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int i) {
    const uint8_t* p = b + 4;
    const int j = i % 4;
    if (i < 4) return (p[j] & 63u) | (p[4 + j] & 63u) << 8;
    return (p[8 + j] & 15u) | static_cast<uint32_t>(p[j] >> 6) << 4 |
           (static_cast<uint32_t>(p[8 + j] >> 4) | static_cast<uint32_t>(p[4 + j] >> 6) << 4) << 8;
  }
  static MICA_HD void put_scale(uint8_t* b, int i, uint32_t s) {
    uint8_t* p = b + 4;
    const int j = i % 4;
    const uint32_t scale = s & 255, min = s >> 8 & 255;
    if (i < 4) {
      or8(p[j], scale), or8(p[4 + j], min);
    } else {
      or8(p[8 + j], (scale & 15) | (min & 15) << 4);
      or8(p[j], scale >> 4 << 6), or8(p[4 + j], min >> 4 << 6);
    }
  }
  static MICA_HD uint32_t super_bits(const uint8_t* b) { return Q4_1::scale_bits(b, 0); }
  static MICA_HD void put_super(uint8_t* b, uint32_t d) { Q4_1::put_scale(b, 0, d); }
  template <class P>
  static MICA_HD float step(const P& p, int) {
    return half_value(p.d) * static_cast<float>(p.s & 255);
  }
  template <class P>
  static MICA_HD float shift(const P& p) {
    return -(half_value_high(p.d) * static_cast<float>(p.s >> 8));
  }
};

struct Q4_K : KScales, LowNibbles {
  static constexpr mica_dtype kType = MICA_Q4_K;
  static constexpr int kBlock = 256, kBytes = 144, kZero = 0;
  static constexpr bool kMin = true, kHalves = false;
  static constexpr PartSizes kParts = {1, 0, 2, 4};
  static MICA_HD uint32_t quant(const uint8_t* b, int i, int e) {
    return b[16 + i / 2 * 32 + e] >> (i % 2 * 4) & 15;
  }
  static MICA_HD void put_quant(uint8_t* b, int i, int e, uint32_t q) {
    or8(b[16 + i / 2 * 32 + e], (q & 15) << (i % 2 * 4));
  }
};

struct Q5_K : KScales, FiveBits {
  static constexpr mica_dtype kType = MICA_Q5_K;
  static constexpr int kBlock = 256, kBytes = 176, kZero = 0;
  static constexpr bool kMin = true, kHalves = false;
  static constexpr PartSizes kParts = {1, 4, 2, 4};
  static MICA_HD uint32_t quant(const uint8_t* b, int i, int e) {
    return (b[48 + i / 2 * 32 + e] >> (i % 2 * 4) & 15) | (b[16 + e] >> i & 1) << 4;
  }
  static MICA_HD void put_quant(uint8_t* b, int i, int e, uint32_t q) {
    or8(b[48 + i / 2 * 32 + e], (q & 15) << (i % 2 * 4));
    or8(b[16 + e], (q >> 4) << i);
  }
};

// Two bits in `h`: element 4w + j at bits 8j + 2w of word 0, element 16 + 4w + j of word 1.
struct Q6_K {
  static constexpr mica_dtype kType = MICA_Q6_K;
  static constexpr int kBlock = 256, kBytes = 210, kZero = 32;
  static constexpr bool kMin = false, kHalves = true;
  static constexpr PartSizes kParts = {1, 8, 2, 2};
  static MICA_HD uint32_t quant(const uint8_t* b, int i, int e) {
    const int half = i / 4, j = i % 4;
    return (b[half * 64 + j % 2 * 32 + e] >> (j / 2 * 4) & 15) |
           (b[128 + half * 32 + e] >> (2 * j) & 3) << 4;
  }
  static MICA_HD void put_quant(uint8_t* b, int i, int e, uint32_t q) {
    const int half = i / 4, j = i % 4;
    or8(b[half * 64 + j % 2 * 32 + e], (q & 15) << (j / 2 * 4));
    or8(b[128 + half * 32 + e], (q >> 4) << (2 * j));
  }
  static MICA_HD uint32_t scale_bits(const uint8_t* b, int i) { return load16(b + 192 + 2 * i); }
  static MICA_HD void put_scale(uint8_t* b, int i, uint32_t s) { or16(b + 192 + 2 * i, s); }
  static MICA_HD uint32_t super_bits(const uint8_t* b) { return load16(b + 208); }
  static MICA_HD void put_super(uint8_t* b, uint32_t d) { or16(b + 208, d); }
  static MICA_HD uint32_t low(const Piece<Q6_K>& p, int w) {
    return (p.q[w] & 0x0f0f0f0fu) | (rotate_right(p.h[0], 2 * w - 4) & 0x30303030u);
  }
  static MICA_HD uint32_t high(const Piece<Q6_K>& p, int w) {
    return (p.q[w] >> 4 & 0x0f0f0f0fu) | (rotate_right(p.h[1], 2 * w - 4) & 0x30303030u);
  }
  static MICA_HD int32_t half_scale(const Piece<Q6_K>& p, int i) {
    return static_cast<int8_t>(p.s >> (8 * i) & 255);
  }
  static MICA_HD float step(const Piece<Q6_K>& p, int i) {
    return half_value(p.d) * static_cast<float>(half_scale(p, i));
  }
  static MICA_HD float shift(const Piece<Q6_K>&) { return 0; }
};

// --- Any of them --------------------------------------------------------------------------------

// The i-th 32 of a GGUF block.
template <class T>
MICA_HD Piece<T> to_piece(const uint8_t* block, int i) {
  Piece<T> p = {};
  for (int e = 0; e < 32; ++e) {
    const uint32_t q = T::quant(block, i, e);
    const int half = e / 16, w = e % 16 / 4, j = e % 4;
    if (T::kParts.units == 2) {
      p.q[(half * 4 + w) % (4 * T::kParts.units)] |= q << (8 * j);
    } else {
      p.q[w] |= (q & 15) << (8 * j + 4 * half);
      if (T::kParts.high == 4) p.h[0] |= (q >> 4) << (8 * j + 4 * half + w);
      if (T::kParts.high == 8) p.h[half] |= (q >> 4) << (8 * j + 2 * w);
    }
  }
  p.s = T::scale_bits(block, i);
  p.d = T::super_bits(block);
  return p;
}

// The quant of element e, as stored: without kZero, of Q8_0 a byte.
template <class T>
MICA_HD uint32_t quant_of(const Piece<T>& p, int e) {
  const uint32_t word = e < 16 ? T::low(p, e / 4) : T::high(p, (e - 16) / 4);
  return word >> (e % 4 * 8) & 255;
}

// Its inverse: sets bits of a block that is zero before the first of its pieces.
template <class T>
MICA_HD void from_piece(const Piece<T>& p, int i, uint8_t* block) {
  for (int e = 0; e < 32; ++e) T::put_quant(block, i, e, quant_of<T>(p, e));
  T::put_scale(block, i, p.s);
  if (i == 0) T::put_super(block, p.d);
}

// The value of element e; the same bits as the type's codec in ops/dtypes gives.
template <class T>
MICA_HD float value_of(const Piece<T>& p, int e) {
  const uint32_t q = quant_of<T>(p, e);
  const int32_t i =
      T::kType == MICA_Q8_0 ? static_cast<int8_t>(q) : static_cast<int32_t>(q) - T::kZero;
  const float product = mul(T::step(p, e / 16), static_cast<float>(i));
  return T::kMin ? add(product, T::shift(p)) : product;
}

// A cell of a chunk at `chunk`, whose super is at `super`.
template <class T>
MICA_HD Piece<T> read_cell(const uint8_t* chunk, const uint8_t* super, uint32_t cell) {
  Piece<T> p = {};
  constexpr PartSizes s = T::kParts;
  for (uint32_t u = 0; u < s.units; ++u) {
    const auto* q = reinterpret_cast<const uint32_t*>(chunk + (u * 32 + cell) * 16);
    for (uint32_t i = 0; i < 4; ++i) p.q[u * 4 + i] = q[i];
  }
  const auto* h = reinterpret_cast<const uint32_t*>(chunk + s.high_at() + cell * s.high);
  if constexpr (s.high >= 4) p.h[0] = h[0];
  if constexpr (s.high == 8) p.h[1] = h[1];
  const uint8_t* scale = chunk + s.scale_at() + cell * s.scale;
  if constexpr (s.scale == 4) p.s = *reinterpret_cast<const uint32_t*>(scale);
  if constexpr (s.scale == 2) p.s = *reinterpret_cast<const uint16_t*>(scale);
  const uint8_t* d = super + cell % 8 * s.super;
  if constexpr (s.super == 4) p.d = *reinterpret_cast<const uint32_t*>(d);
  if constexpr (s.super == 2) p.d = *reinterpret_cast<const uint16_t*>(d);
  return p;
}
template <class T>
MICA_HD void write_cell(uint8_t* chunk, uint8_t* super, uint32_t cell, const Piece<T>& p) {
  constexpr PartSizes s = T::kParts;
  for (uint32_t u = 0; u < s.units; ++u) {
    auto* q = reinterpret_cast<uint32_t*>(chunk + (u * 32 + cell) * 16);
    for (uint32_t i = 0; i < 4; ++i) q[i] = p.q[u * 4 + i];
  }
  auto* h = reinterpret_cast<uint32_t*>(chunk + s.high_at() + cell * s.high);
  if constexpr (s.high >= 4) h[0] = p.h[0];
  if constexpr (s.high == 8) h[1] = p.h[1];
  uint8_t* scale = chunk + s.scale_at() + cell * s.scale;
  if constexpr (s.scale == 4) *reinterpret_cast<uint32_t*>(scale) = p.s;
  if constexpr (s.scale == 2) *reinterpret_cast<uint16_t*>(scale) = static_cast<uint16_t>(p.s);
  uint8_t* d = super + cell % 8 * s.super;
  if constexpr (s.super == 4) *reinterpret_cast<uint32_t*>(d) = p.d;
  if constexpr (s.super == 2) *reinterpret_cast<uint16_t*>(d) = static_cast<uint16_t>(p.d);
}

// Where the 32 elements i_block of row r are; r counts over all slices of n rows each.
struct CellPlace {
  uint64_t chunk, super;  // offsets
  uint32_t cell;
};
template <class T>
MICA_HD CellPlace place_of(const Packed& layout, int64_t n, int64_t r, int64_t i_block) {
  const int64_t slice = r / n, row = r % n;
  const int64_t group = slice * layout.groups + row / kGroupRows, chunk = i_block / kChunkBlocks;
  constexpr PartSizes s = T::kParts;
  return {chunk_at(layout, s, group, chunk), super_at(layout, s, group, chunk),
          static_cast<uint32_t>(i_block % kChunkBlocks * kGroupRows + row % kGroupRows)};
}
// One GGUF block of a row to its cells, and back.
template <class T>
MICA_HD void pack_block(uint8_t* base, const Packed& layout, int64_t n, int64_t r, int64_t i,
                        const uint8_t* block) {
  constexpr int kPieces = T::kBlock / 32;
  for (int piece = 0; piece < kPieces; ++piece) {
    const CellPlace at = place_of<T>(layout, n, r, i * kPieces + piece);
    write_cell<T>(base + at.chunk, base + at.super, at.cell, to_piece<T>(block, piece));
  }
}
template <class T>
MICA_HD void unpack_block(const uint8_t* base, const Packed& layout, int64_t n, int64_t r,
                          int64_t i, uint8_t* block) {
  constexpr int kPieces = T::kBlock / 32;
  for (int byte = 0; byte < T::kBytes; ++byte) block[byte] = 0;
  for (int piece = 0; piece < kPieces; ++piece) {
    const CellPlace at = place_of<T>(layout, n, r, i * kPieces + piece);
    from_piece<T>(read_cell<T>(base + at.chunk, base + at.super, at.cell), piece, block);
  }
}

}  // namespace mica::cuda
