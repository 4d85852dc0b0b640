// Many rows of x: tiles of 128 rows of w times kTokens rows of x on mma.sync, w as the A operand.
//
// x is brought to F16 (BF16 for BF16 weights) by a kernel ahead, in the order in which a thread
// wants its part of a fragment, and each row times a power of two, by whose inverse results are
// multiplied. Both operands stream through a ring of stages of 128 elements of K in shared memory.
// Quantized weights stay as they are until they are fragments: there they become
// the integers they hold, which F16 has exactly, and each block's product is scaled in F32. So
// weights are never rounded (MICA_NUM_F16 is x's rounding alone).
//
// Where there are few tiles, the blocks of a cluster share K and add up through shared memory.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_naive.cuh"
#include "backends/cuda/quant/device.cuh"

namespace mica::cuda {

constexpr int kTileRows = 128;  // of w
constexpr int kTileThreads = 256;
constexpr int kTileGroups = kTileRows / kGroupRows;
constexpr int kStageElems = kChunkElems;
constexpr int kMaxStages = 6;

struct TilesArgs {
  MatmulArgs a;
  const uint8_t* x;   // F16 or BF16 [chunks * 128] a row, m_padded rows a slice
  const float* sums;  // [chunks * 4][m_padded] a slice: sums of 32 of x; types with minimums only
  const float* factors;  // [m_padded] a slice: what products of a row are multiplied by
  int64_t chunks, m_padded;
  uint32_t split;  // blocks that share K: the cluster's size
  uint32_t n_stages;
  uint32_t aligned;  // rows of plain w start at multiples of 16 bytes and K is whole 16 bytes
};

// --- Preparing x ---------------------------------------------------------------------------------

struct PrepareArgs {
  MatmulArgs a;
  uint8_t* x;
  float* sums;     // nullptr: not wanted
  float* factors;  // [m_padded] a slice
  int64_t chunks, m_padded;
  uint32_t bf16;
  uint32_t ordered;  // plain order; otherwise that of fragments of quantized weights
  // Of one slice whose n is a multiple of 4: where rows of the result that are not live are copied
  // to, [n, m]; nullptr: nowhere.
  float4* kept;
};

// The bits of a power of two that brings a row to F16, of which the largest magnitude has the bits
// `most`. 1 for what F16 holds with all its bits: the largest below 2^15, where rounding stays
// finite, and at least 2^-4, so that elements have 11 bits down to 2^-10 of it, and what smaller
// ones lose vanishes beside the rounding of sums. Otherwise the largest is brought to
// [2^14, 2^15), or as near as a power with a normal inverse brings it. 1 for zeros, infinities and
// not-a-number too.
__device__ inline uint32_t power_for(uint32_t most) {
  const uint32_t exponent = most >> 23;
  if (most == 0 || exponent == 255 || (exponent >= 127 - 4 && exponent < 127 + 15))
    return 127u << 23;
  const uint32_t up = 127 + 14 + 127 - exponent;
  return (up < 253 ? up : 253) << 23;
}
// Its inverse.
__device__ inline float factor_of(uint32_t power) { return float_of((254u << 23) - power); }

mica_status launch_prepare(Recorder& r, const PrepareArgs& p);  // kernels/matmul.cu

// --- A stage -------------------------------------------------------------------------------------

// Where the parts of a stage are, in bytes.
template <class T, int kTokens>
struct Stage {
  static constexpr PartSizes kP = T::kParts;
  static constexpr int kX = kTokens * kStageElems * 2;
  static constexpr int kChunk = static_cast<int>(kP.chunk_bytes());  // of a group
  static constexpr int kSuper = static_cast<int>(kP.super_bytes());
  static constexpr int kW = kIsPlain<T> ? kTileRows * kStageElems * 2 : kTileGroups * kChunk;
  static constexpr bool kHasSums = [] {
    if constexpr (kIsPlain<T>)
      return false;
    else
      return T::kMin;
  }();
  static constexpr int kSums = kHasSums ? 4 * kTokens * 4 : 0;
  static constexpr int kXAt = 0, kWAt = kX, kSuperAt = kWAt + kW;
  static constexpr int kSumsAt = kSuperAt + kTileGroups * kSuper, kBytes = kSumsAt + kSums;
  static_assert(kBytes % 16 == 0, "parts are copied by 16 bytes");
  static constexpr int kFactors = kTokens < 32 ? 128 : kTokens * 4;  // ahead of all stages
};

// 16 bytes u of row r in rows of 256: even and odd rows take different halves of the banks.
__device__ inline int swizzle(int row, int unit) { return row * 16 + (unit ^ ((row & 1) << 2)); }

// kBytes of each group of a tile, one after the other, from the places that from(group) gives.
template <int kBytes, class From>
__device__ inline void copy_groups(uint8_t* to, From from) {
  constexpr int kUnits = kBytes / 16;
  for (int i = threadIdx.x; i < kTileGroups * kUnits; i += kTileThreads)
    copy_async16(to + i * 16, from(i / kUnits) + i % kUnits * 16);
}

// The rows of a tile of packed w: groups beyond the last repeat it; their sums go nowhere.
template <class T, int kTokens>
__device__ inline void copy_packed(uint8_t* stage, const TilesArgs& args, const Slice& slice,
                                   int64_t first_group, int64_t chunk) {
  using S = Stage<T, kTokens>;
  constexpr PartSizes s = T::kParts;
  const Packed& layout = args.a.layout;
  const int left = static_cast<int>(layout.groups - first_group) - 1;
  const uint8_t* pair = slice.w + first_group * layout.group_bytes + chunk / 2 * s.pair_bytes();
  const uint8_t* at = pair + chunk % 2 * s.chunk_bytes();
  copy_groups<S::kChunk>(stage + S::kWAt,
                         [&](int i) { return at + (i < left ? i : left) * layout.group_bytes; });
  if constexpr (S::kSuper != 0)
    copy_groups<S::kSuper>(stage + S::kSuperAt, [&](int i) {
      return pair + 2 * s.chunk_bytes() + (i < left ? i : left) * layout.group_bytes;
    });
}

// The rows of a tile of plain w.
template <class T, int kTokens>
__device__ inline void copy_plain(uint8_t* stage, const TilesArgs& args, const Slice& slice,
                                  int64_t first_row, int64_t chunk) {
  uint8_t* to = stage + Stage<T, kTokens>::kWAt;
  const MatmulArgs& a = args.a;
  for (int i = threadIdx.x; i < kTileRows * 16; i += kTileThreads) {
    const int row = i / 16, unit = i % 16;
    const int64_t n = first_row + row < a.n ? first_row + row : a.n - 1;
    const int64_t at = chunk * kStageElems + unit * 8;
    const uint8_t* from = slice.w + n * a.w_stride[0] + at * 2;
    uint8_t* place = to + swizzle(row, unit) * 16;
    if (args.aligned && at + 8 <= a.k) {
      copy_async16(place, from);
    } else {
      for (int j = 0; j < 8; ++j)
        reinterpret_cast<uint16_t*>(place)[j] =
            at + j < a.k ? reinterpret_cast<const uint16_t*>(from)[j] : uint16_t{0};
    }
  }
}

template <class T, int kTokens>
__device__ inline void copy_x(uint8_t* stage, const TilesArgs& args, int64_t i_slice, int64_t first,
                              int64_t chunk) {
  using S = Stage<T, kTokens>;
  const uint8_t* x = args.x + (i_slice * args.m_padded + first) * args.chunks * kStageElems * 2;
  for (int i = threadIdx.x; i < kTokens * 16; i += kTileThreads) {
    const int row = i / 16, unit = i % 16;
    copy_async16(stage + S::kXAt + swizzle(row, unit) * 16,
                 x + (row * args.chunks + chunk) * kStageElems * 2 + unit * 16);
  }
  if constexpr (S::kHasSums) {
    const float* sums = args.sums + (i_slice * args.chunks + chunk) * 4 * args.m_padded + first;
    for (int i = threadIdx.x; i < kTokens; i += kTileThreads) {
      const int block = i / (kTokens / 4), unit = i % (kTokens / 4);
      copy_async16(stage + S::kSumsAt + i * 16, sums + block * args.m_padded + unit * 4);
    }
  }
}

// --- Fragments -----------------------------------------------------------------------------------

// What a warp does of a tile: kMTiles times 16 rows of w, kNTiles times 8 rows of x.
template <int kTokens>
struct WarpTile {
  static constexpr int kAcross = kTokens == 128 ? 2 : 1;  // warps along x
  static constexpr int kMTiles = kTokens == 128 ? 2 : 1;
  static constexpr int kNTiles = kTokens / kAcross / 8;
};

// A thread's part of rows g and g + 8 of a block of 32, for its two steps of 16.
struct Fragment {
  uint32_t step[2][4];
};

// Four unsigned bytes less `zero`, as two pairs of F16: bytes 0 and 2, and 1 and 3. Exact.
__device__ inline void bytes_to_halves(uint32_t bytes, uint32_t zero, uint32_t& even,
                                       uint32_t& odd) {
  const uint32_t offset = (0x6400u + zero) * 0x10001u;  // 0x6400 is 1024, whose last place is 1
  even = half2_sub((bytes & 0x00ff00ffu) | 0x64006400u, offset);
  odd = half2_sub((bytes >> 8 & 0x00ff00ffu) | 0x64006400u, offset);
}

// A lane's cell as far as its word t is concerned: q[0], of two units q[4] too.
template <class T>
__device__ inline Piece<T> stage_piece(const uint8_t* stage_w, const uint8_t* stage_super,
                                       int group, int cell, int t) {
  constexpr PartSizes s = T::kParts;
  Piece<T> p = {};
  const uint8_t* chunk = stage_w + group * static_cast<int>(s.chunk_bytes());
  const uint8_t* q = chunk + cell * 16 + t * 4;
  p.q[0] = *reinterpret_cast<const uint32_t*>(q);
  if constexpr (s.units == 2) p.q[4] = *reinterpret_cast<const uint32_t*>(q + 512);
  const uint8_t *high = chunk + s.high_at(), *scale = chunk + s.scale_at();
  if constexpr (s.high == 4) p.h[0] = reinterpret_cast<const uint32_t*>(high)[cell];
  if constexpr (s.high == 8) {
    const uint2 h = reinterpret_cast<const uint2*>(high)[cell];
    p.h[0] = h.x, p.h[1] = h.y;
  }
  if constexpr (s.scale == 4) p.s = reinterpret_cast<const uint32_t*>(scale)[cell];
  if constexpr (s.scale == 2) p.s = reinterpret_cast<const uint16_t*>(scale)[cell];
  const int row = group * 8 + cell % 8;
  if constexpr (s.super == 4) p.d = reinterpret_cast<const uint32_t*>(stage_super)[row];
  if constexpr (s.super == 2) p.d = reinterpret_cast<const uint16_t*>(stage_super)[row];
  return p;
}

// The two bytes words of a piece that holds only its word t, in q[0] (and q[4]).
template <class T>
__device__ inline void word_bytes(const Piece<T>& p, int t, uint32_t& low, uint32_t& high) {
  if constexpr (T::kParts.units == 2) {
    low = p.q[0] ^ 0x80808080u, high = p.q[4] ^ 0x80808080u;
  } else {
    low = p.q[0] & 0x0f0f0f0fu, high = p.q[0] >> 4 & 0x0f0f0f0fu;
    if constexpr (T::kParts.high == 4) {
      low |= rotate_right(p.h[0], t - 4) & 0x10101010u;
      high |= rotate_right(p.h[0], t) & 0x10101010u;
    }
    if constexpr (T::kParts.high == 8) {
      low |= rotate_right(p.h[0], 2 * t - 4) & 0x30303030u;
      high |= rotate_right(p.h[1], 2 * t - 4) & 0x30303030u;
    }
  }
}

// Fills rows g (half 0) or g + 8 (half 1) of a fragment.
template <class T>
__device__ inline void fill_fragment(Fragment& f, int half, const Piece<T>& p, int t) {
  constexpr uint32_t kZero = T::kParts.units == 2 ? 128 : T::kZero;
  uint32_t low, high;
  word_bytes<T>(p, t, low, high);
  bytes_to_halves(low, kZero, f.step[0][half], f.step[0][2 + half]);
  bytes_to_halves(high, kZero, f.step[1][half], f.step[1][2 + half]);
}

template <int kMTiles, int kNTiles>
struct Accumulators {
  float c[kMTiles][kNTiles][4];
};

// --- A stage's products --------------------------------------------------------------------------

template <class T, int kTokens>
__device__ inline void multiply_packed(
    const uint8_t* stage, Accumulators<WarpTile<kTokens>::kMTiles, WarpTile<kTokens>::kNTiles>& acc,
    int first_group, int first_token, int lane) {
  using S = Stage<T, kTokens>;
  using W = WarpTile<kTokens>;
  const int g = lane / 4, t = lane % 4;
  const uint4* x = reinterpret_cast<const uint4*>(stage + S::kXAt);
#pragma unroll 1
  for (int block = 0; block < kChunkBlocks; ++block) {
    Fragment f[W::kMTiles];
    float step[W::kMTiles][2][T::kHalves ? 2 : 1], shift[W::kMTiles][2];
#pragma unroll
    for (int i = 0; i < W::kMTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Piece<T> p = stage_piece<T>(stage + S::kWAt, stage + S::kSuperAt,
                                          first_group + 2 * i + half, block * 8 + g, t);
        fill_fragment<T>(f[i], half, p, t);
        step[i][half][0] = T::step(p, 0);
        if constexpr (T::kHalves) step[i][half][1] = T::step(p, 1);
        shift[i][half] = T::shift(p);
      }
#pragma unroll
    for (int j = 0; j < W::kNTiles; ++j) {
      const uint4 b = x[swizzle(first_token + 8 * j + g, block * 4 + t)];
      float2 sum = make_float2(0, 0);
      if constexpr (T::kMin)
        sum = *reinterpret_cast<const float2*>(stage + S::kSumsAt +
                                               (block * kTokens + first_token + 8 * j + 2 * t) * 4);
#pragma unroll
      for (int i = 0; i < W::kMTiles; ++i) {
        float(&c)[4] = acc.c[i][j];
        float part[4] = {0, 0, 0, 0};
        mma_f16(part, f[i].step[0], b.x, b.y);
        if constexpr (T::kHalves) {
#pragma unroll
          for (int e = 0; e < 4; ++e) c[e] = fmaf(step[i][e / 2][0], part[e], c[e]), part[e] = 0;
        }
        mma_f16(part, f[i].step[1], b.z, b.w);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          c[e] = fmaf(step[i][e / 2][T::kHalves ? 1 : 0], part[e], c[e]);
          if constexpr (T::kMin) c[e] = fmaf(shift[i][e / 2], e % 2 == 0 ? sum.x : sum.y, c[e]);
        }
      }
    }
  }
}

