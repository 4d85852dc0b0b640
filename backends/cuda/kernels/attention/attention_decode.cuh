// Attention of few query rows: each warp takes 16 cells at a time straight from global memory to
// tensor-core operands (attention_cells.cuh), the next ones on their way while it computes, later
// ones on their way to the L2 cache; the warps of a block merge at the end.
#pragma once
#include "backends/cuda/kernels/attention/attention_slots.cuh"

namespace mica::cuda {

#ifdef __CUDACC__

// Sees every row all cells of a whole unit? (Rows that are not there see what they like.)
template <int kDim>
__device__ bool sees_all(const AttentionArgs& a, const Entry& e, const DecodeState<kDim>& s) {
  if (e.n_cells != kUnitCells) return false;
  if (a.op.causal != 0 && int64_t{e.base} + kUnitCells > (int64_t{s.low} + 1) * e.div) return false;
  return a.op.window == 0 || e.base >= (int64_t{s.high} - a.op.window + 1) * e.div;
}

// Products to weights times 2^12, and what was summed before to the new maximum. `e`: the unit's
// part of its entry, in the unit's cells from cell0 on. False: every row sees all cells.
template <int kDim>
__device__ bool unit_softmax(const AttentionArgs& a, const Entry& e, int cell0,
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
  const bool hides = !sees_all(a, e, s);
  if (hides) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Seen seen = seen_cells(a, e, s.position[half]);
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int cell = cell0 + n * 8 + lane % 4 * 2 + i - e.first_cell;
          if (cell < 0 || !seen.has(cell)) p[n][2 * half + i] = -infinity();
        }
    }
  }
  float less[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top =
        fmaxf(fmaxf(p[0][2 * half], p[0][2 * half + 1]), fmaxf(p[1][2 * half], p[1][2 * half + 1]));
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
    less[half] = exp2_fast((before - shift) * kLog2E);
    s.denominator[half] = s.denominator[half] * less[half] + sum;
  }
  // Mostly no row has a new maximum.
  if (__all_sync(0xffffffffu, less[0] == 1.0f && less[1] == 1.0f)) return hides;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) s.sums[j][i] *= less[i / 2];
  return hides;
}

// What clear_values() took from the products, to the sums of the rows that see it. Apart, so that
// its registers are.
template <class Cells>
__device__ __noinline__ void add_apart(const AttentionArgs& a, const Entry& e, const char* head,
                                       int cell0, const int32_t (&position)[2],
                                       const float (&p)[2][4], float (&sums)[Cells::kDim / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Seen seen[2] = {seen_cells(a, e, position[0]), seen_cells(a, e, position[1])};
  for (int i_cell = 0; i_cell < e.n_cells; ++i_cell) {
    const int cell = e.first_cell + i_cell;
    const int at = cell - cell0;
    float w[2];
    for (int half = 0; half < 2; ++half)
      w[half] = __shfl_sync(0xffffffffu, p[at / 8][2 * half + at % 2], lane / 4 * 4 + at % 8 / 2);
    for (int j = 0; j < Cells::kDim / 8; ++j)
      for (int i = 0; i < 2; ++i) {
        const int d = Cells::dimension(j, lane % 4 * 2 + i);
        if (d >= a.dim_v) continue;
        const float x =
            kv_element(a.v, head, static_cast<uint32_t>(cell), static_cast<uint32_t>(d));
        if (!is_apart(x)) continue;
        for (int half = 0; half < 2; ++half)
          if (seen[half].has(i_cell)) sums[j][2 * half + i] += w[half] * x;
      }
  }
}

// A unit's part of its entry, as an entry. Units are counted from the first entry in `shared`.
__device__ inline Entry unit_entry(const Entry* entries, int32_t unit) {
  Entry e = entries[unit / kPageUnits];
  const int32_t begin = max(e.first_cell, unit % kPageUnits * kUnitCells);
  const int32_t end = min(e.first_cell + e.n_cells, (unit % kPageUnits + 1) * kUnitCells);
  e.base += begin - e.first_cell;
  e.first_cell = begin;
  e.n_cells = max(0, end - begin);
  return e;
}

// Positions of this thread's rows; the smallest and largest of all.
template <int kDim>
__device__ void decode_positions(const AttentionArgs& a, const Item& item, DecodeState<kDim>& s) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  s.low = INT32_MAX;
  s.high = INT32_MIN;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(lane / 4 + 8 * half, item.n_rows - 1);
    s.position[half] = reinterpret_cast<const int32_t*>(a.positions)[row_token(a, item, row)];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    s.low = min(s.low, s.position[half]), s.high = max(s.high, s.position[half]);
    if (lane / 4 + 8 * half >= item.n_rows) s.position[half] = INT32_MIN;
  }
  s.low = __reduce_min_sync(0xffffffffu, s.low);
  s.high = __reduce_max_sync(0xffffffffu, s.high);
}

