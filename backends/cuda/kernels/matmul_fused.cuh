// Few rows of x times several packed weights at once, with what comes before and after: rms_norm
// ahead of the rounding of x, and sums that are stored, added to a residual or gated. As
// matmul_stream.cuh, but types are told apart when a unit is used: the weights of a layer need not
// be of one type, and one kernel does for all.
#pragma once
#include "backends/cuda/kernels/matmul_stream.cuh"
#include "ops/norm_args.h"

namespace mica::cuda {

constexpr int kMaxSegments = 4;
constexpr int64_t kFusedRows = 4;  // of x, at most

// One of the weights. Blocks own groups of a flat order over all of them.
struct Segment {
  const uint8_t* w;
  float* out;  // [n, m]
  int64_t group_bytes;
  int64_t n;      // rows
  int32_t first;  // its first group in the flat order
  mica_dtype type;
  uint32_t chunk_bytes, pair_bytes;
};

enum class Ending : uint32_t {
  kStore,
  kAdd,       // one segment: out = sum + residual
  kGateSilu,  // two segments whose groups alternate in the flat order: out = act(first) * second
  kGateGelu,
};

struct FusedArgs {
  const uint8_t* x;
  const float* norm;  // the weight of an rms_norm of x; nullptr: none
  float* norm_out;    // where its result is wanted too; nullptr: nowhere
  const float* residual;
  uint64_t live;                                   // of m
  int64_t x_stride, norm_stride, residual_stride;  // bytes between rows
  int64_t k, m;
  float eps;
  mica_dtype x_type;
  Ending ending;
  uint32_t n_segments;
  uint32_t chunks;
  uint32_t groups_each, extra;  // as in StreamArgs, in steps of `together` groups
  uint32_t together;            // 2 where a sum of one group needs that of the next
  uint32_t n_stages, slot_bytes;
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

// --- Before: rms_norm ----------------------------------------------------------------------------

// The factors of rows [0, n_rows): 1 / sqrt(mean of squares + eps). `scratch` is of the block.
template <int kRows>
__device__ inline void norm_factors(const FusedArgs& a, int n_rows,
                                    double (&scratch)[kRows][kStreamWarps], float (&out)[kRows]) {
  const int n_quads = static_cast<int>((a.k + 3) / 4);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int m = 0; m < n_rows; ++m) {
    const uint8_t* row = a.x + m * a.x_stride;
    float squares = 0;
    double exact = 0;
    for (int i = threadIdx.x; i < n_quads; i += kStreamThreads) {
      const float4 v = load_x4(a.x_type, row, int64_t{4} * i, a.k);
      squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    }
    // Beyond F32's range, or lost below it.
    if (!(squares > 1e-34f && squares < 1e38f)) {
      for (int i = threadIdx.x; i < n_quads; i += kStreamThreads) {
        const float4 v = load_x4(a.x_type, row, int64_t{4} * i, a.k);
        const double x = v.x, y = v.y, z = v.z, w = v.w;
        exact += x * x + y * y + z * z + w * w;
      }
    } else {
      exact = static_cast<double>(squares);
    }
    for (int i = 1; i < kWarp; i *= 2) exact += __shfl_xor_sync(0xffffffffu, exact, i);
    if (lane == 0) scratch[m][warp] = exact;
  }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    double sum = 0;
    for (int i = 0; i < kStreamWarps; ++i) sum += m < n_rows ? scratch[m][i] : 0.0;
    const double mean = sum / static_cast<double>(a.k) + static_cast<double>(a.eps);
    // In F32 where its range allows: a double's root takes long.
    out[m] = mean > 1e-30 && mean < 1e38 ? 1.0f / sqrtf(static_cast<float>(mean))
                                         : static_cast<float>(1.0 / sqrt(mean));
  }
}

