// Units of 16 cells as a warp of the few-rows kernel multiplies them, a class for each storage of K
// and V: their loads from global memory straight to tensor-core operands, and the two products. A
// product's k counts dimensions (of K) and its n columns (of V) in the order in which a lane's
// loads bring them, which is as good as any.
#pragma once
#include "backends/cuda/kernels/attention/attention_mma.cuh"

namespace mica::cuda {

constexpr int kUnitCells = 16;
constexpr int kPageUnits = kPageCells / kUnitCells;

#ifdef __CUDACC__

// 16 bytes that are used once: they stay out of the way of what is used again.
__device__ inline uint4 load_once(const void* p) {
  uint4 x;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p));
  return x;
}
// A run of bytes on its way to the L2 cache; both multiples of 16.
__device__ inline void fetch_bytes(const char* p, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
#endif
}
// Loads that stay where they are written, ahead of the products.
__device__ inline uint2 load_pair(const void* p) {
  uint2 x;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(p));
  return x;
}
__device__ inline uint32_t load_word(const void* p) {
  uint32_t x;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}
__device__ inline uint32_t load_short(const void* p) {
  uint32_t x;
  asm volatile("{.reg .u16 h; ld.global.u16 h, [%1]; cvt.u32.u16 %0, h;}" : "=r"(x) : "l"(p));
  return x;
}
// Loaded anew for each unit: in registers all of q would leave no room for bytes on their way.
__device__ inline void load_operand(uint32_t (&r)[4], const uint4* p) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline uint32_t word_of(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// Rows of q as left operands of products, both parts, a lane each: pair i of a block of 32 elements
// is half of product i / 2.
template <int kDim>
struct Queries {
  uint4 parts[2][kDim / 16][32];
};

// p: scores, then weights times 2^12, of this thread's rows lane / 4 (elements 0 and 1) and that +
// 8 (2 and 3), cells 8 n + lane % 4 * 2 and the next.
using UnitScores = float[2][4];

// --- F16 ----------------------------------------------------------------------------------------

template <int kHeadDim>
struct CellsF16 {
  static constexpr int kDim = kHeadDim;
  struct K {
    uint4 x[2][kDim / 32];
  };
  struct V {
    uint4 x[kDim / 64][4];
  };

  // The eight elements of a block of 32 that are this lane's: two runs of four neighbours.
  __device__ static int run_of(int lane, int run) { return lane % 4 * 8 + run * 4; }
  static constexpr bool kSwapped = false;  // pairs are elements 0 and 2, 1 and 3 of a run
  // That column `column` of group j of sums is.
  __device__ static int dimension(int j, int column) { return j / 8 * 64 + column * 8 + j % 8; }
  static constexpr int kUnitBytes = kUnitCells * kDim * 4;  // of K and V
  static constexpr int kRun = 4;  // so many j from a multiple on are neighbours
  // Cells cell0 … of K or V.
  __device__ static void fetch(const KvPage& p, const char* head, int cell0) {
    const uint32_t row_bytes = p.row_elems * p.elem_bytes;
    fetch_bytes(head + static_cast<uint32_t>(cell0) * row_bytes, kUnitCells * row_bytes);
  }

  // key_operand, where stored K becomes an operand: as it is.
  // Loads have no conditions, so that none waits for another: what is too much is some other
  // element, whose factor is 0 or whose column is not kept. Cells lane / 4 and lane / 4 + 8.
  __device__ static void load_k(const AttentionArgs& a, const char* head, int cell0, K& k) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) {
        const auto cell = static_cast<uint32_t>(cell0 + n * 8 + lane / 4);
        const auto d = min(static_cast<uint32_t>(j * 32 + lane % 4 * 8), a.k.row_elems - 8);
        k.x[n][j] = load_once(head + kv_elem_at(a.k, cell, d));
      }
  }
  // Cells 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 (t = lane % 4); none outside the entry.
  __device__ static void load_v(const AttentionArgs& a, const char* head, const Entry& e, int cell0,
                                V& v) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int h = 0; h < kDim / 64; ++h)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int cell = cell0 + lane % 4 * 2 + r % 2 + r / 2 * 8;
        const int real = min(max(cell, e.first_cell), e.first_cell + e.n_cells - 1);
        const auto d = min(static_cast<uint32_t>(h * 64 + lane / 4 * 8), a.v.row_elems - 8);
        v.x[h][r] = load_once(head + kv_elem_at(a.v, static_cast<uint32_t>(real), d));
      }
  }

  // What is_apart() becomes zero. True: this thread had some.
  static constexpr bool kMayBeApart = true;
  __device__ static bool clear_values(V& v) {
    bool found = false;
#pragma unroll
    for (int h = 0; h < kDim / 64; ++h)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint4& x = v.x[h][r];
        found |= clear_apart(x.x) | clear_apart(x.y) | clear_apart(x.z) | clear_apart(x.w);
      }
    return found;
  }

  __device__ static void scores(const K& k, const Queries<kDim>& queries, UnitScores& p) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    float lower[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] = lower[n][i] = 0;
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      uint32_t q[4];
      load_operand(q, &queries.parts[1][2 * j][lane]);
      multiply(lower[0], q, k.x[0][j].x, k.x[0][j].y);
      multiply(lower[1], q, k.x[1][j].x, k.x[1][j].y);
      load_operand(q, &queries.parts[0][2 * j][lane]);
      multiply(p[0], q, k.x[0][j].x, k.x[0][j].y);
      multiply(p[1], q, k.x[1][j].x, k.x[1][j].y);
      load_operand(q, &queries.parts[1][2 * j + 1][lane]);
      multiply(lower[0], q, k.x[0][j].z, k.x[0][j].w);
      multiply(lower[1], q, k.x[1][j].z, k.x[1][j].w);
      load_operand(q, &queries.parts[0][2 * j + 1][lane]);
      multiply(p[0], q, k.x[0][j].z, k.x[0][j].w);
      multiply(p[1], q, k.x[1][j].z, k.x[1][j].w);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] += lower[n][i];
  }

  __device__ static void values(const V& v, const UnitScores& p, float (&sums)[kDim / 8][4]) {
    uint32_t upper[4], lower[4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        split_two(p[n][2 * half], p[n][2 * half + 1], upper[2 * n + half], lower[2 * n + half]);
#pragma unroll
    for (int h = 0; h < kDim / 64; ++h)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t which = i % 2 == 0 ? 0x5410 : 0x7632;
        const uint32_t b0 =
            __byte_perm(word_of(v.x[h][0], i / 2), word_of(v.x[h][1], i / 2), which);
        const uint32_t b1 =
            __byte_perm(word_of(v.x[h][2], i / 2), word_of(v.x[h][3], i / 2), which);
        multiply(sums[8 * h + i], lower, b0, b1);
        multiply(sums[8 * h + i], upper, b0, b1);
      }
  }
};

