// Un-rotated keys in the few-rows kernel: each warp rotates K of its unit to the cells' positions
// between global memory and tensor-core operands. A rotated element no longer is a number of F16,
// so it becomes two parts, as those of q.
//
// A cell of a unit is rotated by two angles: by its number in the unit, from a table that the block
// makes once, and by the position of the unit's cell 0, a row that the warp makes for the unit. For
// lanes to have both elements of each pair, pairs are laid out anew: a lane has kDim / 64 slots,
// each two runs of eight neighbours of a cell's row. Where halves of the head are rotated together,
// the second run is the first one's other half; where neighbours are, each run is its own.
#pragma once
#include "backends/cuda/kernels/attention/attention_cells.cuh"

namespace mica::cuda {

// Angles of pairs, in the order in which lanes want them: cosine and sine of two pairs in 16 bytes.
template <int kDim, int kWarps>
struct KeyAngles {
  static constexpr int kChunks = kDim / 4;  // of 16 bytes, of a row
  float4 cells[kUnitCells][kChunks];        // by the cell's number in its unit
  float4 units[kWarps][kChunks];            // of the warp's unit
};

#ifdef __CUDACC__

// Runs of eight elements can be had of the rotated ones.
inline bool has_key_runs(const mica_attention_args& op) {
  if (op.rope_pairing == MICA_ROPE_ADJACENT) return op.rope_offset % 2 == 0;
  return op.rope_offset % 8 == 0 && op.n_rot % 16 == 0;
}

// First element of a run of slot `slot`, of those of all lanes: run 0 or 1.
template <int kDim>
__device__ inline int32_t run_start(const AttentionArgs& a, int32_t slot, int32_t run) {
  if (a.op.rope_pairing == MICA_ROPE_ADJACENT) return 8 * (slot + run * kDim / 16);
  const auto n_rot = static_cast<int32_t>(a.op.n_rot);
  const auto offset = static_cast<int32_t>(a.op.rope_offset);
  if (slot < n_rot / 16) return offset + 8 * slot + run * n_rot / 2;
  const int32_t at = 8 * (2 * (slot - n_rot / 16) + run);  // of what is not rotated
  return at < offset ? at : at + n_rot;
}
// Pair i of a chunk, in a row of `turns`; -1: not rotated.
template <int kDim>
__device__ inline int32_t chunk_pair(const AttentionArgs& a, int32_t chunk, int32_t i) {
  const auto n_rot = static_cast<int32_t>(a.op.n_rot);
  const int32_t slot = chunk / 16 * 4 + chunk % 4;
  const int32_t word = chunk / 4 % 4;
  if (a.op.rope_pairing == MICA_ROPE_ADJACENT) {
    const int32_t at =
        run_start<kDim>(a, slot, i) + 2 * word - static_cast<int32_t>(a.op.rope_offset);
    return at >= 0 && at < n_rot ? at / 2 : -1;
  }
  return slot < n_rot / 16 ? 8 * slot + 2 * word + i : -1;
}
// Where a chunk of a row for cell `cell` is: lanes that read together share no bank.
__device__ inline int32_t chunk_at(int32_t chunk, int32_t cell) { return chunk ^ cell % 2 * 4; }

// Both pairs' angles: angle(pair), or none where nothing is rotated.
template <int kDim, class Angle>
__device__ inline float4 chunk_angles(const AttentionArgs& a, int32_t chunk, float unit,
                                      Angle angle) {
  float2 x[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int32_t pair = chunk_pair<kDim>(a, chunk, i);
    x[i] = angle(max(pair, 0));
    if (pair < 0) x[i] = {1, 0};
  }
  return {x[0].x * unit, x[0].y * unit, x[1].x * unit, x[1].y * unit};
}

// The table, by the whole block. The caller joins it.
template <int kDim, int kWarps>
__device__ void fill_cell_angles(const AttentionArgs& a, KeyAngles<kDim, kWarps>& to) {
  constexpr int kChunks = kDim / 4;
#pragma unroll 2
  for (auto i = static_cast<int32_t>(threadIdx.x); i < kUnitCells * kChunks; i += kWarps * 32) {
    const int32_t cell = i / kChunks;
    to.cells[cell][chunk_at(i % kChunks, cell)] = chunk_angles<kDim>(
        a, i % kChunks, 1.0f, [&](int32_t pair) { return turn_angle(a, cell, pair); });
  }
}
// From the position that an entry's turn stands for to that of the page's cell `cell0`, which may
// lie before it where the entry's first cell is behind that. Where positions are divided: 0.
__device__ inline int32_t unit_offset(const Entry& e, int32_t cell0) {
  constexpr int32_t kMost = MICA_KV_OFFSET_TURNS - 1;
  const int32_t ahead = e.base - e.first_cell + cell0 - turn_origin(e);
  return e.div == 1 ? max(-kMost, min(ahead, kMost)) : 0;
}
// What fill_unit_angles() finds in the L1 cache then, by a warp.
template <int kDim>
__device__ inline void touch_unit_angles(const AttentionArgs& a, const Entry& e, int32_t cell0) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t at = min(lane * (kDim / 32), static_cast<int32_t>(a.op.n_rot) - 1);
  touch(reinterpret_cast<const int32_t*>(turn_row(a, e.turn)) + at);
  touch(reinterpret_cast<const int32_t*>(turn_row(a, abs(unit_offset(e, cell0)))) + at);
}
// The row for the unit from cell0 on of entry e, by a warp.
template <int kDim>
__device__ void fill_unit_angles(const AttentionArgs& a, const Entry& e, int32_t cell0,
                                 float4* to) {
  const int32_t offset = unit_offset(e, cell0);
  const float sign = offset < 0 ? -1.0f : 1.0f;
#pragma unroll
  for (auto i = static_cast<int32_t>(threadIdx.x % 32); i < kDim / 4; i += 32)
    to[i] = chunk_angles<kDim>(a, i, 1 / kKeyUnit, [&](int32_t pair) {
      const float2 more = turn_angle(a, abs(offset), pair);
      return both_turns(turn_angle(a, e.turn, pair), {more.x, sign * more.y});
    });
}
// Where positions are divided: a table for this unit alone, by a warp.
template <int kDim>
__device__ __noinline__ void fill_divided_angles(const AttentionArgs& a, const Entry& e,
                                                 int32_t cell0, float4* to) {
#pragma unroll 1
  for (auto i = static_cast<int32_t>(threadIdx.x % 32); i < kUnitCells * kDim / 4; i += 32) {
    const int32_t cell = i / (kDim / 4);
    const int32_t offset = turn_offset(e, cell0 + cell);
    to[cell * (kDim / 4) + chunk_at(i % (kDim / 4), cell)] = chunk_angles<kDim>(
        a, i % (kDim / 4), 1.0f, [&](int32_t pair) { return turn_angle(a, offset, pair); });
  }
}