// Plain F16 or BF16: a thread's 8 values of a block of 32 are 16 bytes in both operands.
template <class T, int kTokens>
__device__ inline void multiply_plain(
    const uint8_t* stage, Accumulators<WarpTile<kTokens>::kMTiles, WarpTile<kTokens>::kNTiles>& acc,
    int first_group, int first_token, int lane) {
  using S = Stage<T, kTokens>;
  using W = WarpTile<kTokens>;
  const int g = lane / 4, t = lane % 4;
  const uint4* x = reinterpret_cast<const uint4*>(stage + S::kXAt);
  const uint4* w = reinterpret_cast<const uint4*>(stage + S::kWAt);
#pragma unroll 1
  for (int block = 0; block < kChunkBlocks; ++block) {
    uint32_t a[W::kMTiles][2][4];
#pragma unroll
    for (int i = 0; i < W::kMTiles; ++i) {
      const uint4 top = w[swizzle((first_group + 2 * i) * 8 + g, block * 4 + t)];
      const uint4 bottom = w[swizzle((first_group + 2 * i) * 8 + 8 + g, block * 4 + t)];
      a[i][0][0] = top.x, a[i][0][1] = bottom.x, a[i][0][2] = top.y, a[i][0][3] = bottom.y;
      a[i][1][0] = top.z, a[i][1][1] = bottom.z, a[i][1][2] = top.w, a[i][1][3] = bottom.w;
    }
#pragma unroll
    for (int j = 0; j < W::kNTiles; ++j) {
      const uint4 b = x[swizzle(first_token + 8 * j + g, block * 4 + t)];
#pragma unroll
      for (int i = 0; i < W::kMTiles; ++i) {
        if constexpr (T::kType == MICA_BF16) {
          mma_bf16(acc.c[i][j], a[i][0], b.x, b.y);
          mma_bf16(acc.c[i][j], a[i][1], b.z, b.w);
        } else {
          mma_f16(acc.c[i][j], a[i][0], b.x, b.y);
          mma_f16(acc.c[i][j], a[i][1], b.z, b.w);
        }
      }
    }
  }
}