// The item's cells: batches of as many entries as there are threads, or as meet no more turns than
// there are slots; units of those for the warps one after the other. What a batch is lies in shared
// memory.
template <class Cells, int kWarps>
struct DecodeCells {
  static constexpr int kThreads = kWarps * 32;
  // Units on their way to the L2 cache, of the block: with those of the other blocks well below
  // its size, and far more than memory needs to be busy.
  static constexpr int kAhead = (kWarps == 8 ? 192 : 64) * 1024 / Cells::kUnitBytes;
  using Shared = DecodeShared<Cells::kDim, kWarps>;
  using State = DecodeState<Cells::kDim>;

  const AttentionArgs& a;
  const Item& item;
  Shared& shared;
  int32_t begin, end;  // units of the batch, counted from its first entry
  bool moved;          // there are turns other than 0 in it
  typename Cells::K k;
  typename Cells::V v;

  __device__ int32_t first_unit() const { return begin + static_cast<int32_t>(threadIdx.x / 32); }

  // The batch that begins with the entry of the item's unit `from`: its entries to shared memory,
  // without cells when no row sees them. When it is moved, its turns have slots, which
  // turn_queries() puts in the entries once all warps have been here.
  __device__ SlotTurns open(const Table& t, int32_t from, const State& s) {
    const int32_t before = from / kPageUnits;
    const int32_t last = (item.units.end + kPageUnits - 1) / kPageUnits;
    const int32_t i = before + static_cast<int32_t>(threadIdx.x);
    Entry e = {0, 0, 0, 0, 1, 0};
    if (i < last) e = table_entry(a, t, item.first_entry + i);
    if (!any_sees(a, e, s.low, s.high)) e.n_cells = e.turn = 0;
    shared.entries[threadIdx.x] = e;
    moved = __syncthreads_or(!kUnrotated<Cells> && e.turn != 0 ? 1 : 0) != 0;
    int32_t n = min(last - before, kThreads);
    SlotTurns slots = {0, 1};
    if (moved) slots = slot_turns<Shared::kSlots>(shared.entries, n);
    begin = from - before * kPageUnits;
    end = min(item.units.end - before * kPageUnits, n * kPageUnits);
    const int32_t ahead = begin + static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x < kAhead && ahead < end) fetch(ahead);
    return slots;
  }
  // To the L2 cache, by one thread.
  __device__ void fetch(int32_t unit) const {
    const Entry e = unit_entry(shared.entries, unit);
    if (e.n_cells == 0) return;
    const int cell0 = unit % kPageUnits * kUnitCells;
    Cells::fetch(a.k, k_head(a, e, item.kv_head), cell0);
    Cells::fetch(a.v, v_head(a, e, item.kv_head), cell0);
  }
  __device__ void fetch_ahead(int32_t unit) const {
    if (threadIdx.x % 32 == 0 && unit + kAhead < end) fetch(unit + kAhead);
  }
  __device__ void load_k(int32_t unit) {
    if (unit >= end) return;
    const Entry e = unit_entry(shared.entries, unit);
    const int cell0 = unit % kPageUnits * kUnitCells;
    if (e.n_cells > 0) Cells::load_k(a, k_head(a, e, item.kv_head), cell0, k);
    if constexpr (kUnrotated<Cells>) touch_angles(unit + kWarps);
  }
  __device__ void load_v(int32_t unit) {
    if (unit >= end) return;
    const Entry e = unit_entry(shared.entries, unit);
    const int cell0 = unit % kPageUnits * kUnitCells;
    if (e.n_cells > 0) Cells::load_v(a, v_head(a, e, item.kv_head), e, cell0, v);
  }
  // Of un-rotated keys: what the unit's angles are made of, to the L1 cache.
  __device__ void touch_angles(int32_t unit) const {
    if (unit >= end) return;
    touch_unit_angles<Cells::kDim>(a, shared.entries[unit / kPageUnits],
                                   unit % kPageUnits * kUnitCells);
  }
  // And the angles, while the warp has something else to wait for.
  __device__ void prepare(int32_t unit) {
    if (unit >= end) return;
    const auto warp = static_cast<int>(threadIdx.x / 32);
    const int cell0 = unit % kPageUnits * kUnitCells;
    const Entry& e = shared.entries[unit / kPageUnits];
    __syncwarp();
    fill_unit_angles<Cells::kDim>(a, e, cell0, shared.angles().units[warp]);
    if (e.div != 1) fill_divided_angles<Cells::kDim>(a, e, cell0, shared.divided_angles(warp));
  }
  // Products of the queries and the unit's keys.
  __device__ void scores(const Entry& e, float (&p)[2][4]) {
    if constexpr (kUnrotated<Cells>) {
      const auto warp = static_cast<int>(threadIdx.x / 32);
      const auto& angles = shared.angles();
      __syncwarp();
      Cells::scores(a, k, shared.queries, angles.units[warp],
                    e.div == 1 ? angles.cells[0] : shared.divided_angles(warp), p);
    } else {
      Cells::scores(k, shared.slot(e.turn), p);
    }
  }
  __device__ void add_values_apart(const Entry& e, int cell0, const float (&p)[2][4],
                                   State& s) const {
    constexpr int kSums = Cells::kDim / 2;
    float weights[2][4], sums[Cells::kDim / 8][4];
    const int32_t position[2] = {s.position[0], s.position[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j) weights[j / 4][j % 4] = p[j / 4][j % 4];
#pragma unroll
    for (int j = 0; j < kSums; ++j) sums[j / 4][j % 4] = s.sums[j / 4][j % 4];
    add_apart<Cells>(a, e, v_head(a, e, item.kv_head), cell0, position, weights, sums);
#pragma unroll
    for (int j = 0; j < kSums; ++j) s.sums[j / 4][j % 4] = sums[j / 4][j % 4];
  }
  // The batch; the first loads are done.
  __device__ void run(State& s) {
    if constexpr (kUnrotated<Cells>) prepare(first_unit());
#pragma unroll 1
    for (int32_t unit = first_unit(); unit < end; unit += kWarps) {
      const Entry e = unit_entry(shared.entries, unit);
      float p[2][4];
      fetch_ahead(unit);
      if (e.n_cells > 0) scores(e, p);
      load_k(unit + kWarps);
      if constexpr (kUnrotated<Cells>) prepare(unit + kWarps);
      if (e.n_cells > 0) {
        const bool hides = unit_softmax(a, e, unit % kPageUnits * kUnitCells, s, p);
        if constexpr (Cells::kMayBeApart) {
          if (hides && __any_sync(0xffffffffu, Cells::clear_values(v)))
            add_values_apart(e, unit % kPageUnits * kUnitCells, p, s);
        }
        Cells::values(v, p, s.sums);
      }
      load_v(unit + kWarps);
    }
  }
};

