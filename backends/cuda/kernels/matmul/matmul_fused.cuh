// Few rows of x times several weights at once, with what comes before and after: rms_norm ahead of
// x, and sums that are stored, added to a residual or gated. As matmul_stream.cuh, but types are
// told apart when a unit is used: the packed weights of a layer need not be of one type, and one
// kernel does for all. Weights of plain rows: matmul_fused_plain.cuh.
#pragma once
#include "backends/cuda/kernels/matmul/matmul_rows.cuh"
#include "ops/norm_args.h"

namespace mica::cuda {

constexpr int kMaxSegments = 4;
constexpr int64_t kFusedRows = 4;           // of x, at most
constexpr uint32_t kPlainSlotBytes = 2048;  // of a warp: 128 elements of eight plain rows

// One of the weights. Blocks own groups of a flat order over all of them.
struct Segment {
  const uint8_t* w;
  float* out;           // [n, m]
  int64_t group_bytes;  // of plain weights: of eight rows
  int64_t n;            // rows
  int32_t first;        // its first group in the flat order
  mica_dtype type;
  uint32_t chunk_bytes, pair_bytes;
};

enum class Ending : uint32_t {
  kStore,
  kAdd,       // one segment: out = sum + residual
  kGateSilu,  // two segments whose groups alternate in the flat order: out = act(first) * second
  kGateGelu,
};

struct FusedArgs : RowsArgs {
  const float* residual;
  int64_t residual_stride;  // bytes between rows
  Ending ending;
  uint32_t n_segments;
  uint32_t chunks;
  uint32_t groups_each, extra;  // as in StreamArgs, in steps of `together` groups
  uint32_t together;            // 2 where a sum of one group needs that of the next
  uint32_t n_stages, slot_bytes;
  uint32_t n_early;  // of the stages: asked for before x is; the others wait in no one's way
  uint32_t plain;    // all weights are of plain rows, else all are packed
  Segment segment[kMaxSegments];
};

// A group of the flat order.
struct FlatGroup {
  int segment;
  int group;  // of the segment
};
__device__ inline FlatGroup flat_group(const FusedArgs& a, int flat) {
  if (a.ending == Ending::kGateSilu || a.ending == Ending::kGateGelu) return {flat & 1, flat >> 1};
  int i = 0;
#pragma unroll
  for (int j = 1; j < kMaxSegments; ++j)
    if (j < static_cast<int>(a.n_segments) && flat >= a.segment[j].first) i = j;
  return {i, flat - a.segment[i].first};
}

// The weights of a FusedArgs or what is derived from it.
template <class Args>
struct Weights {
  const Args& a;
  const uint8_t* group = nullptr;
  uint32_t pair = 0, chunk = 0;  // bytes

  __device__ void set(int flat) {
    const FlatGroup at = flat_group(a, flat);
    const Segment& s = a.segment[at.segment];
    group = s.w + at.group * s.group_bytes;
    pair = s.pair_bytes, chunk = s.chunk_bytes;
  }
  __device__ const uint8_t* at(int step) const { return group + step * static_cast<int64_t>(pair); }
  __device__ uint32_t unit_bytes() const { return pair; }
  __device__ uint32_t chunk_bytes() const { return chunk; }
};

template <int kRows>
__device__ inline void dot_unit_of(mica_dtype type, float (&sum)[kRows], const uint8_t* unit,
                                   const Q8Block& x, bool half, int n_rows, int lane) {
  switch (type) {
    case MICA_Q4_0:
      return dot_unit<Q4_0, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q4_1:
      return dot_unit<Q4_1, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q5_0:
      return dot_unit<Q5_0, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q5_1:
      return dot_unit<Q5_1, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q8_0:
      return dot_unit<Q8_0, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q4_K:
      return dot_unit<Q4_K, kRows>(sum, unit, x, half, n_rows, lane);
    case MICA_Q5_K:
      return dot_unit<Q5_K, kRows>(sum, unit, x, half, n_rows, lane);
    default:
      return dot_unit<Q6_K, kRows>(sum, unit, x, half, n_rows, lane);
  }
}

// Rows of x as int8.
struct Q8Image {
  Q8Rows q;
  __device__ int n_quads() const { return q.n_blocks * 8; }
  __device__ void put(int m, int quad, const float4& v) const { round_block(v, m, quad, q); }
};

// --- After ---------------------------------------------------------------------------------------

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
// x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ inline float gelu(float x) {
  const float u = 0.7978845608028654f * x * (1.0f + 0.044715f * x * x);
  return 0.5f * x * (1.0f + tanhf(u));
}

