// What a block of the few-rows kernel keeps, in registers and in shared memory, and how rows of q
// become left operands there.
#pragma once
#include "backends/cuda/kernels/attention/attention_keys.cuh"
#include "backends/cuda/kernels/attention/attention_merge.cuh"

namespace mica::cuda {

constexpr int kDecodeRows = 16;  // of an item: those of a product

// Of a multiprocessor: what its registers hold.
template <int kDim, int kWarps>
constexpr int decode_blocks() {
  return kWarps == 8 || kDim > 128 ? 1 : kDim > 64 ? 2 : 3;
}
template <class Cells, int kWarps>
constexpr uint64_t decode_shared_bytes() {
  constexpr int kDim = Cells::kDim;
  return (kUnrotated<Cells> ? sizeof(KeyAngles<kDim, kWarps>) : 0) + uint64_t{2} * kDim * 32 +
         uint64_t{kWarps} * kDecodeRows * (kDim + 8 + 3) * 4 + uint64_t{kWarps} * 32 * 24 + 16;
}

#ifdef __CUDACC__

// What a warp keeps of its rows; this thread's are lane / 4 and that + 8.
template <int kDim>
struct DecodeState {
  float sums[kDim / 8][4];  // by groups of 8 dimensions; columns lane % 4 * 2 and the next
  float largest[2], denominator[2];
  float q_factor[2];
  int32_t position[2];  // INT32_MIN: there is no such row
  int32_t low, high;    // positions of all rows
};

// Beside `queries`, which are of turn 0: rows of q as they meet the cells of other turns, and as
// they are, each scaled like `queries`, to make those of. A pitch at which no 8 lanes that read
// together share a bank.
template <int kDim, int kMore>
struct TurnedQueries {
  Queries<kDim> slots[kMore];
  float rows[kDecodeRows][kDim + 4];
};

template <int kDim, int kWarpCount>
struct DecodeShared {
  static constexpr int kWarps = kWarpCount;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kPitch = kDim + 8;
  static constexpr int kSlots = kWarps;  // turns at a time, turn 0 being the first
  using Turned = TurnedQueries<kDim, kSlots - 1>;
  Queries<kDim> queries;
  // Of the warps; before, what is Turned; when those are done with, a MergeRoom.
  float sums[kWarps][kDecodeRows][kPitch];
  float largest[kWarps][kDecodeRows], denominator[kWarps][kDecodeRows];
  float q_largest[kWarps][kDecodeRows];
  Entry entries[kThreads];  // of the item, so many at a time; of their turns, the slots
  int32_t is_last, unused[3];

  static_assert(sizeof(Turned) <= sizeof(sums));
  __device__ Turned& turned() { return reinterpret_cast<Turned&>(sums); }
  // Turned's slots lie behind `queries`, so that none is a case of its own.
  __device__ Queries<kDim>& slot(int32_t i) { return (&queries)[i]; }
  // Of un-rotated keys: what lies behind, and in the place of a warp's sums the table of a unit
  // whose positions are divided.
  __device__ KeyAngles<kDim, kWarps>& angles() {
    return *reinterpret_cast<KeyAngles<kDim, kWarps>*>(this + 1);
  }
  __device__ float4* divided_angles(int warp) { return reinterpret_cast<float4*>(sums[warp]); }
};
static_assert(sizeof(DecodeShared<128, 8>) == decode_shared_bytes<CellsF16<128>, 8>());
static_assert(sizeof(DecodeShared<64, 4>::sums) >= sizeof(MergeRoom));

// Four neighbours of this thread's two rows, one of the runs of a block of 32, to their place in
// the left operands: those of product `product`.
template <class Cells>
__device__ void store_run(const float* upper_row, const float* lower_row, int product,
                          Queries<Cells::kDim>& to) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint32_t parts[2][4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int first = Cells::kSwapped ? i : 2 * i;
    const int second = Cells::kSwapped ? first + 2 : first + 1;
    split_two(upper_row[first], upper_row[second], parts[0][2 * i], parts[1][2 * i]);
    split_two(lower_row[first], lower_row[second], parts[0][2 * i + 1], parts[1][2 * i + 1]);
  }
#pragma unroll
  for (int part = 0; part < 2; ++part)
    to.parts[part][product][lane] = {parts[part][0], parts[part][1], parts[part][2],
                                     parts[part][3]};
}