template <class Cells, int kWarps>
__device__ void decode_item(const AttentionArgs& a, const Table& t, const Item& item,
                            DecodeShared<Cells::kDim, kWarps>& shared,
                            DecodeState<Cells::kDim>& s) {
  DecodeCells<Cells, kWarps> cells{a, item, shared, 0, 0, false, {}, {}};
  QueryPart<Cells, kWarps> query;
  decode_positions(a, item, s);
  SlotTurns slots = cells.open(t, item.units.begin, s);
  wait_for_inputs();
  if (cells.moved) touch_turns(a, slots);
  query.load(a, item);
  if constexpr (kUnrotated<Cells>) cells.touch_angles(cells.first_unit());
  cells.load_k(cells.first_unit());
  cells.load_v(cells.first_unit());
  int32_t from = item.units.begin / kPageUnits * kPageUnits + cells.end;
  const bool is_all = kUnrotated<Cells> || a.n_turns == 0 || from >= item.units.end;
  if constexpr (kUnrotated<Cells>) fill_cell_angles<Cells::kDim>(a, shared.angles());
  query.store(a, item, cells.moved || !is_all, s.q_factor, shared);
  if (cells.moved) turn_queries<Cells, kWarps>(a, slots, shared);
#pragma unroll
  for (int half = 0; half < 2; ++half) s.largest[half] = -infinity(), s.denominator[half] = 0;
#pragma unroll
  for (int j = 0; j < Cells::kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) s.sums[j][i] = 0;
  for (;;) {
    cells.run(s);
    if (from >= item.units.end) break;
    __syncthreads();
    slots = cells.open(t, from, s);
    if (cells.moved) {
      touch_turns(a, slots);
      __syncthreads();
      turn_queries<Cells, kWarps>(a, slots, shared);
    }
    cells.load_k(cells.first_unit());
    cells.load_v(cells.first_unit());
    from = from / kPageUnits * kPageUnits + cells.end;
  }
  // Slots lie where sums will.
  if (cells.moved) __syncthreads();
}