// --- Runs of eight elements of K ----------------------------------------------------------------

template <class Stored>
struct KeyRuns;

template <int kDim>
struct KeyRuns<CellsF16<kDim>> {
  static constexpr bool kScaled = false;
  uint4 x[2][kDim / 32];

  __device__ void load(const AttentionArgs& a, const char* head, uint32_t cell, int32_t d, int n,
                       int i) {
    const auto at = min(static_cast<uint32_t>(d), a.k.row_elems - 8);
    x[n][i] = load_once(head + kv_elem_at(a.k, cell, at));
  }
  // Elements 2 w and 2 w + 1.
  __device__ uint32_t halves(int n, int i, int w) const { return word_of(x[n][i], w); }
};

template <int kDim, int kBits, bool kHasMin>
struct KeyRuns<CellsQuant<kDim, kBits, kHasMin>> {
  using Stored = CellsQuant<kDim, kBits, kHasMin>;
  static constexpr bool kScaled = true;
  // What a type has no use for is neither written nor read.
  uint2 x[2][kDim / 32];
  uint32_t fifths[2][kDim / 32];
  uint32_t d[2][kDim / 32], m[2][kDim / 32];
  uint32_t first[kDim / 32];  // of the run, in its block

  __device__ void load(const AttentionArgs& a, const char* head, uint32_t cell, int32_t at, int n,
                       int i) {
    const auto element = min(static_cast<uint32_t>(at), a.k.row_elems - 8);
    const uint32_t block = element / 32;
    first[i] = element % 32;
    const char* quants = head + kv_quants_at(a.k, cell, block);
    x[n][i] = load_pair(quants + (kBits == 8 ? first[i] : first[i] % 16));
    if (Stored::kHasFifths) fifths[n][i] = load_word(head + kv_fifth_at(a.k, cell, block));
    d[n][i] = load_short(head + kv_d_at(a.k, cell, block));
    if (kHasMin) m[n][i] = load_short(head + kv_m_at(a.k, cell, block));
  }
  __device__ uint32_t halves(int n, int i, int w) const {
    const uint32_t word = w < 2 ? x[n][i].x : x[n][i].y;
    const uint32_t bytes =
        kBits == 8 ? word ^ 0x80808080u : word >> first[i] / 16 * 4 & 0x0f0f0f0fu;
    uint32_t two = __byte_perm(bytes, 0x64646464, w % 2 == 0 ? 0x4140 : 0x4342);
    if (Stored::kHasFifths) {
      const uint32_t bits = fifths[n][i] >> (first[i] + 2 * w);
      two |= (bits << 4 & 0x10u) | (bits << 19 & 0x100000u);
    }
    constexpr auto kBias = 0x6400u + static_cast<uint32_t>(Stored::kByteBias);
    return subtract_halves(two, kBias * 0x10001u);
  }
  // An element of halves(), decoded.
  __device__ float scaled(int n, int i, float quant) const {
    const float unit = two_halves(d[n][i]).x;
    return kHasMin ? fmaf(quant, unit, Stored::offsets({unit, 0}, m[n][i]).x) : quant * unit;
  }
};

