// Attention of few query rows, K and V in F16: each warp takes 16 cells at a time straight from
// global memory to tensor-core operands, so that as many bytes as possible are on their way; the
// warps of a block merge at the end. A product's k counts dimensions (of K) and its n columns (of
// V) in the order in which a lane's 16-byte loads bring them, which is as good as any.
#pragma once
#include "backends/cuda/kernels/attention_mma.cuh"

namespace mica::cuda {

constexpr int kDecodeThreads = 128;
constexpr int kDecodeWarps = kDecodeThreads / 32;
constexpr int kUnitCells = 16;
constexpr int kPageUnits = kPageCells / kUnitCells;
constexpr int kDecodeRows = 16;  // of an item: those of a product

template <int kDim>
constexpr uint64_t decode_shared_bytes() {
  return uint64_t{2} * kDim * 32 + uint64_t{kDecodeWarps} * kDecodeRows * (kDim + 2) * 4;
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
  uint4 q[2][kDim / 16][32];  // both parts, as a product's left operand, a lane each
  float sums[kDecodeWarps][kDecodeRows][kDim];
  float largest[kDecodeWarps][kDecodeRows], denominator[kDecodeWarps][kDecodeRows];
};
static_assert(sizeof(DecodeShared<128>) == decode_shared_bytes<128>());

// Elements first … first + 7 of a row; zeros beyond it.
__device__ inline void load_query_eight(const AttentionArgs& a, const char* q, int first,
                                        float (&x)[8]) {
  const int n = q != nullptr ? a.dim_k - first : 0;
  if (a.q_dtype == MICA_F32) {
    const float* from = reinterpret_cast<const float*>(q) + first;
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = i < n ? from[i] : 0.0f;
    return;
  }
  const uint16_t* from = reinterpret_cast<const uint16_t*>(q) + first;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint16_t h = i < n ? from[i] : uint16_t{0};
    x[i] = a.q_dtype == MICA_F16 ? __half2float(__ushort_as_half(h)) : bf16_to_f32(h);
  }
}

// Rows of q, each scaled by a power of two to at most 2^10, to shared memory: every warp finds the
// scales, the first stores.
template <int kDim>
__device__ void decode_queries(const AttentionArgs& a, const Item& item, DecodeState<kDim>& s,
                               DecodeShared<kDim>& shared) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const bool real = row < item.n_rows;
    const int32_t token = real ? row_token(a, item, row) : 0;
    const char* q = real ? query_row(a, token, row_head(a, item, row)) : nullptr;
    float largest = 0;
    float x[8];
    for (int j = 0; j < kDim / 32; ++j) {
      load_query_eight(a, q, j * 32 + lane % 4 * 8, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
    if (exponent == 128 || largest == 0.0f) exponent = 9;
    exponent = max(exponent, -100);
    const float up = __uint_as_float(static_cast<uint32_t>(127 + 9 - exponent) << 23);
    const float down = __uint_as_float(static_cast<uint32_t>(127 - 9 + exponent) << 23);
    const int32_t position =
        real ? reinterpret_cast<const int32_t*>(a.positions)[token] : INT32_MIN;
    if (half == 0) {
      s.q_factor[0] = a.op.scale * down, s.position[0] = position;
    } else {
      s.q_factor[1] = a.op.scale * down, s.position[1] = position;
    }
    // The warps share the dimensions.
    for (int j = static_cast<int>(threadIdx.x / 32); j < kDim / 32; j += kDecodeWarps) {
      load_query_eight(a, q, j * 32 + lane % 4 * 8, x);
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // pairs of elements: two products of two
        uint32_t parts[2];
        split_two(x[2 * i] * up, x[2 * i + 1] * up, parts[0], parts[1]);
#pragma unroll
        for (int part = 0; part < 2; ++part)
          reinterpret_cast<uint32_t*>(&shared.q[part][2 * j + i / 2][lane])[i % 2 * 2 + half] =
              parts[part];
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) s.largest[half] = -infinity(), s.denominator[half] = 0;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) s.sums[j][i] = 0;
}

// 16 bytes that are used once: they stay out of the way of what is used again.
__device__ inline uint4 load_once(const void* p) {
  uint4 x;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p));
  return x;
}

// Cells 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of a unit (t = lane % 4); zeros outside the entry.
template <int kDim>
struct UnitV {
  uint4 x[kDim / 64][4];
};
template <int kDim>
__device__ void load_unit_v(const AttentionArgs& a, const char* head, const Entry& e, int cell0,
                            UnitV<kDim>& v) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int h = 0; h < kDim / 64; ++h)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int cell = cell0 + lane % 4 * 2 + r % 2 + r / 2 * 8;
      const int d = h * 64 + lane / 4 * 8;
      const bool real = cell >= e.first_cell && cell < e.first_cell + e.n_cells &&
                        d < static_cast<int>(a.v.row_elems);
      v.x[h][r] = {0, 0, 0, 0};
      if (real)
        v.x[h][r] = load_once(
            head + kv_elem_at(a.v, static_cast<uint32_t>(cell), static_cast<uint32_t>(d)));
    }
}
// Cells t / 4 and t / 4 + 8.
template <int kDim>
struct UnitK {
  uint4 x[2][kDim / 32];
};
template <int kDim>
__device__ void load_unit_k(const AttentionArgs& a, const char* head, int cell0, UnitK<kDim>& k) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      const auto cell = static_cast<uint32_t>(cell0 + n * 8 + lane / 4);
      const int d = j * 32 + lane % 4 * 8;
      k.x[n][j] = {0, 0, 0, 0};
      if (d < static_cast<int>(a.k.row_elems))
        k.x[n][j] = load_once(head + kv_elem_at(a.k, cell, static_cast<uint32_t>(d)));
    }
}

