// How tiles of attention multiply: two classes of one shape. Each lays out shared memory, fills it
// with queries and cells, and makes scores and sums of values on tensor cores with products as good
// as F32.
#pragma once
#include "backends/cuda/kernels/attention/attention_mma.cuh"

namespace mica::cuda {

constexpr int kTileRows = 64;
constexpr int kTileThreads = 128;

#ifdef __CUDACC__

constexpr int kTileGroups = 4;  // of 16 cells, of a page

struct TileEntry {
  Entry entry;
  int32_t column;  // of the mask: that of the entry's first cell
  int32_t groups;  // beyond these no row sees anything
  bool full;       // every row sees the whole page
};

struct TileLists {
  TileEntry entries[kTileThreads];
  float q_factor[kTileRows];  // what undoes the scaling of a row of q, times the op's scale's size
  int32_t counts[32], cells[32];
  float scratch[32];
  int32_t is_last;
};

// What a warp keeps of its 16 rows; this thread's are lane / 4 and that + 8.
template <int kDim>
struct TileState {
  float sums[kDim / 8][4];
  float largest[2];  // times log2 e
  float denominator[2];
};

// Rows of q by a warp, as they meet the cells of a turn: lane's elements lane + 32 j. Without
// conditions between the loads.
template <int kDim, int kRows>
__device__ void read_queries(const AttentionArgs& a, const Item& item, int first, int32_t turn,
                             float (&x)[kRows][kDim / 32]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const char* q[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(first + r, item.n_rows - 1);
    q[r] = query_row(a, row_token(a, item, row), row_head(a, item, row));
  }
  const auto each = [&](auto get) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) x[r][j] = get(q[r], min(lane + 32 * j, a.dim_k - 1));
  };
  if (turn != 0) {
    each([&](const char* row, int i) { return query_operand(a, row, i, turn); });
  } else if (a.q_dtype == MICA_F32) {
    each([](const char* row, int i) { return reinterpret_cast<const float*>(row)[i]; });
  } else {
    each([&](const char* row, int i) { return float_at(a.q_dtype, row, i); });
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j)
      if (first + r >= item.n_rows || lane + 32 * j >= a.dim_k) x[r][j] = 0;
}

// Calls rotate(cell, first, second, cosine, sine) for each pair of elements of the entry's cells in
// the first groups, by all threads of the block: of un-rotated keys in shared memory, which become
// those of their cells' positions. With kAll also for what RoPE leaves as it is, by twos.
template <int kDim, bool kAll, class Rotate>
__device__ void each_key_pair(const AttentionArgs& a, const Entry& e, int groups, Rotate rotate) {
  constexpr int kPairs = kDim / 2;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t pair = thread % kPairs;
  const PairPlace p = pair_place(a, pair);
  if (!kAll && !p.rotates) return;
  const int32_t end = min(e.first_cell + e.n_cells, groups * 16);
  const float2 turn = p.rotates ? turn_angle(a, e.turn, pair) : float2{1, 0};
#pragma unroll 4
  for (int32_t cell = e.first_cell + thread / kPairs; cell < end; cell += kTileThreads / kPairs) {
    float2 angle = turn;
    if (p.rotates) angle = both_turns(turn, turn_angle(a, turn_offset(e, cell), pair));
    rotate(cell, p.first, p.second, angle.x, angle.y);
  }
}
#endif

// --- K and V are F16 ----------------------------------------------------------------------------
// Queries, scaled by row, and weights go through the tensor cores as two F16 parts each.

template <int kHeadDim, int kStageCount, bool kUnrotatedKeys = false>
struct PartsF16 {
  static constexpr int kDim = kHeadDim;
  static constexpr int kStages = kStageCount;  // pages in shared memory: one more is on its way
  static constexpr int kPitch = kDim + 8;      // halves; no two rows of 8 share a bank
  static constexpr int kSize = kTileRows * kPitch;
  static constexpr bool kUnrotated = kUnrotatedKeys;
  static constexpr int kLowerKeys = 2 + 2 * kStages;  // plane of un-rotated keys' lower parts
  static constexpr uint64_t kBytes = uint64_t{kSize} * 2 * (kLowerKeys + (kUnrotated ? 1 : 0));
#ifdef __CUDACC__
  char* base;

