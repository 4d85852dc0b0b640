// matmul: which of the kernels multiplies, and bringing x to the form that tiles want. The kernels
// are in matmul_*.cuh and compiled once a type of weight, in quant/<type>.cu.
#include "backends/cuda/kernels/matmul/matmul_lt.cuh"
#include "backends/cuda/kernels/matmul/matmul_stream.cuh"
#include "backends/cuda/kernels/matmul/matmul_tiles.cuh"
#include "backends/cuda/kernels/matmul/matmul_wgmma.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {

constexpr int kPrepareThreads = 1024;  // at most
constexpr int kPrepareUnits = 2;       // of 8 elements, that a thread holds at a time
constexpr int kFinishThreads = 128;

// The eight elements of a unit of a row, zeros beyond K. In the order of fragments a thread t of
// four finds its eight of a block of 32 together, as pairs in the order in which nibbles come out
// of a word: 4t, 4t + 2, 4t + 1, 4t + 3, and the same from 16 on.
struct Eight {
  float v[8];
};
__device__ inline Eight load_unit(const PrepareArgs& p, const uint8_t* row, int unit) {
  const MatmulArgs& a = p.a;
  if (p.ordered) {
    const float4 l = load_x4(a.x_type, row, int64_t{unit} * 8, a.k);
    const float4 h = load_x4(a.x_type, row, int64_t{unit} * 8 + 4, a.k);
    return {l.x, l.y, l.z, l.w, h.x, h.y, h.z, h.w};
  }
  const int64_t at = int64_t{unit / 4} * 32 + unit % 4 * 4;
  const float4 l = load_x4(a.x_type, row, at, a.k), h = load_x4(a.x_type, row, at + 16, a.k);
  return {l.x, l.z, l.y, l.w, h.x, h.z, h.y, h.w};
}
// A thread's units of a row from `first` on: kPrepareUnits of them, a block apart. Those beyond the
// row are left as they are.
struct Units {
  Eight at[kPrepareUnits];
  __device__ void load(const PrepareArgs& p, const uint8_t* row, int first, int n_units) {
#pragma unroll
    for (int j = 0; j < kPrepareUnits; ++j) {
      const int unit = first + j * static_cast<int>(blockDim.x);
      if (unit < n_units) at[j] = load_unit(p, row, unit);
    }
  }
};
// The bits of the largest magnitude: they compare as integers do, not-a-number above infinity.
__device__ inline int most_of(const Eight& x) {
  int most = 0;
#pragma unroll
  for (const float v : x.v) most = max(most, static_cast<int>(bits_of(v) & 0x7fffffffu));
  return most;
}
// Over the block. `scratch` is free again behind the block's next barrier.
__device__ inline int most_of_block(int most, int (&scratch)[kWarp]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int n_warps = static_cast<int>(blockDim.x) / kWarp;
  most = __reduce_max_sync(0xffffffffu, most);
  if (lane == 0) scratch[warp] = most;
  __syncthreads();
  return __reduce_max_sync(0xffffffffu, lane < n_warps ? scratch[lane] : 0);
}

// Rounds a unit to its place; returns the sum of what it became.
__device__ inline float store_unit(const PrepareArgs& p, uint4* row, int unit, const Eight& x,
                                   float power) {
  uint32_t pair[4];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.bf16) {
      pair[i] = f32_to_bf16(x.v[2 * i]) | static_cast<uint32_t>(f32_to_bf16(x.v[2 * i + 1])) << 16;
      continue;
    }
    const __half2 v = __floats2half2_rn(x.v[2 * i] * power, x.v[2 * i + 1] * power);
    pair[i] = *reinterpret_cast<const uint32_t*>(&v);
    sum += __low2float(v), sum += __high2float(v);
  }
  row[unit] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
  return sum;
}

// The block's units from `first` on; all threads of it, for sums of four.
__device__ inline void store_units(const PrepareArgs& p, int64_t i_slice, int64_t m, int first,
                                   int n_units, const Units& x, float power) {
  uint4* row = reinterpret_cast<uint4*>(p.x) + (i_slice * p.m_padded + m) * n_units;
#pragma unroll
  for (int j = 0; j < kPrepareUnits; ++j) {
    const int unit = first + j * static_cast<int>(blockDim.x);
    float sum = unit < n_units ? store_unit(p, row, unit, x.at[j], power) : 0.0f;
    if (p.sums == nullptr) continue;
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (unit < n_units && unit % 4 == 0)
      p.sums[(i_slice * p.chunks * 4 + unit / 4) * p.m_padded + m] = sum;
  }
}