// Loaded anew for each unit: in registers all of q would leave no room for bytes on their way.
__device__ inline void load_operand(uint32_t (&r)[4], const uint4* p) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}

template <int kDim>
__device__ void unit_scores(const UnitK<kDim>& k, const DecodeShared<kDim>& shared,
                            float (&p)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[n][i] = 0;
#pragma unroll
  for (int part = 1; part >= 0; --part)
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      uint32_t q[4];
      load_operand(q, &shared.q[part][2 * j][lane]);
      multiply(p[0], q, k.x[0][j].x, k.x[0][j].y);
      multiply(p[1], q, k.x[1][j].x, k.x[1][j].y);
      load_operand(q, &shared.q[part][2 * j + 1][lane]);
      multiply(p[0], q, k.x[0][j].z, k.x[0][j].w);
      multiply(p[1], q, k.x[1][j].z, k.x[1][j].w);
    }
}

// Products to weights times 2^12, and what was summed before to the new maximum.
template <int kDim>
__device__ void unit_softmax(const AttentionArgs& a, const Entry& e, int cell0,
                             DecodeState<kDim>& s, float (&p)[2][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Seen seen = seen_cells(a, e, s.position[half]);
    float top = -infinity();
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = p[n][2 * half + i];
        x *= s.q_factor[half];
        if (a.op.softcap > 0) x = a.op.softcap * tanhf(x / a.op.softcap);
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

__device__ inline uint32_t word_of(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// Column lane / 4 of group 8 h + i is dimension 64 h + 8 (lane / 4) + i.
template <int kDim>
__device__ void unit_values(const UnitV<kDim>& v, const float (&p)[2][4], DecodeState<kDim>& s) {
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
      const uint32_t b0 = __byte_perm(word_of(v.x[h][0], i / 2), word_of(v.x[h][1], i / 2), which);
      const uint32_t b1 = __byte_perm(word_of(v.x[h][2], i / 2), word_of(v.x[h][3], i / 2), which);
      multiply(s.sums[8 * h + i], lower, b0, b1);
      multiply(s.sums[8 * h + i], upper, b0, b1);
    }
}

// A unit's part of its entry, as an entry.
__device__ inline Entry unit_entry(const AttentionArgs& a, const Table& t, const Item& item,
                                   int32_t unit) {
  const int32_t i = item.entries.begin + unit / kPageUnits;
  Entry e = {0, 0, 0, 0, 1};
  if (i < item.entries.end) e = table_entry(a, t, i);
  const int32_t begin = max(e.first_cell, unit % kPageUnits * kUnitCells);
  const int32_t end = min(e.first_cell + e.n_cells, (unit % kPageUnits + 1) * kUnitCells);
  e.base += begin - e.first_cell;
  e.first_cell = begin;
  e.n_cells = max(0, end - begin);
  return e;
}

template <int kDim>
__device__ void decode_cells(const AttentionArgs& a, const Table& t, const Item& item,
                             const DecodeShared<kDim>& shared, DecodeState<kDim>& s) {
  int32_t low = INT32_MAX;
  int32_t high = INT32_MIN;
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (s.position[half] != INT32_MIN)
      low = min(low, s.position[half]), high = max(high, s.position[half]);
  for (int offset = 4; offset < 32; offset *= 2) {
    low = min(low, __shfl_xor_sync(0xffffffffu, low, offset));
    high = max(high, __shfl_xor_sync(0xffffffffu, high, offset));
  }
  const int32_t n_units = item.entries.size() * kPageUnits;
  int32_t unit = static_cast<int32_t>(threadIdx.x / 32);
  Entry e = unit_entry(a, t, item, unit);
#pragma unroll 1
  for (; unit < n_units; unit += kDecodeWarps) {
    const Entry next = unit_entry(a, t, item, unit + kDecodeWarps);
    if (any_sees(a, e, low, high)) {
      const int cell0 = unit % kPageUnits * kUnitCells;
      UnitK<kDim> k;
      UnitV<kDim> v;
      load_unit_k(a, k_head(a, e, item.kv_head), cell0, k);
      load_unit_v(a, v_head(a, e, item.kv_head), e, cell0, v);
      float p[2][4];
      unit_scores(k, shared, p);
      unit_softmax(a, e, cell0, s, p);
      unit_values(v, p, s);
    }
    e = next;
  }
}

template <int kDim>
__device__ void decode_keep(const DecodeState<kDim>& s, DecodeShared<kDim>& shared) {
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
    for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        shared.sums[warp][row][j / 8 * 64 + (lane % 4 * 2 + i) * 8 + j % 8] =
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

template <int kDim>
__global__ void __launch_bounds__(kDecodeThreads, kDim <= 128 ? 3 : 1)
    attention_decode_kernel(const __grid_constant__ AttentionArgs a) {
  extern __shared__ __align__(16) char dynamic[];
  auto& shared = *reinterpret_cast<DecodeShared<kDim>*>(dynamic);
  wait_for_inputs();
  start_next();
  const Table t = open_table(a);
  const Cut cut = cut_items(a, t);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < cut.n_items;
       i += static_cast<int32_t>(gridDim.x)) {
    Item item;
    if (!find_item(a, t, cut, i, item)) continue;
    DecodeState<kDim> s;
    decode_queries(a, item, s, shared);
    __syncthreads();
    decode_cells(a, t, item, shared, s);
    decode_keep(s, shared);
    __syncthreads();
    decode_merge(a, item, i, shared);
    __syncthreads();
  }
}
#endif

}  // namespace mica::cuda