  __device__ explicit PartsF16(char* bytes) : base(bytes) {}
  __device__ __half* plane(int i) const { return reinterpret_cast<__half*>(base) + i * kSize; }
  __device__ __half* q(int part) const { return plane(part); }
  __device__ __half* k(int stage) const { return plane(2 + 2 * stage); }
  __device__ __half* v(int stage) const { return plane(3 + 2 * stage); }

  // Each row scaled by a power of two to at most 2^10. A warp's rows are its own.
  __device__ void load_queries(const AttentionArgs& a, const Item& item, int32_t turn,
                               TileLists& lists) const {
    constexpr int kBatch = kDim <= 128 ? 8 : 4;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row0 = static_cast<int>(threadIdx.x / 32) * 16;
#pragma unroll 1
    for (int first = row0; first < row0 + 16; first += kBatch) {
      float x[kBatch][kDim / 32];
      read_queries<kDim, kBatch>(a, item, first, turn, x);
#pragma unroll
      for (int r = 0; r < kBatch; ++r) {
        float largest = 0;
#pragma unroll
        for (int j = 0; j < kDim / 32; ++j) largest = fmaxf(largest, fabsf(x[r][j]));
        for (int offset = 16; offset > 0; offset /= 2)
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
        if (exponent == 128 || largest == 0.0f) exponent = 9;
        exponent = max(exponent, -100);
        float up = __uint_as_float(static_cast<uint32_t>(127 + 9 - exponent) << 23);
        const float down = __uint_as_float(static_cast<uint32_t>(127 - 9 + exponent) << 23);
        if (lane == 0)
          lists.q_factor[first + r] = fabsf(a.op.scale) * down * (kUnrotated ? kKeyUnit : 1.0f);
        up = a.op.scale < 0 ? -up : up;
#pragma unroll
        for (int j = 0; j < kDim / 32; ++j) {
          const int at = (first + r) * kPitch + lane + 32 * j;
          const __half upper = __float2half_rn(x[r][j] * up);
          q(0)[at] = upper;
          q(1)[at] = __float2half_rn(x[r][j] * up - __half2float(upper));
        }
      }
    }
  }

  // A page's cells of one kv head, [64][kDim]; those outside the entry, and padding, become 0.
  __device__ static void load_cells(const KvPage& p, const char* head, const Entry& e, __half* to) {
    constexpr int kUnits = kDim / 8;  // of 16 bytes
    constexpr int kPass = kTileThreads / kUnits;
    const int unit = static_cast<int>(threadIdx.x) % kUnits;
    const int row = static_cast<int>(threadIdx.x) / kUnits;
    const bool has_unit = unit * 8 < static_cast<int>(p.row_elems);
    const uint32_t row_bytes = p.row_elems * 2;
    const char* from =
        head +
        (has_unit ? static_cast<uint32_t>(row) * row_bytes + static_cast<uint32_t>(unit) * 16 : 0u);
    const int n_cells = has_unit ? e.n_cells : 0;
#pragma unroll
    for (int i = 0; i < kPageCells / kPass; ++i) {
      const int cell = row + i * kPass;
      const auto place = static_cast<uint32_t>(cell - e.first_cell);
      copy_async(to + cell * kPitch + unit * 8, from + static_cast<uint32_t>(i * kPass) * row_bytes,
                 place < static_cast<uint32_t>(n_cells));
    }
  }
  // key_operand, where stored K becomes an operand: as it is, and if it is un-rotated then
  // by rotate_keys().
  __device__ void load_k(const AttentionArgs& a, const char* head, const Entry& e,
                         int stage) const {
    load_cells(a.k, head, e, k(stage));
  }
  __device__ void load_v(const AttentionArgs& a, const char* head, const Entry& e,
                         int stage) const {
    load_cells(a.v, head, e, v(stage));
  }