__device__ inline float residual_at(const FusedArgs& a, int m, int64_t n) {
  return *reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(a.residual) +
                                         m * a.residual_stride + 4 * n);
}

// What a thread's first item of the first round needs from memory: early_of() asks for it ahead,
// settle() may compute with it.
struct FusedEarly {
  float residual;
  __device__ void settle(const FusedArgs&) {}
};
template <int kRows>
__device__ inline FusedEarly early_of(const FusedArgs& a, const StreamPlace& here) {
  if (a.ending != Ending::kAdd) return {0};
  const int i = static_cast<int>(threadIdx.x), n_groups = here.round_groups(kRoundGroups<kRows>);
  const int64_t n = int64_t{here.first + i / 8 % n_groups} * kGroupRows + i % 8;
  const int m = i / 8 / n_groups;
  return {m < a.m && n < a.segment[0].n ? residual_at(a, m, n) : 0};
}

template <int kRows>
__device__ inline void end_round(const FusedArgs& a, const Parts<kRows>& parts, int turn,
                                 const StreamPlace& here, int n_rows, const FusedEarly& early) {
  const int n_groups = here.round_groups(kRoundGroups<kRows>);
  const int first = here.first + here.round;
  if (a.ending == Ending::kGateSilu || a.ending == Ending::kGateGelu) {
    const Segment& s = a.segment[0];
    for (int i = threadIdx.x; i < n_groups / 2 * kGroupRows * n_rows; i += kStreamThreads) {
      const int row = i % kGroupRows, pair = i / kGroupRows % (n_groups / 2);
      const int m = i / kGroupRows / (n_groups / 2);
      const int64_t n = int64_t{first / 2 + pair} * kGroupRows + row;
      if (n >= s.n) continue;
      const float gate = round_sum<kRows>(parts, turn, n_groups, here.units, 2 * pair, row, m);
      const float up = round_sum<kRows>(parts, turn, n_groups, here.units, 2 * pair + 1, row, m);
      s.out[m * s.n + n] = (a.ending == Ending::kGateSilu ? silu(gate) : gelu(gate)) * up;
    }
    return;
  }
  for (int i = threadIdx.x; i < n_groups * kGroupRows * n_rows; i += kStreamThreads) {
    const int row = i % kGroupRows, group = i / kGroupRows % n_groups;
    const int m = i / kGroupRows / n_groups;
    const FlatGroup at = flat_group(a, first + group);
    const Segment& s = a.segment[at.segment];
    const int64_t n = int64_t{at.group} * kGroupRows + row;
    if (n >= s.n) continue;
    float sum = round_sum<kRows>(parts, turn, n_groups, here.units, group, row, m);
    if (a.ending == Ending::kAdd)
      sum += here.round == 0 && i < kStreamThreads ? early.residual : residual_at(a, m, n);
    s.out[m * s.n + n] = sum;
  }
}

// The block's part of the flat order.
__device__ inline StreamPlace place_of_block(const FusedArgs& a, int units) {
  const uint32_t block = blockIdx.x, more = block < a.extra ? block : a.extra;
  StreamPlace here = {};
  here.first = static_cast<int>((block * a.groups_each + more) * a.together);
  here.n_groups = static_cast<int>((a.groups_each + (block < a.extra ? 1 : 0)) * a.together);
  here.units = units;
  return here;
}

// Rows that live: a load that is under way until it is used. After wait_for_inputs().
__device__ inline int rows_alive(const RowsArgs& a) {
  const int64_t live = live_count(a.live, a.m);
  return static_cast<int>(live < 0 ? 0 : live < a.m ? live : a.m);
}