// --- The kernel ----------------------------------------------------------------------------------

// The cluster's blocks add up their parts of the tile: tile[token][row] of each in its own shared
// memory, every block sums every `split`-th token in the order of the blocks.
template <int kTokens>
__device__ inline void add_parts(float* tile, const float* factors, const MatmulArgs& a,
                                 const Slice& slice, int64_t first_row, int64_t first, int64_t live,
                                 uint32_t split) {
  cluster_barrier();
  const uint32_t rank = cluster_rank();
  for (int i = threadIdx.x; i < kTokens * kTileRows / static_cast<int>(split); i += kTileThreads) {
    const int token = i / kTileRows * static_cast<int>(split) + static_cast<int>(rank);
    const int row = i % kTileRows;
    if (first + token >= live || first_row + row >= a.n) continue;
    float sum = 0;
    for (uint32_t r = 0; r < split; ++r) sum += load_cluster(tile + token * kTileRows + row, r);
    slice.out[(first + token) * a.n + first_row + row] = sum * factors[token];
  }
  cluster_barrier();  // the others read this block's tile
}

// Sums to the result; where blocks share K, by way of `tile`, which takes the place of the ring.
template <int kTokens>
__device__ inline void end_tile(
    const Accumulators<WarpTile<kTokens>::kMTiles, WarpTile<kTokens>::kNTiles>& acc, float* tile,
    const float* factors, const TilesArgs& args, const Slice& slice, int64_t first_row,
    int64_t first, int64_t live) {
  using W = WarpTile<kTokens>;
  const MatmulArgs& a = args.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first_group = warp / W::kAcross * W::kMTiles * 2;
  const int first_token = warp % W::kAcross * W::kNTiles * 8;
  const int g = lane / 4, t = lane % 4;
  if (args.split > 1) {
    wait_copies<0>();
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < W::kMTiles; ++i)
#pragma unroll
    for (int j = 0; j < W::kNTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = (first_group + 2 * i + e / 2) * 8 + g;
        const int token = first_token + 8 * j + 2 * t + e % 2;
        if (args.split > 1)
          tile[token * kTileRows + row] = acc.c[i][j][e];
        else if (first_row + row < a.n && first + token < live)
          slice.out[(first + token) * a.n + first_row + row] = acc.c[i][j][e] * factors[token];
      }
  if (args.split > 1)
    add_parts<kTokens>(tile, factors, a, slice, first_row, first, live, args.split);
}

