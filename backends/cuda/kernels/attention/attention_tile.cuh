// Attention by tiles of 64 query rows against 64 cells in shared memory, with an online softmax
// (Milakov and Gimelshein, arXiv 1805.02867) and tensor-core products in the manner of
// FlashAttention-2 (Dao, arXiv 2307.08691). What differs by how products are made is a class:
// PartsF16 and PartsF32.
#pragma once
#include "backends/cuda/kernels/attention/attention_merge.cuh"
#include "backends/cuda/kernels/attention/attention_parts.cuh"

namespace mica::cuda {

#ifdef __CUDACC__

// The thread's rows of the tile, and what they see of the page.
struct TileRows {
  int32_t row[2], position[2];
  bool real[2];
};
__device__ inline Seen row_seen(const AttentionArgs& a, const TileRows& rows, int half,
                                const Entry& e) {
  return rows.real[half] ? seen_cells(a, e, rows.position[half]) : Seen{0, 0, 0};
}

// Products to scores where there is a cap or a mask. Apart, so that its registers are.
__device__ __noinline__ void special_scores(const AttentionArgs& a, const Item& item,
                                            const TileEntry& te, const TileRows& rows,
                                            const float (&factor)[2], float (&s)[8][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) s[j][2 * half + i] *= factor[half];
    if (a.op.softcap > 0) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          s[j][2 * half + i] = a.op.softcap * tanhf(s[j][2 * half + i] / a.op.softcap);
    }
    if (a.mask == 0 || !rows.real[half]) continue;
    const Seen seen = row_seen(a, rows, half, te.entry);
    const int32_t token = row_token(a, item, rows.row[half]);
    const int32_t head = row_head(a, item, rows.row[half]);
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int cell = j * 8 + lane % 4 * 2 + i - te.entry.first_cell;
        if (cell < 0 || !seen.has(cell)) continue;
        const float bias = mask_at(a, token, head, int64_t{te.column} + cell);
        float& x = s[j][2 * half + i];
        x = bias == -infinity() ? bias : x + bias;  // a hidden cell's score may be anything
      }
  }
}

// Products to scores over `unit`, which is what makes them powers of 2; -infinity where the row
// sees nothing.
__device__ inline void finish_scores(const AttentionArgs& a, const Item& item, const TileEntry& te,
                                     const TileLists& lists, const TileRows& rows, float (&s)[8][4],
                                     float (&unit)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float factor[2] = {lists.q_factor[rows.row[0]], lists.q_factor[rows.row[1]]};
  const bool special = a.op.softcap > 0 || a.mask != 0;
  if (special) {
    float copy[8][4];
#pragma unroll
    for (int i = 0; i < 32; ++i) copy[i / 4][i % 4] = s[i / 4][i % 4];
    special_scores(a, item, te, rows, factor, copy);
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i / 4][i % 4] = copy[i / 4][i % 4];
  }
  for (int half = 0; half < 2; ++half) unit[half] = special ? kLog2E : factor[half] * kLog2E;
  if (te.full) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Seen seen = row_seen(a, rows, half, te.entry);
    const int first = lane % 4 * 2 - te.entry.first_cell;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int cell = j * 8 + i + first;
        const bool visible =
            (cell >= 0) & (cell < seen.end) & ((cell >= seen.begin) | (cell < seen.first_end));
        if (!visible) s[j][2 * half + i] = -infinity();
      }
  }
}

// Scores to weights times 2^12, and what was summed before to the new maximum.
template <int kDim>
__device__ void tile_softmax(TileState<kDim>& state, const float (&unit)[2], float (&s)[8][4]) {
  float less[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = -infinity();
#pragma unroll
    for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top * unit[half], state.largest[half]);
    // Nothing but -infinity so far: weights must be 0.
    const float shift = top == -infinity() ? 0.0f : top;
    less[half] = exp2_fast(state.largest[half] - shift);
    state.largest[half] = top;
    const float bias = kWeightShift - shift;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[j][2 * half + i];
        x = exp2_fast(fmaf(x, unit[half], bias));
        sum += x;
      }
    state.denominator[half] = state.denominator[half] * less[half] + sum;
  }
  // Mostly no row has a new maximum.
  if (__all_sync(0xffffffffu, less[0] == 1.0f && less[1] == 1.0f)) return;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sums[j][i] *= less[i / 2];
}