// Args is FusedArgs or derived from it, with flat_group(), early_of() and end_round() of its own.
template <int kRows, class Args>
__global__ void __launch_bounds__(kStreamThreads, 1) fused(const __grid_constant__ Args a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint4 shared[];
  __shared__ uint64_t barriers[kStreamWarps][kMaxStreamStages];
  __shared__ RowScratch<kRows> scratch;
  constexpr int kMost = kRoundGroups<kRows>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int chunks = static_cast<int>(a.chunks), n_stages = static_cast<int>(a.n_stages);
  const Q8Image image = {Q8Rows(shared, chunks, kRows)};
  const uint32_t x_bytes = static_cast<uint32_t>(chunks) * 4 * kQ8BlockBytes * kRows;
  uint8_t* const parts_at = reinterpret_cast<uint8_t*>(shared) + x_bytes;
  const Parts<kRows> parts = {reinterpret_cast<float*>(parts_at)};

  StreamPlace here = place_of_block(a, (chunks + kUnitChunks - 1) / kUnitChunks);
  here.enter(warp, kMost);
  const bool odd = chunks % 2 != 0;
  uint8_t* const ring_at = parts_at + Parts<kRows>::kBytes + warp * n_stages * a.slot_bytes;
  StreamFeed ahead;
  ahead.place = here;
  ahead.start(ring_at, barriers[warp], n_stages);
  Weights<Args> source = {a};
  int n_fed = 0;
  if (lane == 0) {
    for (int i = 0; i < n_stages; ++i) barrier_init(ahead.barriers + 8 * i);
    fence_barriers();
    const int n_early = static_cast<int>(a.n_early);
    while (n_fed < n_early && ahead.feed(source, a.slot_bytes, odd, warp, kMost)) ++n_fed;
  }
  __syncwarp();
  prefetch_norm(a);
  wait_for_inputs();

  const int n_rows = rows_alive(a);
  auto early = early_of<kRows>(a, here);
  float factor[kRows];
  prepare_rows<kRows>(a, image, n_rows, scratch, factor, [&] {
    if (lane == 0)
      while (n_fed < n_stages && ahead.feed(source, a.slot_bytes, odd, warp, kMost)) ++n_fed;
    __syncwarp();
  });
  start_next();
  early.settle(a);
  if (n_rows == 0) {  // what is on its way must come before shared memory is given back
    for (int i = 0; i < n_fed; ++i) barrier_wait(ahead.barriers + 8 * i, 0);
    return;
  }

  StreamRing ring(ring_at, barriers[warp], n_stages);
  int turn = 0;
  for (; here.more(); here.round += kMost, turn ^= 1) {
    here.enter(warp, kMost);
    while (here.unit < here.end) {
      const int n = here.run(), n_whole = odd && here.step + n == here.units ? n - 1 : n;
      const FlatGroup at = flat_group(a, here.first + here.round + here.group);
      const mica_dtype type = a.segment[at.segment].type;
      Q8Block x(image.q, here.step * kUnitChunks * 4 + lane / 8);
      float sum[kRows] = {};
      for (int i = 0; i < n; ++i) {
        ring.wait();
        dot_unit_of<kRows>(type, sum, ring.unit, x, i >= n_whole, n_rows, lane);
        x.skip(kUnitChunks * 4);
        __syncwarp();
        if (lane == 0) ahead.feed(source, a.slot_bytes, odd, warp, kMost);
        ring.next(a.slot_bytes);
      }
#pragma unroll
      for (int m = 0; m < kRows; ++m) sum[m] *= factor[m];
      put_parts<kRows>(parts, turn, here.group + warp, sum, lane);
      here.next_run(n);
    }
    __syncthreads();
    end_round<kRows>(a, parts, turn, here, n_rows, early);
  }
#endif
}

// --- Launching -----------------------------------------------------------------------------------

inline bool is_plain(const Call& matmul) {
  const mica_dtype type = matmul.in[0].dtype;
  return type == MICA_F16 || type == MICA_BF16;
}

// Why the matmul cannot be a segment beside `first`; nullptr: it can.
inline const char* segment_supports(const Call& matmul, const Call& first) {
  const Tensor &w = matmul.in[0], &x = matmul.in[1];
  const WeightType* type = find_weight_type(w.dtype);
  const bool plain = is_plain(matmul);
  if (type == nullptr || (type->parts.units == 0 && !plain))
    return "a weight is neither F16 or BF16 nor of a packed type";
  if (plain != is_plain(first)) return "some weights are F16 or BF16, and some are packed";
  if (w.storage != MICA_B_WEIGHT) return "w is not a weight";
  if (x.dim[1] > kFusedRows) return "x has more than 4 rows";
  if (x.rank > 2 || w.dim[2] != 1 || w.dim[3] != 1) return "x has several slices";
  if (w.dim[0] % 4 != 0) return "rows of x are not whole 16 bytes";
  if (plain && w.stride[1] % 16 != 0) return "rows of w are not whole 16 bytes";
  if (plain && w.dim[0] % 8 != 0) return "rows of w are not whole 16 bytes";
  if (w.dim[0] > int64_t{1} << 24 || w.dim[1] > int64_t{1} << 24) return "a weight is too large";
  return nullptr;
}
// Products with plain rows are F32.
inline uint32_t segment_numerics(const Call& matmul) {
  return is_plain(matmul) ? MICA_NUM_F32 : MICA_NUM_Q8_32;
}