template <class T, int kTokens>
__global__ void __launch_bounds__(kTileThreads, kTokens <= 64 ? 2 : 1) tiles(const TilesArgs args) {
  extern __shared__ __align__(128) uint4 shared[];
  using S = Stage<T, kTokens>;
  using W = WarpTile<kTokens>;
  const MatmulArgs& a = args.a;
  float* const factors = reinterpret_cast<float*>(shared);  // of the tile's rows of x
  uint8_t* const ring = reinterpret_cast<uint8_t*>(shared) + S::kFactors;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t i_slice = blockIdx.z;
  const int64_t first_row = int64_t{blockIdx.x / args.split} * kTileRows;
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const int64_t part = blockIdx.x % args.split;
  const int64_t begin = args.chunks * part / args.split;
  const int64_t end = args.chunks * (part + 1) / args.split;
  const Slice slice = slice_of(a, i_slice);
  const int n_stages = static_cast<int>(args.n_stages);

  const auto copy_w = [&](int64_t chunk) {
    uint8_t* stage = ring + (chunk - begin) % n_stages * S::kBytes;
    if constexpr (kIsPlain<T>)
      copy_plain<T, kTokens>(stage, args, slice, first_row, chunk);
    else
      copy_packed<T, kTokens>(stage, args, slice, first_row / kGroupRows, chunk);
  };
  const auto copy_tokens = [&](int64_t chunk) {
    uint8_t* stage = ring + (chunk - begin) % n_stages * S::kBytes;
    copy_x<T, kTokens>(stage, args, i_slice, first, chunk);
  };
  // The first stages: weights before x is there.
  if (!a.w_constant) wait_for_inputs();
  for (int64_t chunk = begin; chunk < begin + n_stages - 1 && chunk < end; ++chunk) copy_w(chunk);
  if (a.w_constant) wait_for_inputs();
  start_next();
  const int64_t live = live_rows(a, i_slice);
  const bool dead = first >= live;  // alike in all blocks of a cluster
  if (dead) {
    commit_copies();
    wait_copies<0>();
    return;
  }
  for (int i = threadIdx.x; i < kTokens / 4; i += kTileThreads)  // with the first stage
    copy_async16(factors + 4 * i, args.factors + i_slice * args.m_padded + first + 4 * i);
  for (int64_t chunk = begin; chunk < begin + n_stages - 1; ++chunk) {
    if (chunk < end) copy_tokens(chunk);
    commit_copies();
  }

  Accumulators<W::kMTiles, W::kNTiles> acc = {};
  const int first_group = warp / W::kAcross * W::kMTiles * 2;
  const int first_token = warp % W::kAcross * W::kNTiles * 8;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    // All but the newest n_stages - 2 groups have come: this chunk's is the oldest under way.
    if (n_stages == 2)
      wait_copies<0>();
    else if (n_stages == 3)
      wait_copies<1>();
    else if (n_stages == 4)
      wait_copies<2>();
    else if (n_stages == 5)
      wait_copies<3>();
    else
      wait_copies<4>();
    __syncthreads();  // everybody's copies; and the stage to be filled next is read
    const int64_t ahead = chunk + n_stages - 1;
    if (ahead < end) copy_w(ahead), copy_tokens(ahead);
    commit_copies();
    const uint8_t* stage = ring + (chunk - begin) % n_stages * S::kBytes;
    if constexpr (kIsPlain<T>)
      multiply_plain<T, kTokens>(stage, acc, first_group, first_token, lane);
    else
      multiply_packed<T, kTokens>(stage, acc, first_group, first_token, lane);
  }

  end_tile<kTokens>(acc, reinterpret_cast<float*>(ring), factors, args, slice, first_row, first,
                    live);
}