// --- The class ----------------------------------------------------------------------------------

template <class Stored>
struct Unrotated : Stored {
  static constexpr int kDim = Stored::kDim;
  static constexpr int kSlots = kDim / 64;  // of a lane
  static constexpr bool kSwapped = false;
  using K = KeyRuns<Stored>;

  // Element i of the eight of a block of 32 that are this lane's: those of two products, first
  // elements of two pairs and then their second ones.
  __device__ static int32_t element(const AttentionArgs& a, int block, int lane, int i) {
    const int product = 2 * block + i / 4;
    const int slot = product / 4 * 4 + lane % 4;
    const bool adjacent = a.op.rope_pairing == MICA_ROPE_ADJACENT;
    const int run = adjacent ? i % 2 : i / 2 % 2;
    return run_start<kDim>(a, slot, run) + product % 4 * 2 + (adjacent ? i / 2 % 2 : i % 2);
  }

  // Cells lane / 4 and lane / 4 + 8.
  __device__ static void load_k(const AttentionArgs& a, const char* head, int cell0, K& k) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int j = 0; j < 2 * kSlots; ++j) {
      const int32_t d = run_start<kDim>(a, j % kSlots * 4 + lane % 4, j / kSlots);
#pragma unroll
      for (int n = 0; n < 2; ++n)
        k.load(a, head, static_cast<uint32_t>(cell0 + n * 8 + lane / 4), d, n, j);
    }
  }

  // key_operand, where stored K becomes an operand: two pairs, rotated, to upper and lower parts of
  // their first and of their second elements.
  __device__ static void rotate(const float2& first, const float2& second, const float4& x,
                                const float4& y, uint32_t (&upper)[2], uint32_t (&lower)[2]) {
    const float2 p = both_turns({x.x, x.y}, {y.x, y.y});
    const float2 q = both_turns({x.z, x.w}, {y.z, y.w});
    split_two(first.x * p.x - second.x * p.y, first.y * q.x - second.y * q.y, upper[0], lower[0]);
    split_two(first.x * p.y + second.x * p.x, first.y * q.y + second.y * q.x, upper[1], lower[1]);
  }

  // `unit`, `cells`: rows of angles.
  __device__ static void scores(const AttentionArgs& a, const K& k, const Queries<kDim>& queries,
                                const float4* unit, const float4* cells, UnitScores& p) {
    constexpr int kChunks = kDim / 4;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const bool adjacent = a.op.rope_pairing == MICA_ROPE_ADJACENT;
    const uint32_t firsts = adjacent ? 0x5410 : 0x3210;
    const uint32_t seconds = adjacent ? 0x7632 : 0x7654;
    float rest[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] = rest[n][i] = 0;
#pragma unroll
    for (int product = 0; product < 4 * kSlots; ++product) {
      const int j = product / 4;
      const int chunk = product * 4 + lane % 4;
      uint32_t upper[2][2], lower[2][2];
      const float4 x = unit[chunk];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float4 y = cells[(lane / 4 + 8 * n) * kChunks + chunk_at(chunk, lane / 4)];
        const uint32_t low = k.halves(n, j, product % 4);
        const uint32_t high = k.halves(n, j + kSlots, product % 4);
        float2 first = two_halves(__byte_perm(low, high, firsts));
        float2 second = two_halves(__byte_perm(low, high, seconds));
        if constexpr (K::kScaled) {
          first.x = k.scaled(n, j, first.x);
          first.y = adjacent ? k.scaled(n, j + kSlots, first.y) : k.scaled(n, j, first.y);
          second.x = adjacent ? k.scaled(n, j, second.x) : k.scaled(n, j + kSlots, second.x);
          second.y = k.scaled(n, j + kSlots, second.y);
        }
        rotate(first, second, x, y, upper[n], lower[n]);
      }
      uint32_t q[4];
      load_operand(q, &queries.parts[1][product][lane]);
      multiply(rest[0], q, upper[0][0], upper[0][1]);
      multiply(rest[1], q, upper[1][0], upper[1][1]);
      load_operand(q, &queries.parts[0][product][lane]);
      multiply(rest[0], q, lower[0][0], lower[0][1]);
      multiply(rest[1], q, lower[1][0], lower[1][1]);
      multiply(p[0], q, upper[0][0], upper[0][1]);
      multiply(p[1], q, upper[1][0], upper[1][1]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] += rest[n][i];
  }
};

template <class Cells>
constexpr bool kUnrotated = false;
template <class Stored>
constexpr bool kUnrotated<Unrotated<Stored>> = true;

#endif
}  // namespace mica::cuda