// What clear_values() took from the products, to the sums of the rows that see it. Apart, so that
// its registers are.
template <int kDim>
__device__ __noinline__ void add_apart(const AttentionArgs& a, const Item& item,
                                       const TileEntry& te, const TileRows& rows,
                                       const float (&s)[8][4], float (&sums)[kDim / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Entry& e = te.entry;
  const char* head = v_head(a, e, item.kv_head);
  const Seen seen[2] = {row_seen(a, rows, 0, e), row_seen(a, rows, 1, e)};
  for (int i_cell = 0; i_cell < e.n_cells; ++i_cell) {
    const int cell = e.first_cell + i_cell;
    float w[2];
    bool sees[2];
    for (int half = 0; half < 2; ++half) {
      w[half] =
          __shfl_sync(0xffffffffu, s[cell / 8][2 * half + cell % 2], lane / 4 * 4 + cell % 8 / 2);
      sees[half] = seen[half].has(i_cell);
      if (sees[half] && a.mask != 0)
        sees[half] =
            mask_at(a, row_token(a, item, rows.row[half]), row_head(a, item, rows.row[half]),
                    int64_t{te.column} + i_cell) != -infinity();
    }
    if (!sees[0] && !sees[1]) continue;
    for (int j = 0; j < kDim / 8; ++j)
      for (int i = 0; i < 2; ++i) {
        const int d = j * 8 + lane % 4 * 2 + i;
        if (d >= a.dim_v) continue;
        const float x =
            kv_element(a.v, head, static_cast<uint32_t>(cell), static_cast<uint32_t>(d));
        if (!is_apart(x)) continue;
        for (int half = 0; half < 2; ++half)
          if (sees[half]) sums[j][2 * half + i] += w[half] * x;
      }
  }
}

// Writes results, or of one chunk of several its part.
template <int kDim>
__device__ void tile_finish(const AttentionArgs& a, const Item& item, int32_t i_item,
                            const TileRows& rows, TileState<kDim>& state) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float denominator = state.denominator[half];
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 1);
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 2);
    denominator *= kWeightUnit;
    if (!rows.real[half]) continue;
    const int row = rows.row[half];
    const float largest = state.largest[half] * kLn2;
    float factor = kWeightUnit;
    float* to;
    if (item.n_chunks == 1) {
      const int32_t head = row_head(a, item, row);
      to = out_row(a, row_token(a, item, row), head);
      factor *= row_factor(a, head, largest, denominator);
    } else {
      float* slot = part_of(a, i_item);
      to = slot + row * a.dim_v_pad;
      if (lane % 4 == 0) {
        slot[a.tile_rows * a.dim_v_pad + row] = largest;
        slot[a.tile_rows * (a.dim_v_pad + 1) + row] = denominator;
      }
    }
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const int d = j * 8 + lane % 4 * 2;
      const float2 two = {state.sums[j][2 * half] * factor, state.sums[j][2 * half + 1] * factor};
      if (a.out_wide && d < a.dim_v) {
        *reinterpret_cast<float2*>(to + d) = two;
      } else {
        if (d < a.dim_v) to[d] = two.x;
        if (d + 1 < a.dim_v) to[d + 1] = two.y;
      }
    }
  }
}

// What a tile whose positions are low … high sees of an entry.
__device__ inline TileEntry tile_entry(const AttentionArgs& a, const Entry& e, int32_t low,
                                       int32_t high, int32_t column) {
  TileEntry te = {e, column, 0, false};
  const Seen lowest = seen_cells(a, e, low);
  const Seen highest = seen_cells(a, e, high);
  te.groups = (e.first_cell + highest.end + 15) / 16;
  te.full = e.n_cells == kPageCells && lowest.end == kPageCells && highest.begin == 0;
  return te;
}