  // Keys of the entry, rotated, as upper and lower parts; halved, so that none becomes too large.
  __device__ void rotate_keys(const AttentionArgs& a, const Entry& e, int stage, int groups) const {
    each_key_pair<kDim, true>(a, e, groups,
                              [&](int cell, int first, int second, float cosine, float sine) {
                                __half* upper = k(stage) + cell * kPitch;
                                __half* lower = plane(kLowerKeys) + cell * kPitch;
                                const float x = __half2float(upper[first]) / kKeyUnit;
                                const float y = __half2float(upper[second]) / kKeyUnit;
                                const auto put = [&](int at, float z) {
                                  upper[at] = __float2half_rn(z);
                                  lower[at] = __float2half_rn(z - __half2float(upper[at]));
                                };
                                put(first, x * cosine - y * sine);
                                put(second, x * sine + y * cosine);
                              });
  }

  // Of V, by all threads of the block: what is_apart() becomes zero. True: this thread found some.
  __device__ bool clear_values(const AttentionArgs&, int stage) const {
    constexpr int kUnits = kDim / 8;  // of 16 bytes
    bool found = false;
    for (int u = static_cast<int>(threadIdx.x); u < kPageCells * kUnits; u += kTileThreads) {
      uint4* at = reinterpret_cast<uint4*>(v(stage) + u / kUnits * kPitch + u % kUnits * 8);
      uint4 x = *at;
      const bool here = clear_apart(x.x) | clear_apart(x.y) | clear_apart(x.z) | clear_apart(x.w);
      if (here) *at = x;
      found |= here;
    }
    return found;
  }

  // s = q k for the warp's 16 rows and the first groups of 16 cells. Without branches where all are
  // wanted, so that loads go ahead of products.
  __device__ void scores(const AttentionArgs& a, int stage, int groups, float (&s)[8][4]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row0 = static_cast<int>(threadIdx.x / 32) * 16;
    const __half* q_at = q(0) + (row0 + lane % 16) * kPitch + lane / 16 * 8;
    const __half* k_at = k(stage) + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
    if (groups == kTileGroups && a.dim_k == kDim) {
#pragma unroll
      for (int d = 0; d < kDim; d += 16)
        add_scores<true>(q_at + d, k_at + d, lower_keys(stage), kTileGroups, s);
    } else {
#pragma unroll 1
      for (int d = 0; d < a.dim_k; d += 16)
        add_scores<false>(q_at + d, k_at + d, lower_keys(stage), groups, s);
    }
  }
  // From a stage's keys on to their lower parts.
  __device__ static int lower_keys(int stage) { return (kLowerKeys - 2 - 2 * stage) * kSize; }
  // Of 16 dimensions.
  template <bool kAll>
  __device__ static void add_scores(const __half* q_at, const __half* k_at,
                                    [[maybe_unused]] int lower, int groups, float (&s)[8][4]) {
    uint32_t q0[4], q1[4], b[kTileGroups][4];
    load_matrices(q1, q_at + kSize);
    load_matrices(q0, q_at);
    if constexpr (kUnrotated) {
#pragma unroll
      for (int g = 0; g < kTileGroups; ++g)
        if (kAll || g < groups) load_matrices(b[g], k_at + lower + g * 16 * kPitch);
#pragma unroll
      for (int g = 0; g < kTileGroups; ++g) {
        if (!kAll && g >= groups) break;
        multiply(s[2 * g], q0, b[g][0], b[g][1]);
        multiply(s[2 * g + 1], q0, b[g][2], b[g][3]);
      }
    }
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g)
      if (kAll || g < groups) load_matrices(b[g], k_at + g * 16 * kPitch);
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
      if (!kAll && g >= groups) break;
      multiply(s[2 * g], q1, b[g][0], b[g][1]);
      multiply(s[2 * g + 1], q1, b[g][2], b[g][3]);
    }
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
      if (!kAll && g >= groups) break;
      multiply(s[2 * g], q0, b[g][0], b[g][1]);
      multiply(s[2 * g + 1], q0, b[g][2], b[g][3]);
    }
  }

  // sums += weights v.
  __device__ void values(const AttentionArgs& a, int stage, int groups, const float (&s)[8][4],
                         TileState<kDim>& state) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const __half* v_at = v(stage) + (lane / 8 % 2 * 8 + lane % 8) * kPitch + lane / 16 * 8;
    if (groups == kTileGroups && a.dim_v == kDim) {
      add_values<true>(v_at, kTileGroups, kDim, s, state);
    } else {
      add_values<false>(v_at, groups, a.dim_v, s, state);
    }
  }
  template <bool kAll>
  __device__ static void add_values(const __half* v_at, int groups, int dim_v,
                                    const float (&s)[8][4], TileState<kDim>& state) {
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
      if (!kAll && g >= groups) break;
      uint32_t w0[4], w1[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split_two(s[2 * g + i / 2][i % 2 * 2], s[2 * g + i / 2][i % 2 * 2 + 1], w0[i], w1[i]);
#pragma unroll
      for (int j = 0; j < kDim / 8; j += 4) {
        if (!kAll && j * 8 >= dim_v) break;
        uint32_t b[2][4];
        load_matrices_transposed(b[0], v_at + g * 16 * kPitch + j * 8);
        load_matrices_transposed(b[1], v_at + g * 16 * kPitch + j * 8 + 16);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          multiply(state.sums[j + i], w1, b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          multiply(state.sums[j + i], w0, b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1]);
      }
    }
  }