// --- Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 ---------------------------------------------------------------
// Quants are operands as they are, whole numbers about 0; a block's scales go to products of 32
// dimensions of K, and to the weights ahead of a block's 32 columns of V. Weights times scales,
// which may have any size, are three BF16 parts that carry all 24 bits. Of the types with a minimum
// an element is d * (quant - kCentre) + (m + d * kCentre): the second term, small where a block's
// range lies about 0, is a factor of the sums of q over the block, and of weights for all its
// columns; products with ones give these.

template <int kHeadDim, int kBits, bool kHasMin = false>
struct CellsQuant {
  static constexpr int kDim = kHeadDim;
  static constexpr int kBlocks = kDim / 32;
  static constexpr bool kHasFifths = kBits == 5;
  static constexpr float kCentre = kBits == 8 ? 0 : kBits == 5 ? 16 : 8;
  // What a type has no use for is neither written nor read.
  struct K {
    uint2 x[2][kBlocks];  // of nibbles: one word
    uint32_t fifths[2][kBlocks];
    uint32_t d[2][kBlocks], m[2][kBlocks];
  };
  struct V {
    uint32_t x[kBlocks][4];
    uint32_t fifths[kBlocks][4];
    uint32_t d[kBlocks][2], m[kBlocks][2];
    uint32_t keep[2];  // of the scales and minima
  };

  __device__ static int run_of(int lane, int run) {
    return kBits == 8 ? lane % 4 * 8 + run * 4 : lane % 4 * 4 + run * 16;
  }
  static constexpr bool kSwapped = kBits != 8;
  __device__ static int dimension(int j, int column) {
    const int i = j % 4;
    return j / 4 * 32 + (kBits == 8 ? column * 4 + i : i / 2 * 16 + column * 2 + i % 2);
  }
  static constexpr int kUnitBytes = kUnitCells * kDim * kBits / 4;
  static constexpr int kRun = kBits == 8 ? 4 : 2;
  // The scales are a page's.
  __device__ static void fetch(const KvPage& p, const char* head, int cell0) {
    const uint32_t row_bytes = p.n_blocks * p.quant_bytes;
    fetch_bytes(head + static_cast<uint32_t>(cell0) * row_bytes, kUnitCells * row_bytes);
    fetch_bytes(head + p.d_at + static_cast<uint32_t>(cell0) * p.n_blocks * 2,
                kUnitCells * p.n_blocks * 2);
    if (kHasFifths)
      fetch_bytes(head + p.fifth_at + static_cast<uint32_t>(cell0) * p.n_blocks * 4,
                  kUnitCells * p.n_blocks * 4);
    if (kHasMin)
      fetch_bytes(head + p.m_at + static_cast<uint32_t>(cell0) * p.n_blocks * 2,
                  kUnitCells * p.n_blocks * 2);
  }

