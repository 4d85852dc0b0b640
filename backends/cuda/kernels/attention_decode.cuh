// Attention of few query rows: each warp takes 16 cells at a time straight from global memory to
// tensor-core operands (attention_cells.cuh), the next ones on their way while it computes; the
// warps of a block merge at the end.
#pragma once
#include "backends/cuda/kernels/attention_cells.cuh"

namespace mica::cuda {

constexpr int kDecodeThreads = 128;
constexpr int kDecodeWarps = kDecodeThreads / 32;
constexpr int kDecodeRows = 16;  // of an item: those of a product

template <int kDim>
constexpr uint64_t decode_shared_bytes() {
  return uint64_t{2} * kDim * 32 + uint64_t{kDecodeWarps} * kDecodeRows * (kDim + 3) * 4 +
         uint64_t{kDecodeThreads} * 20;
}

#ifdef __CUDACC__

// What a warp keeps of its rows; this thread's are lane / 4 and that + 8.
template <int kDim>
struct DecodeState {
  float sums[kDim / 8][4];  // by groups of 8 dimensions; columns lane % 4 * 2 and the next
  float largest[2], denominator[2];
  float q_factor[2];
  int32_t position[2];  // INT32_MIN: there is no such row
};

template <int kDim>
struct DecodeShared {
  Queries<kDim> queries;
  float sums[kDecodeWarps][kDecodeRows][kDim];
  float largest[kDecodeWarps][kDecodeRows], denominator[kDecodeWarps][kDecodeRows];
  float q_largest[kDecodeWarps][kDecodeRows];
  Entry entries[kDecodeThreads];  // of the item, so many at a time
};
static_assert(sizeof(DecodeShared<128>) == decode_shared_bytes<128>());

// The part of the rows of q that is this thread's to split: its rows, its elements of the blocks of
// 32 that are its warp's.
template <class Cells>
struct QueryPart {
  static constexpr int kBlocks = (Cells::kDim / 32 + kDecodeWarps - 1) / kDecodeWarps;
  float x[2][kBlocks][8];

  __device__ static int block(int j) {
    return static_cast<int>(threadIdx.x / 32) + j * kDecodeWarps;
  }

  // Without conditions between the loads: beyond rows and elements are some others, until store().
  __device__ void load(const AttentionArgs& a, const Item& item) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const char* q[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(lane / 4 + 8 * half, item.n_rows - 1);
      q[half] = query_row(a, row_token(a, item, row), row_head(a, item, row));
    }
    const auto each = [&](auto get) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < kBlocks; ++j)
#pragma unroll
          for (int run = 0; run < 2; ++run)
            get(q[half], block(j) * 32 + Cells::run_of(lane, run), &x[half][j][4 * run]);
    };
    if (a.q_wide) {
      each([&](const char* row, int first, float* to) {
        const int at = min(first, a.dim_k - 4);
        const float4 four = *reinterpret_cast<const float4*>(row + at * 4);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
      });
    } else if (a.q_dtype == MICA_F32) {
      each([&](const char* row, int first, float* to) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          to[i] = reinterpret_cast<const float*>(row)[min(first + i, a.dim_k - 1)];
      });
    } else {
      each([&](const char* row, int first, float* to) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i] = float_at(a.q_dtype, row, min(first + i, a.dim_k - 1));
      });
    }
  }
  __device__ void clear_unreal(const AttentionArgs& a, const Item& item) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < kBlocks; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int at = block(j) * 32 + Cells::run_of(lane, i / 4) + i % 4;
          if (lane / 4 + 8 * half >= item.n_rows || at >= a.dim_k) x[half][j][i] = 0;
        }
  }

  // To shared memory, each row scaled by a power of two to at most 2^10.
  __device__ void store(const AttentionArgs& a, const Item& item, DecodeState<Cells::kDim>& s,
                        DecodeShared<Cells::kDim>& shared) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    clear_unreal(a, item);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
#pragma unroll
      for (int j = 0; j < kBlocks; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[half][j][i]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      if (lane % 4 == 0) shared.q_largest[threadIdx.x / 32][lane / 4 + 8 * half] = largest;
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w)
        largest = fmaxf(largest, shared.q_largest[w][lane / 4 + 8 * half]);
      int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
      if (exponent == 128 || largest == 0.0f) exponent = 9;
      exponent = max(exponent, -100);
      const float up = __uint_as_float(static_cast<uint32_t>(127 + 9 - exponent) << 23);
      const float down = __uint_as_float(static_cast<uint32_t>(127 - 9 + exponent) << 23);
      s.q_factor[half] = a.op.scale * down;
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        if (block(j) >= Cells::kDim / 32) break;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int first = Cells::kSwapped ? i / 2 * 4 + i % 2 : 2 * i;
          const int second = Cells::kSwapped ? first + 2 : first + 1;
          uint32_t parts[2];
          split_two(x[half][j][first] * up, x[half][j][second] * up, parts[0], parts[1]);
