// kv_shift: K of listed cells, rotated from one position to another, in place. A block takes a few
// cells of an entry, one after the other: cosines and sines once for all heads and for as many
// cells as move by the same, then rows through shared memory, since a block of a quantized type
// holds one element of a pair only. All is computed in double and rounded once, so that a cache
// holds what the reference's would.
#include "backends/cuda/kernels/attention/attention_mma.cuh"
#include "backends/cuda/kernels/attention/kv_block.cuh"
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/kernels/rope_angle.cuh"
#include "backends/gpu/layouts.h"
#include "ops/kv_shift_args.h"
#include "ops/rope.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kShiftPairs = 256;       // as many as a kernel's arguments hold
constexpr int32_t kItemCells = 8;      // of a block at a time
constexpr uint32_t kRowFloats = 4096;  // of shared memory
constexpr uint32_t kRun = 8;           // elements that a thread loads; rows are multiples of 16
constexpr uint32_t kQuantBlock = 32;

enum ShiftInput { kState, kShifts, kFactors };

struct ShiftArgs {
  double radians[kShiftPairs];  // per position, before the frequency factor
  KvPage page;
  uint64_t state, shifts, factors;
  int32_t n_pages, max_entries;
  int32_t n_pairs, offset;
  bool adjacent;
};

struct ShiftShared {
  float rows[kRowFloats];  // of some heads of a cell
  double cosine[kShiftPairs], sine[kShiftPairs];
};

// From and to which multiples of the divisors.
struct Move {
  int64_t from, to;
  int32_t from_div, to_div;
  // By how many positions the entry's cell i moves. Divisions are dear, and rare.
  __device__ int64_t of(int32_t i) const {
    if (from_div == 1 && to_div == 1) return to - from;
    return (to + i) / to_div - (from + i) / from_div;
  }
};

struct ShiftEntry {
  int32_t page, first_cell, n_cells;  // 0: nothing that the cache has
  Move move;
};
// The list is step data, never trusted.
__device__ ShiftEntry shift_entry(const ShiftArgs& a, int32_t i) {
  const int32_t* w = reinterpret_cast<const int32_t*>(a.shifts) + 1 + i * MICA_KV_SHIFT_WORDS;
  ShiftEntry e = {w[MICA_KV_SHIFT_PAGE],
                  w[MICA_KV_SHIFT_FIRST_CELL],
                  w[MICA_KV_SHIFT_N_CELLS],
                  {w[MICA_KV_SHIFT_FROM], w[MICA_KV_SHIFT_TO], w[MICA_KV_SHIFT_FROM_DIV],
                   w[MICA_KV_SHIFT_TO_DIV]}};
  const bool good = e.page >= 0 && e.page < a.n_pages && e.first_cell >= 0 &&
                    e.first_cell < kPageCells && e.n_cells >= 0 &&
                    e.n_cells <= kPageCells - e.first_cell && e.move.from_div >= 1 &&
                    e.move.to_div >= 1;
  if (!good) e.n_cells = 0;
  return e;
}

__device__ void shift_angles(const ShiftArgs& a, int64_t by, ShiftShared& shared) {
  for (int i = static_cast<int>(threadIdx.x); i < a.n_pairs; i += kThreads) {
    double radians = a.radians[i];
    if (a.factors != 0)
      radians /= static_cast<double>(reinterpret_cast<const float*>(a.factors)[i]);
    cos_sin<true>(static_cast<double>(by) * radians, shared.cosine[i], shared.sine[i]);
  }
}

// Does the rotation change any of the n elements from i on?
__device__ bool is_rotated(const ShiftArgs& a, uint32_t i, uint32_t n) {
  const auto begin = static_cast<uint32_t>(a.offset);
  const uint32_t end = begin + 2 * static_cast<uint32_t>(a.n_pairs);
  return i < end && i + n > begin;
}