  // Quants of cells lane / 4 and that + 8, scales of the cells of p.
  __device__ static void load_k(const AttentionArgs& a, const char* head, int cell0, K& k) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const auto block = min(static_cast<uint32_t>(b), a.k.n_blocks - 1);
        const auto cell = static_cast<uint32_t>(cell0 + n * 8 + lane / 4);
        const char* quants = head + kv_quants_at(a.k, cell, block);
        if (kBits == 8) {
          k.x[n][b] = load_pair(quants + lane % 4 * 8);
        } else {
          k.x[n][b] = {load_word(quants + lane % 4 * 4), 0};
        }
        if (kHasFifths) k.fifths[n][b] = load_word(head + kv_fifth_at(a.k, cell, block));
        const auto first = static_cast<uint32_t>(cell0 + n * 8 + lane % 4 * 2);
        k.d[n][b] = load_word(head + kv_d_at(a.k, first, block));
        if (kHasMin) k.m[n][b] = load_word(head + kv_m_at(a.k, first, block));
      }
  }
  // Cells 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 (t = lane % 4); scales outside the entry are not kept.
  __device__ static void load_v(const AttentionArgs& a, const char* head, const Entry& e, int cell0,
                                V& v) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int cell = cell0 + n * 8 + lane % 4 * 2 - e.first_cell;
      v.keep[n] = (cell >= 0 && cell < e.n_cells ? 0xffffu : 0u) |
                  (cell + 1 >= 0 && cell + 1 < e.n_cells ? 0xffff0000u : 0u);
    }
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const auto block = min(static_cast<uint32_t>(b), a.v.n_blocks - 1);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const auto cell = static_cast<uint32_t>(cell0 + lane % 4 * 2 + r % 2 + r / 2 * 8);
        const char* quants = head + kv_quants_at(a.v, cell, block);
        v.x[b][r] =
            kBits == 8 ? load_word(quants + lane / 4 * 4) : load_short(quants + lane / 4 * 2);
        if (kHasFifths) v.fifths[b][r] = load_word(head + kv_fifth_at(a.v, cell, block));
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const auto cell = static_cast<uint32_t>(cell0 + n * 8 + lane % 4 * 2);
        v.d[b][n] = load_word(head + kv_d_at(a.v, cell, block));
        if (kHasMin) v.m[b][n] = load_word(head + kv_m_at(a.v, cell, block));
      }
    }
  }

  // Encoders keep scales and minima finite.
  static constexpr bool kMayBeApart = false;
  __device__ static bool clear_values(V&) { return false; }

  // key_operand, where stored K becomes an operand: eight quants to those of two products.
  // Of 5-bit types bit j of `fifths` is that of element j.
  __device__ static void k_operands(const uint2& x, uint32_t fifths, uint32_t (&out)[4]) {
    if constexpr (kBits == 8) {
      constexpr uint32_t kBias = 0x64806480;  // 1024 + 128
      const uint32_t low = x.x ^ 0x80808080u;
      const uint32_t high = x.y ^ 0x80808080u;
      out[0] = subtract_halves(__byte_perm(low, 0x64646464, 0x4140), kBias);
      out[1] = subtract_halves(__byte_perm(low, 0x64646464, 0x4342), kBias);
      out[2] = subtract_halves(__byte_perm(high, 0x64646464, 0x4140), kBias);
      out[3] = subtract_halves(__byte_perm(high, 0x64646464, 0x4342), kBias);
    } else {
      constexpr uint32_t kBias = kHasFifths ? 0x64106410 : 0x64086408;  // 1024 + kCentre
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t quants = x.x >> (i % 2 * 8 + i / 2 * 4) & 0x000f000fu;
        if (kHasFifths) {
          // Of the lane's four in this half of the block, those of elements i % 2 and i % 2 + 2.
          const uint32_t four = fifths >> (i / 2 * 16) & 15u;
          quants |= (four << 4 | four << 18) >> i % 2 & 0x00100010u;
        }
        out[i] = subtract_halves(quants | 0x64006400u, kBias);
      }
    }
  }

  // What a block's elements are more than d * (quant - kCentre), of two cells.
  __device__ static float2 offsets(const float2& d, uint32_t minima) {
    const float2 m = two_halves(minima);
    return {fmaf(d.x, kCentre, m.x), fmaf(d.y, kCentre, m.y)};
  }

  __device__ static void scores(const K& k, const Queries<kDim>& queries, UnitScores& p) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      uint32_t x[2][4];