// --- Launching -----------------------------------------------------------------------------------

struct TilesPlan {
  int64_t tokens, chunks, m_padded;
  uint64_t sums_at, factors_at, bytes;  // in the workspace, x is at 0
};
inline TilesPlan plan_tiles(const MatmulArgs& a) {
  TilesPlan p;
  p.tokens = a.m <= 16 ? 16 : a.m <= 32 ? 32 : a.m <= 64 ? 64 : 128;
  p.chunks = div_up(a.k, kStageElems);
  p.m_padded = div_up(a.m, p.tokens) * p.tokens;
  const uint64_t rows = uint64_t(p.m_padded * a.b2 * a.b3);
  p.sums_at = rows * uint64_t(p.chunks) * kStageElems * 2;
  p.factors_at = p.sums_at + rows * uint64_t(p.chunks) * 4 * 4;
  p.bytes = p.factors_at + rows * 4;
  return p;
}

// As launch(), in clusters of `cluster` blocks along x.
template <class Args>
mica_status launch_clusters(Recorder& r, void (*kernel)(Args), dim3 grid, dim3 block,
                            uint64_t shared_bytes, uint32_t cluster, const Args& args) {
  if (cluster == 1 || r.preparing || r.error != cudaSuccess)
    return launch(r, kernel, grid, block, shared_bytes, args);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = r.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  Args copy = args;
  void* list[] = {&copy};
  r.error = r.driver->launch(&config, reinterpret_cast<const void*>(kernel), list);
  return r.error == cudaSuccess ? MICA_OK : MICA_INTERNAL;
}