// Element i of the eight of a block of 32 that are this lane's.
template <class Cells>
__device__ inline int32_t block_element(const AttentionArgs& a, int block, int lane, int i) {
  if constexpr (kUnrotated<Cells>) return Cells::element(a, block, lane, i);
  return block * 32 + Cells::run_of(lane, i / 4) + i % 4;
}

// The part of the rows of q that is this thread's to split: its rows, its elements of the blocks of
// 32 that are its warp's.
template <class Cells, int kWarps>
struct QueryPart {
  static constexpr int kAll = Cells::kDim / 32;
  static constexpr int kBlocks = (kAll + kWarps - 1) / kWarps;
  static constexpr int kBusy = kAll < kWarps ? kAll : kWarps;  // warps that have a part
  using Shared = DecodeShared<Cells::kDim, kWarps>;
  float x[2][kBlocks][8];

  __device__ static int block(int j) { return static_cast<int>(threadIdx.x / 32) + j * kWarps; }
  __device__ static bool is_busy() { return static_cast<int>(threadIdx.x / 32) < kBusy; }

  // Without conditions between the loads: beyond rows and elements are some others, until store().
  __device__ void load(const AttentionArgs& a, const Item& item) {
    if (!is_busy()) return;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const char* q[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(lane / 4 + 8 * half, item.n_rows - 1);
      q[half] = query_row(a, row_token(a, item, row), row_head(a, item, row));
    }
    if constexpr (kUnrotated<Cells>) {
      const auto one = [&](auto get) {
#pragma unroll
        for (int i = 0; i < 16 * kBlocks; ++i) {
          const int at = block_element<Cells>(a, block(i / 8 % kBlocks), lane, i % 8);
          x[i / 8 / kBlocks][i / 8 % kBlocks][i % 8] =
              get(q[i / 8 / kBlocks], min(at, a.dim_k - 1));
        }
      };
      if (a.q_dtype == MICA_F32) {
        one([](const char* row, int i) { return reinterpret_cast<const float*>(row)[i]; });
      } else {
        one([&](const char* row, int i) { return float_at(a.q_dtype, row, i); });
      }
      return;
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
          const int at = block_element<Cells>(a, block(j), lane, i);
          if (lane / 4 + 8 * half >= item.n_rows || at >= a.dim_k) x[half][j][i] = 0;
        }
  }

  // To shared memory, each row scaled by a power of two to at most 2^10; with keep_rows also as
  // what turn_queries() needs. A rotation makes no element larger than sqrt(2) times that, so the
  // factors are those of all turns.
  __device__ void store(const AttentionArgs& a, const Item& item, bool keep_rows,
                        float (&q_factor)[2], Shared& shared) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (is_busy()) {
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
    }
    __syncthreads();
    float up[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
#pragma unroll
      for (int w = 0; w < kBusy; ++w)
        largest = fmaxf(largest, shared.q_largest[w][lane / 4 + 8 * half]);
      int exponent = static_cast<int>(__float_as_uint(largest) >> 23) - 127;
      if (exponent == 128 || largest == 0.0f) exponent = 9;
      exponent = max(exponent, -100);
      up[half] = __uint_as_float(static_cast<uint32_t>(127 + 9 - exponent) << 23);
      q_factor[half] = a.op.scale * (kUnrotated<Cells> ? kKeyUnit : 1.0f) *
                       __uint_as_float(static_cast<uint32_t>(127 - 9 + exponent) << 23);
    }
    if (is_busy()) {
      scale(up);
      if (keep_rows) store_rows(shared);
      store_parts(shared);
    }
    __syncthreads();
  }
  __device__ void scale(const float (&up)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < kBlocks; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i) x[half][j][i] *= up[half];
  }
  __device__ void store_rows(Shared& shared) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      if (block(j) >= kAll) break;
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int run = 0; run < 2; ++run) {
          const float* from = &x[half][j][4 * run];
          float* row = shared.turned().rows[lane / 4 + 8 * half];
          *reinterpret_cast<float4*>(row + block(j) * 32 + Cells::run_of(lane, run)) = {
              from[0], from[1], from[2], from[3]};
        }
    }
  }
  __device__ void store_parts(Shared& shared) {
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      if (block(j) >= kAll) break;
#pragma unroll
      for (int run = 0; run < 2; ++run)
        store_run<Cells>(&x[0][j][4 * run], &x[1][j][4 * run], 2 * block(j) + run, shared.queries);
    }
  }
};

#endif
}  // namespace mica::cuda