#endif
};

// --- Any K and V --------------------------------------------------------------------------------
// All is decoded to F32 in shared memory, and goes through the tensor cores as two TF32 parts each:
// 22 bits with F32's range.

template <int kHeadDim, bool kUnrotatedKeys = false>
struct PartsF32 {
  static constexpr int kDim = kHeadDim;
  static constexpr bool kUnrotated = kUnrotatedKeys;
  static constexpr int kStages = 1;
  static constexpr int kPitch = kDim + 4;  // floats; 8 rows of 4 neighbours share no bank
  static constexpr int kSize = kTileRows * kPitch;
  static constexpr uint64_t kBytes = uint64_t{kSize} * 4 * 3;
#ifdef __CUDACC__
  char* base;
  float *q, *k, *v;

  __device__ explicit PartsF32(char* bytes) : base(bytes) {
    q = reinterpret_cast<float*>(base);
    k = q + kSize;
    v = k + kSize;
  }

  __device__ void load_queries(const AttentionArgs& a, const Item& item, int32_t turn,
                               TileLists& lists) const {
    constexpr int kBatch = 4;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row0 = static_cast<int>(threadIdx.x / 32) * 16;
#pragma unroll 1
    for (int first = row0; first < row0 + 16; first += kBatch) {
      float x[kBatch][kDim / 32];
      read_queries<kDim, kBatch>(a, item, first, turn, x);
#pragma unroll
      for (int r = 0; r < kBatch; ++r) {
        if (lane == 0) lists.q_factor[first + r] = fabsf(a.op.scale);
#pragma unroll
        for (int j = 0; j < kDim / 32; ++j)
          q[(first + r) * kPitch + lane + 32 * j] = a.op.scale < 0 ? -x[r][j] : x[r][j];
      }
    }
  }