// Bytes of shared memory: x in the form that products want, and parts of sums.
inline uint64_t image_bytes(bool plain, int64_t k, int64_t m) {
  const auto chunks = static_cast<uint64_t>(div_up(k, kChunkElems));
  return chunks * (plain ? kChunkElems * 4 : 4 * kQ8BlockBytes) * uint64_t(m <= 2 ? m : 4);
}
inline const char* fits(const Call& c, const Call& matmul) {
  const DeviceInfo& device = device_of(c);
  const bool plain = is_plain(matmul);
  if (!plain && device.cc < 90) return "the device has no bulk copies";
  const Tensor& x = matmul.in[1];
  return image_bytes(plain, x.dim[0], x.dim[1]) + 96 * 1024 <= device.max_shared_bytes
             ? nullptr
             : "x does not fit beside weights";
}

// False: a weight is too large, which its layout would have refused.
inline bool add_segment(FusedArgs& a, const Call& matmul, float* out) {
  const Tensor& w = matmul.in[0];
  const WeightType& type = *find_weight_type(w.dtype);
  const bool plain = is_plain(matmul);
  Packed layout = {};
  if (!plain && !packed_of(type.parts, w.dim[0], w.dim[1], 1, layout)) return false;
  Segment& s = a.segment[a.n_segments];
  const Segment* before = a.n_segments > 0 ? &a.segment[a.n_segments - 1] : nullptr;
  s.w = reinterpret_cast<const uint8_t*>(w.address);
  s.out = out;
  s.group_bytes = plain ? w.stride[1] * kGroupRows : layout.group_bytes;
  s.n = w.dim[1];
  s.first =
      before != nullptr ? before->first + static_cast<int32_t>(div_up(before->n, kGroupRows)) : 0;
  s.type = w.dtype;
  s.chunk_bytes = type.parts.chunk_bytes(), s.pair_bytes = type.parts.pair_bytes();
  a.plain = plain ? 1 : 0;
  a.chunks = static_cast<uint32_t>(div_up(w.dim[0], kChunkElems));
  const uint32_t slot_bytes = plain ? kPlainSlotBytes : s.pair_bytes;
  if (slot_bytes > a.slot_bytes) a.slot_bytes = slot_bytes;
  ++a.n_segments;
  return true;
}

// x, its rows and their number.
inline void set_x(FusedArgs& a, const Tensor& x) {
  a.x = reinterpret_cast<const uint8_t*>(x.address);
  a.x_type = x.dtype;
  a.x_stride = x.stride[1];
  a.k = x.dim[0], a.m = x.dim[1];
  a.live = x.rank == 2 ? x.live : 0;
}
inline void set_norm(FusedArgs& a, const Call& norm) {
  set_x(a, norm.in[0]);
  a.norm = reinterpret_cast<const float*>(norm.in[1].address);
  a.norm_out = reinterpret_cast<float*>(norm.out.address);
  a.norm_stride = norm.out.stride[1];
  a.eps = norm.arg<mica_rms_norm_args>().eps;
}
inline const char* norm_supports(const Call& norm) {
  const Tensor &x = norm.in[0], &w = norm.in[1];
  if (x.rank > 2) return "x has several slices";
  if (w.dtype != MICA_F32 || norm.out.dtype != MICA_F32) return "the norm is not F32";
  if (norm.out.address != 0 && norm.out.stride[1] % 16 != 0)
    return "rows of the norm are not whole 16 bytes";
  return nullptr;
}
mica_status launch_fused(Recorder& r, FusedArgs a);  // kernels/norm_matmul.cu

}  // namespace mica::cuda