// By a block, bit by bit.
__device__ inline void copy_row(float4* to, const float4* from, int64_t n) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}

// A block takes a row at a time. Of most rows its threads hold all at a time: they are read once.
__global__ void __launch_bounds__(kPrepareThreads) prepare_tiles(const PrepareArgs p) {
  __shared__ int scratch[2][kWarp];
  wait_for_inputs();
  start_next();
  const MatmulArgs& a = p.a;
  const int n_units = static_cast<int>(p.chunks) * 16, thread = static_cast<int>(threadIdx.x);
  const int step = kPrepareUnits * static_cast<int>(blockDim.x);
  int turn = 0;
  for (int64_t i = blockIdx.x; i < a.m * a.b2 * a.b3; i += gridDim.x) {
    const int64_t m = i % a.m, i_slice = i / a.m;
    if (m >= live_rows(a, i_slice)) {
      const auto* held = reinterpret_cast<const float4*>(a.out) + m * (a.n / 4);
      if (p.kept != nullptr) copy_row(p.kept + m * (a.n / 4), held, a.n / 4);
      continue;
    }
    const uint8_t* row = slice_of(a, i_slice).x + m * a.x_stride[0];
    Units x = {};
    int most = 0;
    for (int first = 0; first < n_units; first += step) {
      x.load(p, row, first + thread, n_units);
#pragma unroll
      for (const Eight& eight : x.at) most = max(most, most_of(eight));
    }
    most = most_of_block(most, scratch[turn]);
    turn ^= 1;
    const uint32_t power = p.bf16 ? 127u << 23 : power_for(static_cast<uint32_t>(most));
    if (thread == 0) p.factors[i_slice * p.m_padded + m] = factor_of(power);
    for (int first = 0; first < n_units; first += step) {
      if (n_units > step) x.load(p, row, first + thread, n_units);
      store_units(p, i_slice, m, first + thread, n_units, x, float_of(power));
    }
  }
}

const void* wgmma_kernel() { return reinterpret_cast<const void*>(wgmma<2, 256, 2, false>); }

mica_status launch_prepare(Recorder& r, const PrepareArgs& p) {
  const int64_t rows = p.a.m * p.a.b2 * p.a.b3, most = int64_t{r.device->n_sms} * 32;
  const int64_t held = div_up(p.chunks * 16, kPrepareUnits);  // threads that would hold a row
  const int64_t threads = held < kPrepareThreads ? div_up(held, kWarp) * kWarp : kPrepareThreads;
  return launch(r, prepare_tiles, dim3(static_cast<uint32_t>(rows < most ? rows : most)),
                dim3(static_cast<uint32_t>(threads)), 0, p);
}

// A row a block along x, a slice along y, 1024 quads along z.
__global__ void __launch_bounds__(256) round_x(const RoundArgs r) {
  constexpr int kQuads = 1024;
  wait_for_inputs();
  start_next();
  const int m = static_cast<int>(blockIdx.x);
  if (m >= live_rows(r.a, blockIdx.y)) return;
  const uint64_t image = uint64_t(r.chunks) * 4 * kQ8BlockBytes * r.n_rows;
  const Q8Rows q(r.q8 + image * blockIdx.y, r.chunks, r.n_rows);
  const uint8_t* row = slice_of(r.a, blockIdx.y).x + m * r.a.x_stride[0];
  const int first = static_cast<int>(blockIdx.z) * kQuads, all = q.n_blocks * 8;
  round_row(r.a, row, m, q, first + static_cast<int>(threadIdx.x),
            first + kQuads < all ? first + kQuads : all, 256);
}

mica_status launch_round(Recorder& r, const RoundArgs& args) {
  const dim3 grid(static_cast<uint32_t>(args.a.m), static_cast<uint32_t>(args.a.b2 * args.a.b3),
                  static_cast<uint32_t>(div_up(args.chunks * 32, 1024)));
  return launch(r, round_x, grid, dim3(256), 0, args);
}

// Rows of the result after cuBLASLt, a block a row: those that are not live get back what they
// held, the others are multiplied by their factors, which mostly are 1.
__global__ void __launch_bounds__(kFinishThreads) finish_rows(const FinishArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t live = live_count(a.live, a.m), n = a.n / 4;
  for (int64_t m = blockIdx.x; m < a.m; m += gridDim.x) {
    auto* out = reinterpret_cast<float4*>(a.out) + m * n;
    if (m >= live) {
      copy_row(out, reinterpret_cast<const float4*>(a.kept) + m * n, n);
      continue;
    }
    const float factor = a.factors[m];
    if (factor == 1.0f) continue;
    for (int64_t i = threadIdx.x; i < n; i += kFinishThreads) {
      const float4 v = out[i];
      out[i] = make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
    }
  }
}