template <class T, int kTokens>
mica_status launch_tiles(Recorder& r, TilesArgs args) {
  using S = Stage<T, kTokens>;
  const MatmulArgs& a = args.a;
  const int64_t row_tiles = div_up(a.n, kTileRows), token_tiles = div_up(a.m, kTokens);
  const int64_t tiles_all = row_tiles * token_tiles * a.b2 * a.b3;
  args.split = 1;
  // Two chunks a block at least, and blocks for two on every multiprocessor at most.
  while (r.device->cc >= 90 && args.split < 8 && args.split * 4 <= args.chunks &&
         tiles_all * args.split * 2 <= int64_t{r.device->n_sms} * 2)
    args.split *= 2;
  // Two blocks share a multiprocessor when tokens are few: then loads are what takes time. Half a
  // KiB for factors is in what is left out.
  const uint64_t room = (r.device->max_shared_bytes - 2048) / (kTokens <= 64 ? 2 : 1);
  const uint64_t fit = room / S::kBytes;
  const auto most = static_cast<uint64_t>(div_up(args.chunks, args.split) + 1);
  args.n_stages = static_cast<uint32_t>(fit < kMaxStages ? fit : kMaxStages);
  if (args.n_stages > most) args.n_stages = static_cast<uint32_t>(most);
  if (args.n_stages < 2) args.n_stages = 2;
  uint64_t shared_bytes = uint64_t{args.n_stages} * S::kBytes;
  const uint64_t tile_bytes = args.split > 1 ? uint64_t{kTokens} * kTileRows * 4 : 0;
  if (shared_bytes < tile_bytes) shared_bytes = tile_bytes;
  shared_bytes += S::kFactors;
  const dim3 grid(static_cast<uint32_t>(row_tiles * args.split), static_cast<uint32_t>(token_tiles),
                  static_cast<uint32_t>(a.b2 * a.b3));
  return launch_clusters(r, tiles<T, kTokens>, grid, dim3(kTileThreads), shared_bytes, args.split,
                         args);
}