  __device__ static void load_cells(const KvPage& p, const char* head, const Entry& e, int dim_pad,
                                    float* to) {
    const int units = dim_pad / 8;
    for (int u = static_cast<int>(threadIdx.x); u < kPageCells * units; u += kTileThreads) {
      const int cell = u / units;
      const int i = (u - cell * units) * 8;
      float x[8] = {};
      if (cell >= e.first_cell && cell < e.first_cell + e.n_cells)
        load_eight(p, head, static_cast<uint32_t>(cell), static_cast<uint32_t>(i), x);
      float4* at = reinterpret_cast<float4*>(to + cell * kPitch + i);
      at[0] = {x[0], x[1], x[2], x[3]};
      at[1] = {x[4], x[5], x[6], x[7]};
    }
  }
  // key_operand, where stored K becomes an operand: decoded, and if it is un-rotated then by
  // rotate_keys().
  __device__ void load_k(const AttentionArgs& a, const char* head, const Entry& e, int) const {
    load_cells(a.k, head, e, (a.dim_k + 15) / 16 * 16, k);
  }
  __device__ void load_v(const AttentionArgs& a, const char* head, const Entry& e, int) const {
    load_cells(a.v, head, e, a.dim_v_pad, v);
  }

  __device__ void rotate_keys(const AttentionArgs& a, const Entry& e, int, int groups) const {
    each_key_pair<kDim, false>(a, e, groups,
                               [&](int cell, int first, int second, float cosine, float sine) {
                                 float* row = k + cell * kPitch;
                                 const float x = row[first], y = row[second];
                                 row[first] = x * cosine - y * sine;
                                 row[second] = x * sine + y * cosine;
                               });
  }

  // Of V, by all threads of the block: what is_apart() becomes zero. True: this thread found some.
  __device__ bool clear_values(const AttentionArgs& a, int) const {
    bool found = false;
    for (int i = static_cast<int>(threadIdx.x); i < kPageCells * a.dim_v_pad; i += kTileThreads) {
      float* at = v + i / a.dim_v_pad * kPitch + i % a.dim_v_pad;
      if (!is_apart(*at)) continue;
      *at = 0;
      found = true;
    }
    return found;
  }

  // All groups: what is not seen is not used.
  __device__ void scores(const AttentionArgs& a, int, int, float (&s)[8][4]) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;
    const float* q_at = q + row * kPitch + lane % 4;
    const float* k_at = k + lane / 4 * kPitch + lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = 0;
#pragma unroll 1
    for (int d = 0; d < a.dim_k; d += 8) {
      uint32_t q0[4], q1[4];
      split_tf32(q_at[d], q0[0], q1[0]);
      split_tf32(q_at[d + 8 * kPitch], q0[1], q1[1]);
      split_tf32(q_at[d + 4], q0[2], q1[2]);
      split_tf32(q_at[d + 8 * kPitch + 4], q0[3], q1[3]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        uint32_t b0[2], b1[2];
        split_tf32(k_at[j * 8 * kPitch + d], b0[0], b1[0]);
        split_tf32(k_at[j * 8 * kPitch + d + 4], b0[1], b1[1]);
        multiply_tf32(s[j], q1, b0);
        multiply_tf32(s[j], q0, b1);
        multiply_tf32(s[j], q0, b0);
      }
    }
  }

  // The products' k counts cells 2 t and 2 t + 1 of 8 as t and t + 4: so weights stay where they
  // are.
  __device__ void values(const AttentionArgs& a, int, int, const float (&s)[8][4],
                         TileState<kDim>& state) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float* v_at = v + lane % 4 * 2 * kPitch + lane / 4;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      uint32_t w0[4], w1[4];
      split_tf32(s[c][0], w0[0], w1[0]);
      split_tf32(s[c][2], w0[1], w1[1]);
      split_tf32(s[c][1], w0[2], w1[2]);
      split_tf32(s[c][3], w0[3], w1[3]);
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        if (j * 8 >= a.dim_v) break;
        uint32_t b0[2], b1[2];
        split_tf32(v_at[c * 8 * kPitch + j * 8], b0[0], b1[0]);
        split_tf32(v_at[c * 8 * kPitch + kPitch + j * 8], b0[1], b1[1]);
        multiply_tf32(state.sums[j], w1, b0);
        multiply_tf32(state.sums[j], w0, b1);
        multiply_tf32(state.sums[j], w0, b0);
      }
    }
  }
#endif
};

}  // namespace mica::cuda