// The warp's rows to shared memory.
template <class Cells, int kWarps>
__device__ void decode_keep(const Item& item, const DecodeState<Cells::kDim>& s,
                            DecodeShared<Cells::kDim, kWarps>& shared) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float denominator = s.denominator[half];
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 1);
    denominator += __shfl_xor_sync(0xffffffffu, denominator, 2);
    if (row >= item.n_rows) continue;
    if (lane % 4 == 0) {
      shared.largest[warp][row] = s.largest[half];
      shared.denominator[warp][row] = denominator * kWeightUnit;
    }
    // Four groups of dimensions are neighbours for one column.
    constexpr int kRun = Cells::kRun;
#pragma unroll
    for (int j = 0; j < Cells::kDim / 8; j += kRun)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* to = &shared.sums[warp][row][Cells::dimension(j, lane % 4 * 2 + i)];
        const auto sum = [&](int k) { return s.sums[j + k][2 * half + i] * kWeightUnit; };
        if constexpr (kRun == 4) {
          *reinterpret_cast<float4*>(to) = {sum(0), sum(1), sum(2), sum(3)};
        } else {
          *reinterpret_cast<float2*>(to) = {sum(0), sum(1)};
        }
      }
  }
}

// The warps' parts of a row, in order, to its result or to the chunk's part.
template <int kDim, int kWarps>
__device__ void decode_merge(const AttentionArgs& a, const Item& item, int32_t slot,
                             const DecodeShared<kDim, kWarps>& shared) {
  constexpr int kFours = kDim / 4;
  float* const part = part_of(a, slot);
  for (int i = static_cast<int>(threadIdx.x); i < item.n_rows * kFours; i += kWarps * 32) {
    const int row = i / kFours;
    const int d = i % kFours * 4;
    float top = -infinity();
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared.largest[w][row]);
    const float shift = top == -infinity() ? 0.0f : top;
    float4 sum = {0, 0, 0, 0};
    float denominator = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float less = exp2_fast((shared.largest[w][row] - shift) * kLog2E);
      const float4 x = *reinterpret_cast<const float4*>(&shared.sums[w][row][d]);
      sum.x += x.x * less, sum.y += x.y * less, sum.z += x.z * less, sum.w += x.w * less;
      denominator += shared.denominator[w][row] * less;
    }
    if (item.n_chunks == 1) {
      const int32_t head = row_head(a, item, row);
      const float factor = row_factor(a, head, top, denominator);
      put_four(a, out_row(a, row_token(a, item, row), head), d, sum, factor);
      continue;
    }
    if (d < a.dim_v_pad) *reinterpret_cast<float4*>(part + row * a.dim_v_pad + d) = sum;
    if (d == 0) {
      part[a.tile_rows * a.dim_v_pad + row] = top;
      part[a.tile_rows * (a.dim_v_pad + 1) + row] = denominator;
    }
  }
}

template <class Cells, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, decode_blocks<Cells::kDim, kWarps>())
    attention_decode_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(16) char dynamic[];
  auto& shared = *reinterpret_cast<DecodeShared<Cells::kDim, kWarps>*>(dynamic);
  if (!a.constant) wait_for_inputs();
  warm_inputs(a);
  start_next();
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < cut.n_items;
       i += static_cast<int32_t>(gridDim.x)) {
    Item item;
    if (!find_item(a, t, cut, i, item)) continue;
    DecodeState<Cells::kDim> s;
    decode_item<Cells, kWarps>(a, t, item, shared, s);
    decode_keep<Cells, kWarps>(item, s, shared);
    __syncthreads();
    decode_merge(a, item, i, shared);
    if (item.n_chunks > 1 && is_last_chunk(a, item, &shared.is_last))
      merge_chunks<kWarps * 32>(a, item, reinterpret_cast<MergeRoom&>(shared.sums));
    __syncthreads();
  }
  // A kernel must not end before the ones ahead of it have.
  if (blockIdx.x == 0) wait_for_inputs();
  clear_unnamed(a, t);
}
#endif

}  // namespace mica::cuda