template <class T>
mica_status tiles_any(Recorder& r, const MatmulArgs& a) {
  const TilesPlan plan = plan_tiles(a);
  auto* workspace = static_cast<uint8_t*>(a.workspace);
  auto* sums = reinterpret_cast<float*>(workspace + plan.sums_at);
  const bool aligned = a.k % 8 == 0 && a.w_stride[0] % 16 == 0 && a.w_stride[1] % 16 == 0 &&
                       a.w_stride[2] % 16 == 0 && reinterpret_cast<uint64_t>(a.w) % 16 == 0;
  auto* factors = reinterpret_cast<float*>(workspace + plan.factors_at);
  PrepareArgs prepare = {a, workspace, nullptr, factors, plan.chunks, plan.m_padded, 0, 0, nullptr};
  prepare.bf16 = T::kType == MICA_BF16 ? 1 : 0;
  prepare.ordered = kIsPlain<T> ? 1 : 0;
  if (Stage<T, 16>::kHasSums) prepare.sums = sums;
  if (const mica_status status = launch_prepare(r, prepare); status != MICA_OK) return status;
  TilesArgs args = {a, workspace, sums, factors, plan.chunks, plan.m_padded, 1, 2, 0};
  args.aligned = aligned ? 1 : 0;
  if (plan.tokens == 16) return launch_tiles<T, 16>(r, args);
  if (plan.tokens == 32) return launch_tiles<T, 32>(r, args);
  if (plan.tokens == 64) return launch_tiles<T, 64>(r, args);
  return launch_tiles<T, 128>(r, args);
}

}  // namespace mica::cuda