#pragma unroll
          for (int part = 0; part < 2; ++part) {
            uint4& to = shared.queries.parts[part][2 * block(j) + i / 2][lane];
            reinterpret_cast<uint32_t*>(&to)[i % 2 * 2 + half] = parts[part];
          }
        }
      }
    }
    __syncthreads();
  }
};

// Products to weights times 2^12, and what was summed before to the new maximum.
template <int kDim>
__device__ void unit_softmax(const AttentionArgs& a, const Entry& e, int cell0,
                             DecodeState<kDim>& s, float (&p)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[n][i] *= s.q_factor[i / 2];
  if (a.op.softcap > 0) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] = a.op.softcap * tanhf(p[n][i] / a.op.softcap);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Seen seen = seen_cells(a, e, s.position[half]);
    float top = -infinity();
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = p[n][2 * half + i];
        const int cell = cell0 + n * 8 + lane % 4 * 2 + i - e.first_cell;
        if (cell < 0 || !seen.has(cell)) x = -infinity();
        top = fmaxf(top, x);
      }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float before = s.largest[half];
    top = fmaxf(top, before);
    const float shift = top == -infinity() ? 0.0f : top;
    s.largest[half] = top;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = p[n][2 * half + i];
        x = exp2_fast(fmaf(x - shift, kLog2E, kWeightShift));
        sum += x;
      }
    const float less = exp2_fast((before - shift) * kLog2E);
    s.denominator[half] = s.denominator[half] * less + sum;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      s.sums[j][2 * half] *= less;
      s.sums[j][2 * half + 1] *= less;
    }
  }
}

// A unit's part of its entry, as an entry.
template <int kDim>
__device__ Entry unit_entry(const DecodeShared<kDim>& shared, int32_t unit) {
  Entry e = shared.entries[unit / kPageUnits];
  const int32_t begin = max(e.first_cell, unit % kPageUnits * kUnitCells);
  const int32_t end = min(e.first_cell + e.n_cells, (unit % kPageUnits + 1) * kUnitCells);
  e.base += begin - e.first_cell;
  e.first_cell = begin;
  e.n_cells = max(0, end - begin);
  return e;
}

// This thread's of the item's entries first …; without cells when there is none.
__device__ inline Entry decode_entry(const Table& t, const Item& item, int32_t first) {
  const int32_t i = first + static_cast<int32_t>(threadIdx.x);
  if (i >= item.entries.end) return {0, 0, 0, 0, 1};
  return raw_entry(t, i);
}

// The threads' entries to shared memory, without cells when no row sees them. Returns how many
// units those first … are.
template <int kDim>
__device__ int32_t decode_entries(const AttentionArgs& a, const Item& item, int32_t first,
                                  Entry entry, int32_t low, int32_t high,
                                  DecodeShared<kDim>& shared) {
  entry = checked_entry(a, entry);
  if (!any_sees(a, entry, low, high)) entry.n_cells = 0;
  shared.entries[threadIdx.x] = entry;
  __syncthreads();
  return min(item.entries.end - first, kDecodeThreads) * kPageUnits;
}

// Positions of this thread's rows; the smallest and largest of all to `low` and `high`.
template <int kDim>
__device__ void decode_positions(const AttentionArgs& a, const Item& item, DecodeState<kDim>& s,
                                 int32_t& low, int32_t& high) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  low = INT32_MAX;
  high = INT32_MIN;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(lane / 4 + 8 * half, item.n_rows - 1);
    s.position[half] = reinterpret_cast<const int32_t*>(a.positions)[row_token(a, item, row)];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    low = min(low, s.position[half]), high = max(high, s.position[half]);
    if (lane / 4 + 8 * half >= item.n_rows) s.position[half] = INT32_MIN;
  }
  for (int offset = 4; offset < 32; offset *= 2) {
    low = min(low, __shfl_xor_sync(0xffffffffu, low, offset));
    high = max(high, __shfl_xor_sync(0xffffffffu, high, offset));
  }
}

