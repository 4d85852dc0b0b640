// Attention by tiles of 64 query rows against 64 cells in shared memory, with an online softmax
// (Milakov and Gimelshein, arXiv 1805.02867) and tensor-core products in the manner of
// FlashAttention-2 (Dao, arXiv 2307.08691). What differs by how products are made is a class:
// PartsF16 and PartsF32.
#pragma once
#include "backends/cuda/kernels/attention_parts.cuh"

namespace mica::cuda {

#ifdef __CUDACC__

// Products to scores: scale, cap, mask, and -infinity where the row sees nothing.
__device__ inline void finish_scores(const AttentionArgs& a, const Item& item, const TileEntry& te,
                                     const TileLists& lists, const int32_t (&position)[2],
                                     float (&s)[8][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row0 = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;
  const Entry& e = te.entry;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = row0 + 8 * half;
    const float factor = lists.q_factor[row];
    Seen seen = seen_cells(a, e, position[half]);
    const bool real = row < item.n_rows;
    if (!real) seen = {0, 0, 0};
    const bool all = seen.begin <= 0 && seen.end >= kPageCells;
    const int32_t token = real ? row_token(a, item, row) : 0;
    const int32_t head = real ? row_head(a, item, row) : 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[j][2 * half + i];
        x *= factor;
        if (a.op.softcap > 0) x = a.op.softcap * tanhf(x / a.op.softcap);
        const int cell = j * 8 + lane % 4 * 2 + i - e.first_cell;
        const bool visible = all || (cell >= 0 && seen.has(cell));
        if (a.mask != 0 && visible) x += mask_at(a, token, head, int64_t{te.column} + cell);
        if (!visible) x = -infinity();
      }
  }
}

// Scores to weights times 2^12, and what was summed before to the new maximum.
template <int kDim>
__device__ void tile_softmax(TileState<kDim>& state, float (&s)[8][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = -infinity();
#pragma unroll
    for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top, state.largest[half]);
    // Nothing but -infinity so far: weights must be 0.
    const float shift = top == -infinity() ? 0.0f : top;
    const float less = exp2_fast((state.largest[half] - shift) * kLog2E);
    state.largest[half] = top;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[j][2 * half + i];
        x = exp2_fast(fmaf(x - shift, kLog2E, kWeightShift));
        sum += x;
      }
    state.denominator[half] = state.denominator[half] * less + sum;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      state.sums[j][2 * half] *= less;
      state.sums[j][2 * half + 1] *= less;
    }
  }
}

// Writes results, or of one chunk of several its part.
template <int kDim>
__device__ void tile_finish(const AttentionArgs& a, const Item& item, int32_t i_item,
                            TileState<kDim>& state) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row0 = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float denominator = state.denominator[half];
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 1);
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 2);
    denominator *= kWeightUnit;
    const int row = row0 + 8 * half;
    if (row >= item.n_rows) continue;
    float factor = kWeightUnit;
    float* to;
    if (item.n_chunks == 1) {
      const int32_t head = row_head(a, item, row);
      to = out_row(a, row_token(a, item, row), head);
      factor *= row_factor(a, head, state.largest[half], denominator);
    } else {
      float* slot =
          reinterpret_cast<float*>(a.parts) + int64_t{i_item} * a.tile_rows * (a.dim_v_pad + 2);
      to = slot + row * a.dim_v_pad;
      if (lane % 4 == 0) {
        slot[a.tile_rows * a.dim_v_pad + row] = state.largest[half];
        slot[a.tile_rows * (a.dim_v_pad + 1) + row] = denominator;
      }
    }
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int d = j * 8 + lane % 4 * 2 + i;
        if (d < a.dim_v) to[d] = state.sums[j][2 * half + i] * factor;
      }
  }
}

// This thread's entry of a batch, compacted with the others' that are seen. Returns how many are.
__device__ inline int32_t list_entries(const AttentionArgs& a, const Table& t, int32_t first,
                                       int32_t end, int32_t low, int32_t high, int32_t& column,
                                       TileLists& lists) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int32_t i = first + static_cast<int32_t>(threadIdx.x);
  Entry e = {0, 0, 0, 0, 1};
  if (i < end) e = table_entry(a, t, i);
  const bool seen = any_sees(a, e, low, high);
  const unsigned hits = __ballot_sync(0xffffffffu, seen);
  int32_t cells = e.n_cells;  // up to and with this lane
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t other = __shfl_up_sync(0xffffffffu, cells, offset);
    if (lane >= offset) cells += other;
  }
  __syncthreads();
  if (lane == 31) {
    lists.counts[warp] = __popc(hits);
    lists.cells[warp] = cells;
  }
  __syncthreads();
  int32_t place = __popc(hits & ((1u << lane) - 1u));
  int32_t before = column;
  int32_t n = 0;
  for (int w = 0; w < kTileThreads / 32; ++w) {
    if (w < warp) place += lists.counts[w], before += lists.cells[w];
    n += lists.counts[w];
    column += lists.cells[w];
  }
  if (seen) lists.entries[place] = {e, before + cells - e.n_cells};
  __syncthreads();
  return n;
}