#pragma unroll
      for (int n = 0; n < 2; ++n)
        k_operands(k.x[n][b], kHasFifths ? k.fifths[n][b] >> lane % 4 * 4 : 0, x[n]);
      float s[2][4] = {};
      float q_sums[4] = {};  // of the block, in every column
#pragma unroll
      for (int part = 1; part >= 0; --part)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          uint32_t q[4];
          load_operand(q, &queries.parts[part][2 * b + i][lane]);
          multiply(s[0], q, x[0][2 * i], x[0][2 * i + 1]);
          multiply(s[1], q, x[1][2 * i], x[1][2 * i + 1]);
          if (kHasMin) multiply(q_sums, q, 0x3c003c00, 0x3c003c00);
        }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 d = two_halves(k.d[n][b]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          p[n][2 * half] = fmaf(s[n][2 * half], d.x, p[n][2 * half]);
          p[n][2 * half + 1] = fmaf(s[n][2 * half + 1], d.y, p[n][2 * half + 1]);
        }
        if (kHasMin) {
          const float2 offset = offsets(d, k.m[n][b]);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            p[n][2 * half] = fmaf(q_sums[2 * half], offset.x, p[n][2 * half]);
            p[n][2 * half + 1] = fmaf(q_sums[2 * half], offset.y, p[n][2 * half + 1]);
          }
        }
      }
    }
  }

  // Four quants of a cell as bytes that are larger by kByteBias.
  static constexpr float kByteBias = kBits == 8 ? 128 : kCentre;
  // Of 5-bit types bits 0, 1, 16 and 17 of `fifths` are theirs.
  __device__ static uint32_t v_bytes(uint32_t x, uint32_t fifths) {
    if (kBits == 8) return x ^ 0x80808080u;
    const uint32_t bytes = (x & 0x0f0fu) | (x & 0xf0f0u) << 12;
    if (!kHasFifths) return bytes;
    return bytes | (fifths << 4 & 0x00100010u) | (fifths << 11 & 0x10001000u);
  }
  // Byte i of two cells as BF16.
  __device__ static uint32_t v_operand(uint32_t x, uint32_t y, int i) {
    const uint32_t which = 0x7540u | static_cast<uint32_t>(i);  // 2^23 + byte
    constexpr float kBias = 0x1p23f + kByteBias;
    const float u = __uint_as_float(__byte_perm(x, 0x4b000000, which)) - kBias;
    const float v = __uint_as_float(__byte_perm(y, 0x4b000000, which)) - kBias;
    return __byte_perm(__float_as_uint(u), __float_as_uint(v), 0x7632);
  }

  // Weights times a factor of each cell, as left operands in three parts.
  __device__ static void scaled_weights(const UnitScores& p, const float2 (&factors)[2],
                                        uint32_t (&w)[3][4]) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t parts[3];
        split_bf16(p[n][2 * half] * factors[n].x, p[n][2 * half + 1] * factors[n].y, parts);
#pragma unroll
        for (int part = 0; part < 3; ++part) w[part][2 * n + half] = parts[part];
      }
  }

  __device__ static void values(const V& v, const UnitScores& p, float (&sums)[kDim / 8][4]) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      uint32_t w[3][4];
      const float2 d[2] = {two_halves(v.d[b][0] & v.keep[0]), two_halves(v.d[b][1] & v.keep[1])};
      if (kHasMin) {
        const float2 offset[2] = {offsets(d[0], v.m[b][0] & v.keep[0]),
                                  offsets(d[1], v.m[b][1] & v.keep[1])};
        float more[4] = {};  // in every column
        scaled_weights(p, offset, w);
#pragma unroll
        for (int part = 2; part >= 0; --part) multiply_bf16(more, w[part], 0x3f803f80, 0x3f803f80);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[4 * b + i][j] += more[j];
      }
      scaled_weights(p, d, w);
      uint32_t x[4];
#pragma unroll
      for (int r = 0; r < 4; ++r)
        x[r] = v_bytes(v.x[b][r], kHasFifths ? v.fifths[b][r] >> lane / 4 * 2 : 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t b0 = v_operand(x[0], x[1], i);
        const uint32_t b1 = v_operand(x[2], x[3], i);
#pragma unroll
        for (int part = 2; part >= 0; --part) multiply_bf16(sums[4 * b + i], w[part], b0, b1);
      }
    }
  }
};

#endif
}  // namespace mica::cuda