// Rounds rows [0, n_rows), normed if that is wanted.
template <int kRows>
__device__ inline void prepare_rows(const FusedArgs& a, int n_rows, const Q8Rows& q,
                                    double (&scratch)[kRows][kStreamWarps]) {
  float factor[kRows] = {};
  if (a.norm != nullptr) norm_factors<kRows>(a, n_rows, scratch, factor);
  const int n_quads = q.n_blocks * 8, first = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (m >= n_rows) break;
    const uint8_t* row = a.x + m * a.x_stride;
    const auto load = [&](int i) {
      float4 v = load_x4(a.x_type, row, int64_t{4} * i, a.k);
      if (a.norm == nullptr || 4 * i >= a.k) return v;
      const float4 w = reinterpret_cast<const float4*>(a.norm)[i];
      v.x = v.x * factor[m] * w.x, v.y = v.y * factor[m] * w.y;
      v.z = v.z * factor[m] * w.z, v.w = v.w * factor[m] * w.w;
      if (a.norm_out != nullptr && blockIdx.x == 0)
        *reinterpret_cast<float4*>(reinterpret_cast<uint8_t*>(a.norm_out) + m * a.norm_stride +
                                   16 * i) = v;
      return v;
    };
    round_quads(q, m, first, n_quads, kStreamThreads, load);
  }
}

// --- After ---------------------------------------------------------------------------------------

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
// x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ inline float gelu(float x) {
  const float u = 0.7978845608028654f * x * (1.0f + 0.044715f * x * x);
  return 0.5f * x * (1.0f + tanhf(u));
}

template <int kRows>
__device__ inline void end_round(const FusedArgs& a, const Parts<kRows>& parts, int turn,
                                 const StreamPlace& here, int n_rows) {
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
      sum += *reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(a.residual) +
                                             m * a.residual_stride + 4 * n);
    s.out[m * s.n + n] = sum;
  }
}

// Args is FusedArgs or derived from it, with flat_group() and end_round() of its own.
template <int kRows, class Args>
__global__ void __launch_bounds__(kStreamThreads, kRows <= 2 ? 2 : 1)
    fused(const __grid_constant__ Args a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  __shared__ uint64_t barriers[kStreamWarps][kMaxStreamStages];
  __shared__ double scratch[kRows][kStreamWarps];
  constexpr int kMost = kRoundGroups<kRows>;
  start_next();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int chunks = static_cast<int>(a.chunks), n_stages = static_cast<int>(a.n_stages);
  const Q8Rows q(shared, chunks, kRows);
  const uint32_t x_bytes = static_cast<uint32_t>(chunks) * 4 * kQ8BlockBytes * kRows;
  uint8_t* const parts_at = reinterpret_cast<uint8_t*>(shared) + x_bytes;
  const Parts<kRows> parts = {reinterpret_cast<float*>(parts_at)};

  const uint32_t block = blockIdx.x, more = block < a.extra ? block : a.extra;
  StreamPlace here = {};
  here.first = static_cast<int>((block * a.groups_each + more) * a.together);
  here.n_groups = static_cast<int>((a.groups_each + (block < a.extra ? 1 : 0)) * a.together);
  here.units = (chunks + kUnitChunks - 1) / kUnitChunks;
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
    while (n_fed < n_stages && ahead.feed(source, a.slot_bytes, odd, warp, kMost)) ++n_fed;
  }
  __syncwarp();
  wait_for_inputs();

  const int64_t live = live_count(a.live, a.m);
  const int n_rows = static_cast<int>(live < 0 ? 0 : live < a.m ? live : a.m);
  if (n_rows == 0) {  // what is on its way must come before shared memory is given back
    for (int i = 0; i < n_fed; ++i) barrier_wait(ahead.barriers + 8 * i, 0);
    return;
  }
  prepare_rows<kRows>(a, n_rows, q, scratch);
  __syncthreads();

  StreamRing ring(ring_at, barriers[warp], n_stages);
  int turn = 0;
  for (; here.more(); here.round += kMost, turn ^= 1) {
    here.enter(warp, kMost);
    while (here.unit < here.end) {
      const int n = here.run(), n_whole = odd && here.step + n == here.units ? n - 1 : n;
      const FlatGroup at = flat_group(a, here.first + here.round + here.group);
      const mica_dtype type = a.segment[at.segment].type;
      Q8Block x(q, here.step * kUnitChunks * 4 + lane / 8);
      float sum[kRows] = {};
      for (int i = 0; i < n; ++i) {
        ring.wait();
        dot_unit_of<kRows>(type, sum, ring.unit, x, i >= n_whole, n_rows, lane);
        x.skip(kUnitChunks * 4);
        __syncwarp();
        if (lane == 0) ahead.feed(source, a.slot_bytes, odd, warp, kMost);
        ring.next(a.slot_bytes);
      }
      put_parts<kRows>(parts, turn, here.group + warp, sum, lane);
      here.next_run(n);
    }
    __syncthreads();
    end_round<kRows>(a, parts, turn, here, n_rows);
  }