__device__ void decode_rows(const ShiftArgs& a, const char* head0, uint32_t cell, uint32_t n_heads,
                            float* rows) {
  const uint32_t units = a.page.row_elems / kRun;
  for (uint32_t at = threadIdx.x; at < n_heads * units; at += kThreads) {
    const uint32_t head = at / units;
    const uint32_t i = (at - head * units) * kRun;
    float x[kRun];
    load_eight(a.page, head0 + uint64_t{head} * a.page.head_bytes, cell, i, x);
#pragma unroll
    for (uint32_t j = 0; j < kRun; ++j)
      rows[head * a.page.row_elems + i + j] = i + j < a.page.head_dim ? x[j] : 0.0f;
  }
}

// To odd: the nearest float towards zero, its last bit set when that is not exact. Rounding it to
// F16 or BF16 gives what rounding the double once would.
__device__ float to_odd(double value) {
  const float f = static_cast<float>(value);
  const double back = static_cast<double>(f);
  if (!(magnitude(f) < infinity()) || back == value) return f;
  const bool away = fabs(back) > fabs(value);
  return float_of((away ? bits_of(f) - 1 : bits_of(f)) | 1u);
}

__device__ void rotate_rows(const ShiftArgs& a, uint32_t n_heads, ShiftShared& shared) {
  const auto n_pairs = static_cast<uint32_t>(a.n_pairs);
  for (uint32_t at = threadIdx.x; at < n_heads * n_pairs; at += kThreads) {
    const uint32_t head = at / n_pairs;
    const uint32_t pair = at - head * n_pairs;
    float* const x0 = shared.rows + head * a.page.row_elems + static_cast<uint32_t>(a.offset) +
                      (a.adjacent ? 2 * pair : pair);
    float* const x1 = x0 + (a.adjacent ? 1u : n_pairs);
    const double c = shared.cosine[pair], s = shared.sine[pair];
    const double first = *x0, second = *x1;
    const double y0 = first * c - second * s, y1 = first * s + second * c;
    *x0 = a.page.elem_bytes == 2 ? to_odd(y0) : static_cast<float>(y0);
    *x1 = a.page.elem_bytes == 2 ? to_odd(y1) : static_cast<float>(y1);
  }
}

__device__ void put_plain(const KvPage& p, char* to, float x) {
  if (p.dtype == MICA_F32) {
    *reinterpret_cast<float*>(to) = x;
  } else {
    *reinterpret_cast<uint16_t*>(to) = p.dtype == MICA_F16 ? f32_to_f16(x) : f32_to_bf16(x);
  }
}

// What was rotated, and no more: of quantized types the blocks that hold some of it.
__device__ void encode_rows(const ShiftArgs& a, char* head0, uint32_t cell, uint32_t n_heads,
                            const float* rows) {
  const bool plain = a.page.elem_bytes != 0;
  const uint32_t units = plain ? 2 * static_cast<uint32_t>(a.n_pairs) : a.page.n_blocks;
  for (uint32_t at = threadIdx.x; at < n_heads * units; at += kThreads) {
    const uint32_t i_head = at / units;
    const uint32_t unit = at - i_head * units;
    char* const head = head0 + uint64_t{i_head} * a.page.head_bytes;
    const float* const row = rows + i_head * a.page.row_elems;
    if (plain) {
      const uint32_t i = static_cast<uint32_t>(a.offset) + unit;
      put_plain(a.page, head + kv_elem_at(a.page, cell, i), row[i]);
    } else if (is_rotated(a, unit * kQuantBlock, kQuantBlock)) {
      float x[kQuantBlock];
#pragma unroll
      for (uint32_t j = 0; j < kQuantBlock; ++j) x[j] = row[unit * kQuantBlock + j];
      put_kv_block(a.page, head, cell, unit, x);
    }
  }
}

