// matmul: which of the kernels multiplies, and bringing x to the form that tiles want. The kernels
// are in matmul_*.cuh and compiled once a type of weight, in quant/<type>.cu.
#include "backends/cuda/kernels/matmul/matmul_lt.cuh"
#include "backends/cuda/kernels/matmul/matmul_stream.cuh"
#include "backends/cuda/kernels/matmul/matmul_tiles.cuh"
#include "backends/cuda/kernels/matmul/matmul_wgmma.cuh"
#include "backends/gpu/layouts.h"

namespace mica::cuda {

// Eight places a thread; four threads have a block of 32.
__global__ void __launch_bounds__(256) prepare_tiles(const PrepareArgs p) {
  wait_for_inputs();
  start_next();
  const MatmulArgs& a = p.a;
  const int64_t units = p.chunks * 16;  // of 8 elements
  const int64_t total = units * a.m * a.b2 * a.b3;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t rounded = (total + 31) / 32 * 32;  // whole warps: sums are shuffled
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rounded; i += step) {
    const int64_t unit = i % units, m = i / units % a.m, i_slice = i / units / a.m;
    const bool here = i < total && m < live_rows(a, i_slice);
    float sum = 0;
    if (here) {
      const uint8_t* row = slice_of(a, i_slice).x + m * a.x_stride[0];
      uint16_t bits[8];
      for (int j = 0; j < 8; ++j) {
        const int64_t at = p.ordered
                               ? unit * 8 + j
                               : unit / 4 * 32 + fragment_elem(static_cast<int>(unit % 4) * 8 + j);
        const float v = at < a.k ? load_x(a.x_type, row, at) : 0.0f;
        bits[j] = p.bf16 ? f32_to_bf16(v) : f32_to_f16(v);
        if (p.sums != nullptr) sum += f16_to_f32(bits[j]);
      }
      uint4 v;
      v.x = bits[0] | static_cast<uint32_t>(bits[1]) << 16;
      v.y = bits[2] | static_cast<uint32_t>(bits[3]) << 16;
      v.z = bits[4] | static_cast<uint32_t>(bits[5]) << 16;
      v.w = bits[6] | static_cast<uint32_t>(bits[7]) << 16;
      reinterpret_cast<uint4*>(p.x)[(i_slice * p.m_padded + m) * units + unit] = v;
    }
    if (p.sums == nullptr) continue;
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (here && unit % 4 == 0) p.sums[(i_slice * p.chunks * 4 + unit / 4) * p.m_padded + m] = sum;
  }
}

const void* wgmma_kernel() { return reinterpret_cast<const void*>(wgmma<2, 256, 2, false>); }

mica_status launch_prepare(Recorder& r, const PrepareArgs& p) {
  const int64_t units = p.chunks * 16 * p.a.m * p.a.b2 * p.a.b3;
  const int64_t blocks = div_up(units, 256), most = int64_t{r.device->n_sms} * 32;
  return launch(r, prepare_tiles, dim3(static_cast<uint32_t>(blocks < most ? blocks : most)),
                dim3(256), 0, p);
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

// Four elements a thread.
__global__ void __launch_bounds__(256) copy_dead_rows(const DeadRowsArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t live = live_count(a.live, a.m), row = a.n / 4;
  const auto* from = reinterpret_cast<const float4*>(a.from);
  auto* to = reinterpret_cast<float4*>(a.to);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t first = (live < 0 ? 0 : live) * row;
  for (int64_t i = first + int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.m * row; i += step)
    to[i] = from[i];
}

mica_status launch_dead_rows(Recorder& r, const DeadRowsArgs& a) {
  const int64_t blocks = div_up(a.m * (a.n / 4), 256), most = int64_t{r.device->n_sms} * 8;
  return launch(r, copy_dead_rows, dim3(static_cast<uint32_t>(blocks < most ? blocks : most)),
                dim3(256), 0, a);
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