#endif
}

// --- Launching -----------------------------------------------------------------------------------

// Why the matmul cannot be a segment beside the others; nullptr: it can.
inline const char* segment_supports(const Call& matmul) {
  const Tensor &w = matmul.in[0], &x = matmul.in[1];
  const WeightType* type = find_weight_type(w.dtype);
  if (type == nullptr || type->parts.units == 0) return "a weight is not of a packed type";
  if (w.storage != MICA_B_WEIGHT) return "w is not a weight";
  if (x.dim[1] > kFusedRows) return "x has more than 4 rows";
  if (x.rank > 2 || w.dim[2] != 1 || w.dim[3] != 1) return "x has several slices";
  if (w.dim[0] % 4 != 0) return "rows of x are not whole 16 bytes";
  if (w.dim[0] > int64_t{1} << 24 || w.dim[1] > int64_t{1} << 24) return "a weight is too large";
  return nullptr;
}

inline bool fits(const Call& c, int64_t k, int64_t m) {
  const uint64_t image =
      uint64_t(div_up(k, kChunkElems)) * 4 * kQ8BlockBytes * uint64_t(m <= 2 ? m : 4);
  return device_of(c).cc >= 90 && image + 96 * 1024 <= device_of(c).max_shared_bytes;
}

// False: a weight is too large, which its layout would have refused.
inline bool add_segment(FusedArgs& a, const Call& matmul, float* out) {
  const Tensor& w = matmul.in[0];
  const WeightType& type = *find_weight_type(w.dtype);
  Packed layout = {};
  if (!packed_of(type.parts, w.dim[0], w.dim[1], 1, layout)) return false;
  Segment& s = a.segment[a.n_segments];
  const Segment* before = a.n_segments > 0 ? &a.segment[a.n_segments - 1] : nullptr;
  s.w = reinterpret_cast<const uint8_t*>(w.address);
  s.out = out;
  s.group_bytes = layout.group_bytes;
  s.n = w.dim[1];
  s.first =
      before != nullptr ? before->first + static_cast<int32_t>(div_up(before->n, kGroupRows)) : 0;
  s.type = w.dtype;
  s.chunk_bytes = type.parts.chunk_bytes(), s.pair_bytes = type.parts.pair_bytes();
  a.chunks = static_cast<uint32_t>(layout.chunks);
  if (s.pair_bytes > a.slot_bytes) a.slot_bytes = s.pair_bytes;
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

// The grid and the ring: a.together is set, and all segments are there.
template <int kRows, class Args>
mica_status launch_rows(Recorder& r, Args& a) {
  const uint64_t fixed = uint64_t{a.chunks} * 4 * kQ8BlockBytes * kRows + Parts<kRows>::kBytes;
  const uint64_t stage = uint64_t{kStreamWarps} * a.slot_bytes;
  // Half of a multiprocessor's shared memory: so the next kernel can start beside this one.
  const uint64_t half = r.device->max_shared_bytes / 2 - 3072;
  uint64_t stages = fixed < half ? (half - fixed) / stage : 0;
  stages = stages < 2 ? 2 : stages > kMaxStreamStages ? kMaxStreamStages : stages;
  a.n_stages = static_cast<uint32_t>(stages);
  const Segment& last = a.segment[a.n_segments - 1];
  const auto groups = static_cast<uint32_t>(last.first + div_up(last.n, kGroupRows));
  const uint32_t steps = groups / a.together, n_sms = static_cast<uint32_t>(r.device->n_sms);
  const uint32_t blocks = steps < n_sms ? steps : n_sms;
  a.groups_each = steps / blocks, a.extra = steps % blocks;
  return launch(r, fused<kRows, Args>, dim3(blocks), dim3(kStreamThreads), fixed + stages * stage,
                a);
}

// a.m is 1 to kFusedRows.
template <class Args>
mica_status launch_args(Recorder& r, Args& a) {
  if (a.m == 1) return launch_rows<1>(r, a);
  if (a.m == 2) return launch_rows<2>(r, a);
  return launch_rows<4>(r, a);
}
mica_status launch_fused(Recorder& r, FusedArgs a);  // kernels/norm_matmul.cu

}  // namespace mica::cuda