mica_status launch_finish(Recorder& r, const FinishArgs& a) {
  const int64_t most = int64_t{r.device->n_sms} * 16;
  return launch(r, finish_rows, dim3(static_cast<uint32_t>(a.m < most ? a.m : most)),
                dim3(kFinishThreads), 0, a);
}

namespace {

constexpr int64_t kMatvecRows = 8;        // of x
constexpr uint64_t kStaticShared = 8192;  // at least what kernels declare themselves

MatmulArgs matmul_args(const Call& c) {
  const Tensor &w = c.in[0], &x = c.in[1];
  MatmulArgs a = {};
  a.w = reinterpret_cast<const uint8_t*>(w.address);
  a.x = reinterpret_cast<const uint8_t*>(x.address);
  a.out = reinterpret_cast<float*>(c.out.address);
  a.workspace = reinterpret_cast<void*>(c.workspace);
  a.live = x.live;
  for (int i = 0; i < 3; ++i) a.w_stride[i] = w.stride[i + 1], a.x_stride[i] = x.stride[i + 1];
  a.k = x.dim[0], a.n = w.dim[1], a.m = x.dim[1], a.b2 = x.dim[2], a.b3 = x.dim[3];
  a.c2 = w.dim[2];
  a.r2 = x.dim[2] / w.dim[2], a.r3 = x.dim[3] / w.dim[3];
  a.rank = x.rank;
  const WeightType* type = find_weight_type(w.dtype);
  a.w_constant = w.storage == MICA_B_WEIGHT ? 1 : 0;
  a.packed = a.w_constant != 0 && type != nullptr && type->parts.units != 0 ? 1 : 0;
  a.w_type = w.dtype, a.x_type = x.dtype;
  return a;
}

// False: w is too large to be packed, which its layout would have refused.
bool bind_layout(MatmulArgs& a, const Call& c) {
  const WeightType& type = *find_weight_type(c.in[0].dtype);
  return !a.packed || packed_of(type.parts, a.k, a.n, c.in[0].dim[2] * c.in[0].dim[3], a.layout);
}

const char* supports_any(const Call& c) {
  const WeightType* type = find_weight_type(c.in[0].dtype);
  if (type == nullptr || type->naive == nullptr) return "w's type cannot be multiplied";
  return nullptr;
}

// --- matvec: few rows of x; F32 weights with any number of them ----------------------------------

bool is_plain(const Call& c) { return find_weight_type(c.in[0].dtype)->parts.units == 0; }
int64_t bytes_of(mica_dtype float_type) { return float_type == MICA_F32 ? 4 : 2; }

const char* supports_matvec(const Call& c) {
  if (const char* why = supports_any(c); why != nullptr) return why;
  const MatmulArgs a = matmul_args(c);
  const bool plain = is_plain(c);
  if (find_weight_type(a.w_type)->matvec == nullptr) return "w's type has no matvec kernel";
  if (!plain && !a.packed) return "quantized values of the step are not packed";
  if (a.m > kMatvecRows && a.w_type != MICA_F32) return "x has more than 8 rows";
  if (a.b2 * a.b3 > 65535) return "there are more than 65535 slices";
  const uint64_t room = device_of(c).max_shared_bytes - kStaticShared;
  if (!plain) {
    if (a.k > int64_t{1} << 24 || a.n > int64_t{1} << 27)
      return "rows or columns of w are too many";
    // Of the ring the least is what the largest units need twice; of Q8_0 that is 70 KiB.
    const uint64_t ring = device_of(c).cc >= 90 ? 82 * 1024 : 0;
    return q8_bytes(a) + ring <= room ? nullptr : "x does not fit into shared memory";
  }
  if (c.in[0].address % 16 != 0) return "w does not start at a multiple of 16 bytes";
  const int64_t bytes = bytes_of(a.w_type);
  if (a.k * bytes % 16 != 0) return "rows of w are not whole 16 bytes";
  for (int i = 0; i < 3; ++i)
    if (a.w_stride[i] % 16 != 0) return "rows of w do not start at multiples of 16 bytes";
  if (a.m > 65535) return "x has more than 65535 rows";
  return uint64_t(a.k) * 4 <= room ? nullptr : "x does not fit into shared memory";
}
uint64_t workspace_matvec(const Call& c) {
  const MatmulArgs a = matmul_args(c);
  if (is_plain(c) || device_of(c).cc < 90 || !round_ahead(a.m)) return 0;
  return q8_bytes(a) * uint64_t(a.b2 * a.b3);
}
uint32_t numerics_matvec(const Call& c) { return is_plain(c) ? MICA_NUM_F32 : MICA_NUM_Q8_32; }

mica_status record_matvec(const Call& c, Recorder& r) {
  MatmulArgs a = matmul_args(c);
  if (!bind_layout(a, c)) return MICA_INTERNAL;
  return find_weight_type(a.w_type)->matvec(r, a);
}

// --- tiles: many rows of x -----------------------------------------------------------------------

const char* supports_tiles(const Call& c) {
  if (const char* why = supports_any(c); why != nullptr) return why;
  const MatmulArgs a = matmul_args(c);
  if (find_weight_type(a.w_type)->tiles == nullptr) return "w's type has no tile kernel";
  if (!is_plain(c) && !a.packed) return "quantized values of the step are not packed";
  if (a.b2 * a.b3 > 65535) return "there are more than 65535 slices";
  if (div_up(a.m, 16) > 65535) return "x has more than 2^20 rows";
  return nullptr;
}
uint32_t numerics_tiles(const Call& c) {
  return c.in[0].dtype == MICA_BF16 ? MICA_NUM_BF16 : MICA_NUM_F16;
}
// cuBLASLt and wgmma multiply rows of F16 that were made of packed weights.
uint32_t numerics_halves(const Call& c) {
  if (c.in[0].dtype == MICA_BF16) return MICA_NUM_BF16;
  return is_plain(c) ? MICA_NUM_F16 : MICA_NUM_F16_W;
}
uint64_t workspace_tiles(const Call& c) { return plan_tiles(matmul_args(c)).bytes; }

mica_status record_tiles(const Call& c, Recorder& r) {
  MatmulArgs a = matmul_args(c);
  if (!bind_layout(a, c)) return MICA_INTERNAL;
  return find_weight_type(a.w_type)->tiles(r, a);
}

// --- cuBLASLt: many more rows of x ---------------------------------------------------------------

const char* supports_lt(const Call& c) {
  if (const char* why = supports_any(c); why != nullptr) return why;
  const MatmulArgs a = matmul_args(c);
  return lt_supports(c, a, *find_weight_type(a.w_type));
}
uint64_t workspace_lt(const Call& c) { return plan_lt(matmul_args(c)).bytes; }

mica_status record_lt(const Call& c, Recorder& r) {
  MatmulArgs a = matmul_args(c);
  if (!bind_layout(a, c)) return MICA_INTERNAL;
  return record_lt_product(r, a, *find_weight_type(a.w_type));
}

// --- wgmma: the same without cuBLASLt, on sm_90a -------------------------------------------------

const char* supports_wgmma(const Call& c) {
  if (const char* why = supports_any(c); why != nullptr) return why;
  const MatmulArgs a = matmul_args(c);
  return wgmma_supports(c, a, *find_weight_type(a.w_type));
}
uint64_t workspace_wgmma(const Call& c) { return plan_lt(matmul_args(c)).dead_at; }

mica_status record_wgmma(const Call& c, Recorder& r) {
  MatmulArgs a = matmul_args(c);
  if (!bind_layout(a, c)) return MICA_INTERNAL;
  return record_wgmma_product(r, a, *find_weight_type(a.w_type));
}

// --- naive ---------------------------------------------------------------------------------------

uint32_t numerics_naive(const Call&) { return MICA_NUM_F32; }

mica_status record_naive(const Call& c, Recorder& r) {
  MatmulArgs a = matmul_args(c);
  if (!bind_layout(a, c)) return MICA_INTERNAL;
  return find_weight_type(a.w_type)->naive(r, a);
}

constexpr Kernel rows[] = {
    {"matmul", "matvec", supports_matvec, numerics_matvec, workspace_matvec, record_matvec,
     gpu::takes_weight<kLayoutRows8>},
    {"matmul", "cublaslt", supports_lt, numerics_halves, workspace_lt, record_lt,
     gpu::takes_weight<kLayoutRows8>},
    {"matmul", "wgmma", supports_wgmma, numerics_halves, workspace_wgmma, record_wgmma,
     gpu::takes_weight<kLayoutRows8>},
    {"matmul", "tiles", supports_tiles, numerics_tiles, workspace_tiles, record_tiles,
     gpu::takes_weight<kLayoutRows8>},
    {"matmul", "naive", supports_any, numerics_naive, nullptr, record_naive,
     gpu::takes_weight<kLayoutRows8>},
};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(matmul, mica::cuda::rows)