template <class Parts>
__device__ void run_list(const AttentionArgs& a, const Item& item, int32_t n, const Parts& parts,
                         TileLists& lists, const int32_t (&position)[2],
                         TileState<Parts::kDim>& state) {
  const bool busy = static_cast<int>(threadIdx.x / 32) * 16 < item.n_rows;
  const auto load_k = [&](int32_t i) {
    const Entry& e = lists.entries[i].entry;
    if (i < n) parts.load_k(a.k, k_head(a, e, item.kv_head), e, (a.dim_k + 15) / 16 * 16);
    commit_copies();
  };
  const auto load_v = [&](int32_t i) {
    const Entry& e = lists.entries[i].entry;
    if (i < n) parts.load_v(a.v, v_head(a, e, item.kv_head), e, a.dim_v_pad);
    commit_copies();
  };
  load_k(0);
  load_v(0);
  for (int32_t i = 0; i < n; ++i) {
    float s[8][4];
    wait_copies<1>();
    __syncthreads();
    if (busy) parts.scores(a, s);
    __syncthreads();
    load_k(i + 1);
    if (busy) {
      finish_scores(a, item, lists.entries[i], lists, position, s);
      tile_softmax(state, s);
    }
    wait_copies<1>();
    __syncthreads();
    if (busy) parts.values(a, s, state);
    __syncthreads();
    load_v(i + 1);
  }
  wait_copies<0>();
}

template <class Parts>
__device__ void run_item(const AttentionArgs& a, const Table& t, int32_t i_item, const Item& item,
                         const Parts& parts, TileLists& lists) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row0 = static_cast<int>(threadIdx.x / 32) * 16 + lane / 4;
  const auto* positions = reinterpret_cast<const int32_t*>(a.positions);
  parts.load_queries(a, item, lists);
  int32_t low = INT32_MAX;
  int32_t high = INT32_MIN;
  if (static_cast<int>(threadIdx.x) < item.n_rows)
    low = high = positions[row_token(a, item, static_cast<int32_t>(threadIdx.x))];
  auto* scratch = reinterpret_cast<int32_t*>(lists.scratch);
  low = reduce_block(low, scratch, [](int32_t x, int32_t y) { return min(x, y); });
  high = reduce_block(high, scratch, [](int32_t x, int32_t y) { return max(x, y); });
  int32_t position[2];
  for (int half = 0; half < 2; ++half)
    position[half] =
        row0 + 8 * half < item.n_rows ? positions[row_token(a, item, row0 + 8 * half)] : 0;
  int32_t column = 0;
  if (a.mask != 0 && item.entries.begin > item.first_entry) {
    for (int32_t i = item.first_entry + static_cast<int32_t>(threadIdx.x); i < item.entries.begin;
         i += kTileThreads)
      column += table_entry(a, t, i).n_cells;
    column = reduce_block(column, scratch, [](int32_t x, int32_t y) { return x + y; });
  }
  constexpr int kDim = Parts::kDim;
  TileState<kDim> state;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sums[j][i] = 0;
  for (int half = 0; half < 2; ++half)
    state.largest[half] = -infinity(), state.denominator[half] = 0;
  for (int32_t first = item.entries.begin; first < item.entries.end; first += kTileThreads) {
    const int32_t n = list_entries(a, t, first, item.entries.end, low, high, column, lists);
    if (n > 0) run_list(a, item, n, parts, lists, position, state);
  }
  tile_finish(a, item, i_item, state);
  __syncthreads();
}

template <class Parts>
__global__ void __launch_bounds__(kTileThreads, Parts::kDim <= 128 ? 2 : 1)
    attention_tile_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(16) char dynamic[];
  __shared__ TileLists lists;
  wait_for_inputs();
  start_next();
  const Parts parts(dynamic);
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < cut.n_items;
       i += static_cast<int32_t>(gridDim.x)) {
    Item item;
    if (find_item(a, t, cut, i, item)) run_item(a, t, i, item, parts, lists);
  }
}
#endif

}  // namespace mica::cuda