// This thread's entry of a batch, compacted with the others' that are seen, of `first` … `end` or
// up to where the queries' turn changes: `next`. Returns how many are.
template <bool kUnrotated>
__device__ inline int32_t list_entries(const AttentionArgs& a, const Table& t, int32_t first,
                                       int32_t end, int32_t low, int32_t high, int32_t& column,
                                       int32_t& next, TileLists& lists) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int32_t i = first + static_cast<int32_t>(threadIdx.x);
  constexpr Entry kNone = {0, 0, 0, 0, 1, 0};
  Entry e = kNone;
  if (i < end) e = table_entry(a, t, i);
  next = first + kTileThreads;
  if (!kUnrotated && a.n_turns > 0) {
    next = first + same_turn<kTileThreads / 32>(a, t, first, end - first, e.turn, lists.counts);
    if (i >= next) e = kNone;
  }
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
  if (seen) lists.entries[place] = tile_entry(a, e, low, high, before + cells - e.n_cells);
  __syncthreads();
  return n;
}

// The rows as they meet the cells of a turn. Apart, so that its registers are.
template <class Parts>
__device__ __noinline__ void turn_queries(const AttentionArgs& a, const Item& item,
                                          const Parts& parts, int32_t turn, TileLists& lists) {
  parts.load_queries(a, item, turn, lists);
}

// The listed pages; the queries, if those in shared memory are of another turn than the list's,
// after the first is on its way. With two stages a page is on its way while the one before is
// computed; with one, V while scores are and K while values are.
template <class Parts>
__device__ void run_list(const AttentionArgs& a, const Item& item, int32_t n, const Parts& parts,
                         TileLists& lists, const TileRows& rows, int32_t& loaded_turn,
                         TileState<Parts::kDim>& state) {
  const bool busy = static_cast<int>(threadIdx.x / 32) * 16 < item.n_rows;
  constexpr bool kTwo = Parts::kStages == 2;
  const auto load_k = [&](int32_t i) {
    const Entry& e = lists.entries[i].entry;
    if (i < n) parts.load_k(a, k_head(a, e, item.kv_head), e, kTwo ? i % 2 : 0);
    commit_copies();
  };
  const auto load_v = [&](int32_t i) {
    const Entry& e = lists.entries[i].entry;
    if (i < n) parts.load_v(a, v_head(a, e, item.kv_head), e, kTwo ? i % 2 : 0);
    commit_copies();
  };
  load_k(0);
  load_v(0);
  const int32_t turn = Parts::kUnrotated ? 0 : lists.entries[0].entry.turn;
  if (turn != loaded_turn && turn == 0) parts.load_queries(a, item, 0, lists);
  if (turn != loaded_turn && turn != 0) turn_queries(a, item, parts, turn, lists);
  loaded_turn = turn;
  for (int32_t i = 0; i < n; ++i) {
    const int stage = kTwo ? i % 2 : 0;
    const int groups = lists.entries[i].groups;
    float s[8][4];
    float unit[2];
    wait_copies<1>();
    __syncthreads();
    if (kTwo) load_k(i + 1);
    if constexpr (Parts::kUnrotated) {
      parts.rotate_keys(a, lists.entries[i].entry, stage, groups);
      __syncthreads();
    }
    if (busy) parts.scores(a, stage, groups, s);
    if (!kTwo) __syncthreads();
    if (!kTwo) load_k(i + 1);
    if (busy) {
      finish_scores(a, item, lists.entries[i], lists, rows, s, unit);
      tile_softmax(state, unit, s);
    }
    wait_copies<1>();
    __syncthreads();
    const bool hides = a.mask != 0 || !lists.entries[i].full;
    if (hides && __syncthreads_or(parts.clear_values(a, stage)) != 0 && busy) {
      constexpr int kSums = Parts::kDim / 2;
      float weights[8][4], sums[Parts::kDim / 8][4];
#pragma unroll
      for (int j = 0; j < 32; ++j) weights[j / 4][j % 4] = s[j / 4][j % 4];
#pragma unroll
      for (int j = 0; j < kSums; ++j) sums[j / 4][j % 4] = state.sums[j / 4][j % 4];
      add_apart<Parts::kDim>(a, item, lists.entries[i], rows, weights, sums);
#pragma unroll
      for (int j = 0; j < kSums; ++j) state.sums[j / 4][j % 4] = sums[j / 4][j % 4];
    }
    if (kTwo) load_v(i + 1);
    if (busy) parts.values(a, stage, groups, s, state);
    if (!kTwo) __syncthreads();
    if (!kTwo) load_v(i + 1);
  }
  wait_copies<0>();
}