__device__ void shift_cell(const ShiftArgs& a, const ShiftEntry& e, uint32_t cell,
                           ShiftShared& shared) {
  char* const page =
      reinterpret_cast<char*>(a.state) + static_cast<uint64_t>(e.page) * a.page.page_bytes;
  const uint32_t some = kRowFloats / a.page.row_elems;  // heads at a time
  for (uint32_t first = 0; first < a.page.n_kv_heads; first += some) {
    const uint32_t n_heads = min(some, a.page.n_kv_heads - first);
    char* const head0 = page + uint64_t{first} * a.page.head_bytes;
    decode_rows(a, head0, cell, n_heads, shared.rows);
    __syncthreads();
    rotate_rows(a, n_heads, shared);
    __syncthreads();
    encode_rows(a, head0, cell, n_heads, shared.rows);
    __syncthreads();
  }
}

// The list's length is known on the device only: blocks take items of it in strides of the grid.
__global__ void __launch_bounds__(kThreads) shift_kernel(const __grid_constant__ ShiftArgs a) {
  __shared__ ShiftShared shared;
  start_next();
  wait_for_inputs();
  constexpr int32_t kItems = kPageCells / kItemCells;  // of an entry
  const int32_t n = max(0, min(*reinterpret_cast<const int32_t*>(a.shifts), a.max_entries));
  int64_t loaded = 0;  // by what the angles in shared memory rotate; 0: none are there
  for (int32_t item = static_cast<int32_t>(blockIdx.x); item < n * kItems;
       item += static_cast<int32_t>(gridDim.x)) {
    const ShiftEntry e = shift_entry(a, item / kItems);
    const int32_t begin = item % kItems * kItemCells;
    const int32_t end = min(begin + kItemCells, e.n_cells);
    for (int32_t i = begin; i < end; ++i) {
      const int64_t by = e.move.of(i);
      if (by == 0) continue;
      // Barriers of the cell before and of this one stand around it.
      if (by != loaded) shift_angles(a, loaded = by, shared);
      shift_cell(a, e, static_cast<uint32_t>(e.first_cell + i), shared);
    }
  }
}

bool describe(const Call& call, KvPage& page) {
  const Tensor& state = call.out;
  return kv_page(state.dtype, static_cast<uint32_t>(state.dim[0]),
                 static_cast<uint32_t>(state.dim[1]), page);
}

const char* supports(const Call& call) {
  KvPage page;
  if (!describe(call, page)) return "pages are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1";
  if (call.out.layout != kLayoutKvPage) return "the state is not a cache of this backend";
  if (page.row_elems > kRowFloats) return "heads have more than 4096 elements";
  if (call.arg<mica_kv_shift_args>().angles.n_rot > 2 * kShiftPairs)
    return "n_rot is more than 512";
  return nullptr;
}

mica_status record(const Call& call, Recorder& recorder) {
  const auto& args = call.arg<mica_kv_shift_args>();
  ShiftArgs a = {};
  describe(call, a.page);
  a.state = call.out.address;
  a.shifts = call.in[kShifts].address;
  a.factors = call.n_in > kFactors && !call.in[kFactors].absent() ? call.in[kFactors].address : 0;
  a.n_pages = static_cast<int32_t>(call.out.dim[2] / kPageCells);
  const int64_t words = call.in[kShifts].dim[0];
  a.max_entries = static_cast<int32_t>((words - 1) / MICA_KV_SHIFT_WORDS);
  a.n_pairs = static_cast<int32_t>(args.angles.n_rot / 2);
  a.offset = static_cast<int32_t>(args.offset);
  a.adjacent = args.pairing == MICA_ROPE_ADJACENT;
  const RopeScale scale = rope_scale(args.angles);
  for (int i = 0; i < a.n_pairs; ++i) a.radians[i] = rope_radians(args.angles, scale, i);
  const int64_t items = int64_t{a.max_entries} * (kPageCells / kItemCells);
  return launch(recorder, shift_kernel, grid_for(call, items, 8), dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {
    {"kv_shift", "", supports, numerics_f32, nullptr, record, gpu::takes_page<kLayoutKvPage>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(kv_shift, kRows, MICA_KNOWS(kv_shift, pairing))