template <class Cells>
__device__ void decode_cells(const AttentionArgs& a, const Table& t, const Item& item,
                             DecodeShared<Cells::kDim>& shared, DecodeState<Cells::kDim>& s) {
  QueryPart<Cells> query;
  query.load(a, item);
  int32_t first = item.entries.begin;
  const Entry entry = decode_entry(t, item, first);
  int32_t low, high;
  decode_positions(a, item, s, low, high);
  int32_t n_units = decode_entries(a, item, first, entry, low, high, shared);
  int32_t unit = static_cast<int32_t>(threadIdx.x / 32);
  typename Cells::K k;
  typename Cells::V v;
  const auto load_k = [&](int32_t i) {
    if (i >= n_units) return;
    const Entry e = unit_entry(shared, i);
    const int cell0 = i % kPageUnits * kUnitCells;
    if (e.n_cells > 0) Cells::load_k(a, k_head(a, e, item.kv_head), cell0, k);
  };
  const auto load_v = [&](int32_t i) {
    if (i >= n_units) return;
    const Entry e = unit_entry(shared, i);
    const int cell0 = i % kPageUnits * kUnitCells;
    if (e.n_cells > 0) Cells::load_v(a, v_head(a, e, item.kv_head), e, cell0, v);
  };
  load_k(unit);
  load_v(unit);
  query.store(a, item, s, shared);
#pragma unroll
  for (int half = 0; half < 2; ++half) s.largest[half] = -infinity(), s.denominator[half] = 0;
#pragma unroll
  for (int j = 0; j < Cells::kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) s.sums[j][i] = 0;
  for (;;) {
#pragma unroll 1
    for (; unit < n_units; unit += kDecodeWarps) {
      const bool seen = unit_entry(shared, unit).n_cells > 0;
      float p[2][4];
      if (seen) Cells::scores(k, shared.queries, p);
      load_k(unit + kDecodeWarps);
      if (seen) {
        unit_softmax(a, unit_entry(shared, unit), unit % kPageUnits * kUnitCells, s, p);
        Cells::values(v, p, s.sums);
      }
      load_v(unit + kDecodeWarps);
    }
    first += kDecodeThreads;
    if (first >= item.entries.end) break;
    __syncthreads();
    n_units = decode_entries(a, item, first, decode_entry(t, item, first), low, high, shared);
    unit = static_cast<int32_t>(threadIdx.x / 32);
    load_k(unit);
    load_v(unit);
  }
}

template <class Cells>
__device__ void decode_keep(const DecodeState<Cells::kDim>& s, DecodeShared<Cells::kDim>& shared) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float denominator = s.denominator[half];
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 1);
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 2);
    if (lane % 4 == 0) {
      shared.largest[warp][row] = s.largest[half];
      shared.denominator[warp][row] = denominator * kWeightUnit;
    }
#pragma unroll
    for (int j = 0; j < Cells::kDim / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        shared.sums[warp][row][Cells::dimension(j, lane % 4 * 2 + i)] =
            s.sums[j][2 * half + i] * kWeightUnit;
  }
}

// The warps' parts of a row, in order, to its result or to the chunk's part.
template <int kDim>
__device__ void decode_merge(const AttentionArgs& a, const Item& item, int32_t i_item,
                             const DecodeShared<kDim>& shared) {
  float* const slot =
      reinterpret_cast<float*>(a.parts) + int64_t{i_item} * a.tile_rows * (a.dim_v_pad + 2);
  for (int i = static_cast<int>(threadIdx.x); i < item.n_rows * kDim; i += kDecodeThreads) {
    const int row = i / kDim;
    const int d = i % kDim;
    float top = -infinity();
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) top = fmaxf(top, shared.largest[w][row]);
    const float shift = top == -infinity() ? 0.0f : top;
    float sum = 0;
    float denominator = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float less = exp2_fast((shared.largest[w][row] - shift) * kLog2E);
      sum += shared.sums[w][row][d] * less;
      denominator += shared.denominator[w][row] * less;
    }
    if (item.n_chunks == 1) {
      const int32_t head = row_head(a, item, row);
      const float factor = row_factor(a, head, top, denominator);
      if (d < a.dim_v) out_row(a, row_token(a, item, row), head)[d] = sum * factor;
      continue;
    }
    if (d < a.dim_v) slot[row * a.dim_v_pad + d] = sum;
    if (d == 0) {
      slot[a.tile_rows * a.dim_v_pad + row] = top;
      slot[a.tile_rows * (a.dim_v_pad + 1) + row] = denominator;
    }
  }
}

template <class Cells>
__global__ void __launch_bounds__(kDecodeThreads, Cells::kDim <= 128 ? 3 : 1)
    attention_decode_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(16) char dynamic[];
  auto& shared = *reinterpret_cast<DecodeShared<Cells::kDim>*>(dynamic);
  wait_for_inputs();
  start_next();
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < cut.n_items;
       i += static_cast<int32_t>(gridDim.x)) {
    Item item;
    if (!find_item(a, t, cut, i, item)) continue;
    DecodeState<Cells::kDim> s;
    decode_cells<Cells>(a, t, item, shared, s);
    decode_keep<Cells>(s, shared);
    __syncthreads();
    decode_merge(a, item, i, shared);
    __syncthreads();
  }
}
#endif

}  // namespace mica::cuda