// Positions of the tile's rows, the smallest and the largest.
__device__ inline Range tile_positions(const AttentionArgs& a, const Item& item, TileLists& lists) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  int32_t low = INT32_MAX;
  int32_t high = INT32_MIN;
  if (thread < item.n_rows)
    low = high = reinterpret_cast<const int32_t*>(a.positions)[row_token(a, item, thread)];
  auto* scratch = reinterpret_cast<int32_t*>(lists.scratch);
  low = reduce_block(low, scratch, [](int32_t x, int32_t y) { return min(x, y); });
  high = reduce_block(high, scratch, [](int32_t x, int32_t y) { return max(x, y); });
  return {low, high};
}

__device__ inline TileRows tile_rows(const AttentionArgs& a, const Item& item) {
  TileRows rows;
  for (int half = 0; half < 2; ++half) {
    const auto row = static_cast<int32_t>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4) + 8 * half;
    rows.row[half] = row;
    rows.real[half] = row < item.n_rows;
    rows.position[half] =
        rows.real[half] ? reinterpret_cast<const int32_t*>(a.positions)[row_token(a, item, row)]
                        : 0;
  }
  return rows;
}

template <class Parts>
__device__ void run_item(const AttentionArgs& a, const Table& t, int32_t i_item, const Item& item,
                         const Parts& parts, TileLists& lists) {
  const Range positions = tile_positions(a, item, lists);
  const TileRows rows = tile_rows(a, item);
  const Range entries = {item.first_entry + item.units.begin, item.first_entry + item.units.end};
  int32_t column = 0;
  if (a.mask != 0 && item.units.begin > 0) {
    for (int32_t i = item.first_entry + static_cast<int32_t>(threadIdx.x); i < entries.begin;
         i += kTileThreads)
      column += table_entry(a, t, i).n_cells;
    column = reduce_block(column, reinterpret_cast<int32_t*>(lists.scratch),
                          [](int32_t x, int32_t y) { return x + y; });
  }
  constexpr int kDim = Parts::kDim;
  TileState<kDim> state;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sums[j][i] = 0;
  for (int half = 0; half < 2; ++half)
    state.largest[half] = -infinity(), state.denominator[half] = 0;
  int32_t loaded_turn = -1;  // of the queries in shared memory
  for (int32_t first = entries.begin, next = 0; first < entries.end; first = next) {
    const int32_t n = list_entries<Parts::kUnrotated>(a, t, first, entries.end, positions.begin,
                                                      positions.end, column, next, lists);
    wait_for_inputs();
    if (n > 0) run_list(a, item, n, parts, lists, rows, loaded_turn, state);
  }
  wait_for_inputs();
  tile_finish(a, item, i_item, rows, state);
  if (item.n_chunks > 1 && is_last_chunk(a, item, &lists.is_last))
    merge_chunks<kTileThreads>(a, item, *reinterpret_cast<MergeRoom*>(parts.base));
  __syncthreads();
}

// Items come longest first. Every second round of the multiprocessors takes them from its end, so
// that blocks which share one get a long and a short one.
__device__ inline int32_t item_in_turn(int32_t i, int32_t n_items, int32_t round) {
  const int32_t first = i / round * round;
  if (i / round % 2 == 0) return i;
  return first + min(round, n_items - first) - 1 - (i - first);
}

template <class Parts>
constexpr int tile_blocks() {
  return Parts::kDim > 128 ? 1 : Parts::kDim > 64 || Parts::kStages == 1 ? 2 : 3;
}

template <class Parts>
__global__ void __launch_bounds__(kTileThreads, tile_blocks<Parts>())
    attention_tile_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(16) char dynamic[];
  __shared__ TileLists lists;
  if (!a.constant) wait_for_inputs();
  warm_inputs(a);
  start_next();
  const Parts parts(dynamic);
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < cut.n_items;
       i += static_cast<int32_t>(gridDim.x)) {
    Item item;
    const int32_t i_item = item_in_turn(i, cut.n_items, a.target_items / 2);
    if (find_item(a, t, cut, i_item, item)) run_item(a, t, i_item, item, parts, lists);
  }
  if (blockIdx.x == 0) wait_for_inputs();
  clear_unnamed(a, t);
}
#endif

}  // namespace mica::cuda
