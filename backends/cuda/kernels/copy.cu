// copy: values packed, in the same or another dtype, from any strides, and from packed weights.
#include "backends/cuda/kernels/plain_rows.cuh"
#include "backends/cuda/quant/weight_type.h"
#include "backends/gpu/layouts.h"
#include "ops/copy_args.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 256;

struct CopyArgs {
  Tensor x, out;
  int64_t n_units;    // pieces of work of all rows
  int64_t row_units;  // of a row
};

// Units that are live: the extent belongs to the slowest dimension, which may be dim[0].
__device__ int64_t live_units(const CopyArgs& a) {
  if (a.out.live == 0) return a.n_units;
  const int64_t slowest = a.out.dim[a.out.rank - 1];
  int64_t n = live_count(a.out.live, slowest);
  n = n < 0 ? 0 : n > slowest ? slowest : n;
  if (a.out.rank == 1) return (a.row_units * n + slowest - 1) / slowest;
  return a.n_units / slowest * n;
}

// --- Conversions of one element -----------------------------------------------------------------

// To odd: towards zero, with the last bit set when that is not exact. Rounding the result again, to
// a narrower type, gives what rounding once would.
__device__ float odd_float(int64_t v) {
  const float f = __ll2float_rz(v);
  return static_cast<int64_t>(f) == v ? f : float_of(bits_of(f) | 1u);
}
// Half to even; what is too large becomes the largest, NaN becomes 0.
__device__ int64_t to_i64(float f) { return f != f ? 0 : __float2ll_rn(f); }
__device__ int32_t to_i32(float f) { return f != f ? 0 : __float2int_rn(f); }

__device__ void convert(mica_dtype from, const char* src, mica_dtype to, char* dst) {
  if (from == MICA_I32 || from == MICA_I64) {
    const int64_t v = from == MICA_I32 ? *reinterpret_cast<const int32_t*>(src)
                                       : *reinterpret_cast<const int64_t*>(src);
    if (to == MICA_I64) {
      *reinterpret_cast<int64_t*>(dst) = v;
    } else if (to == MICA_I32) {
      *reinterpret_cast<int32_t*>(dst) = static_cast<int32_t>(v > INT32_MAX   ? int64_t{INT32_MAX}
                                                              : v < INT32_MIN ? int64_t{INT32_MIN}
                                                                              : v);
    } else {
      store_float(to, to == MICA_F32 ? __ll2float_rn(v) : odd_float(v), dst);
    }
    return;
  }
  if (from == to) {  // bit by bit
    if (from == MICA_F32) {
      *reinterpret_cast<uint32_t*>(dst) = *reinterpret_cast<const uint32_t*>(src);
    } else {
      *reinterpret_cast<uint16_t*>(dst) = *reinterpret_cast<const uint16_t*>(src);
    }
    return;
  }
  const float f = load_float(from, src);
  if (to == MICA_I64) {
    *reinterpret_cast<int64_t*>(dst) = to_i64(f);
  } else if (to == MICA_I32) {
    *reinterpret_cast<int32_t*>(dst) = to_i32(f);
  } else {
    store_float(to, f, dst);
  }
}

// --- Kernels ------------------------------------------------------------------------------------

// Both packed and alike: bytes. A unit is 16 of them.
__global__ void __launch_bounds__(kThreads) bytes_kernel(const __grid_constant__ CopyArgs a) {
  wait_for_inputs();
  start_next();
  int64_t bytes = a.row_units;
  if (a.out.live != 0) {
    const int64_t slowest = a.out.dim[a.out.rank - 1];
    int64_t n = live_count(a.out.live, slowest);
    n = n < 0 ? 0 : n > slowest ? slowest : n;
    bytes = bytes / slowest * n;
  }
  const char* src = reinterpret_cast<const char*>(a.x.address);
  char* dst = reinterpret_cast<char*>(a.out.address);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const bool wide = (a.x.address | a.out.address) % 16 == 0;
  const int64_t n_wide = wide ? bytes / 16 : 0;
  for (int64_t i = first; i < n_wide; i += step)
    reinterpret_cast<uint4*>(dst)[i] = reinterpret_cast<const uint4*>(src)[i];
  for (int64_t i = n_wide * 16 + first; i < bytes; i += step) dst[i] = src[i];
}

// Plain to plain; a unit is an element.
__global__ void __launch_bounds__(kThreads) plain_kernel(const __grid_constant__ CopyArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n = live_units(a);
  const uint32_t bytes = block_info(a.out.dtype).bytes;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i < 0x7fffffff && a.row_units < 0x7fffffff
                            ? static_cast<uint32_t>(i) / static_cast<uint32_t>(a.row_units)
                            : i / a.row_units;
    const int64_t at = i - row * a.row_units;
    const char* src = row_at(a.x, row_index(a.x, row)) + at * a.x.stride[0];
    convert(a.x.dtype, src, a.out.dtype, reinterpret_cast<char*>(a.out.address) + i * bytes);
  }
}

// Quantized to F32; a unit is an element.
__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ CopyArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n = live_units(a);
  const BlockInfo info = block_info(a.x.dtype);
  float* out = reinterpret_cast<float*>(a.out.address);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / a.row_units;
    const int64_t at = i - row * a.row_units;
    const char* block = row_at(a.x, row_index(a.x, row)) + at / info.elems * a.x.stride[0];
    out[i] = decode_element(a.x.dtype, reinterpret_cast<const uint8_t*>(block),
                            static_cast<int>(at % info.elems));
  }
}

// To a quantized type, from F32 or from itself; a unit is a block.
__global__ void __launch_bounds__(kThreads) encode_kernel(const __grid_constant__ CopyArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n = live_units(a);
  const BlockInfo info = block_info(a.out.dtype);
  uint8_t* out = reinterpret_cast<uint8_t*>(a.out.address);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / a.row_units;
    const int64_t at = i - row * a.row_units;
    const char* src = row_at(a.x, row_index(a.x, row));
    uint8_t* dst = out + i * info.bytes;
    if (a.x.dtype == a.out.dtype) {
      const uint8_t* block = reinterpret_cast<const uint8_t*>(src + at * a.x.stride[0]);
      for (uint32_t j = 0; j < info.bytes; ++j) dst[j] = block[j];
      continue;
    }
    float x[256];
    for (uint32_t j = 0; j < info.elems; ++j)
      x[j] = *reinterpret_cast<const float*>(src + (at * info.elems + j) * a.x.stride[0]);
    encode_block(a.out.dtype, x, dst);
  }
}

mica_status record_plain(const Call& call, Recorder& recorder) {
  CopyArgs a = {call.in[0], call.out, 0, 0};
  const bool to_plain = is_plain_type(a.out.dtype);
  void (*kernel)(CopyArgs) = plain_kernel;
  if (a.x.dtype == a.out.dtype && is_packed(a.x)) {
    const BlockInfo info = block_info(a.x.dtype);
    a.row_units = elements_of(a.x) / info.elems * info.bytes;
    a.n_units = (a.row_units + 15) / 16;
    kernel = bytes_kernel;
  } else {
    a.row_units = to_plain ? a.out.dim[0] : a.out.dim[0] / block_info(a.out.dtype).elems;
    a.n_units = a.row_units * rows_of(a.out);
    if (!to_plain) {
      kernel = encode_kernel;
    } else if (!is_plain_type(a.x.dtype)) {
      kernel = decode_kernel;
    }
  }
  const int64_t n_blocks = (a.n_units + kThreads - 1) / kThreads;
  return launch(recorder, kernel, grid_for(call, n_blocks, 16), dim3(kThreads), 0, a);
}

// --- From a packed weight: through GGUF's blocks ------------------------------------------------

constexpr int64_t kUnpackBytes = 16 << 20;  // of blocks in the workspace at a time, about

bool is_packed_weight(const Tensor& x) { return x.storage == MICA_B_WEIGHT && x.layout != 0; }

// Rows whose blocks go through the workspace at a time.
int64_t rows_at_once(const Tensor& x) {
  const int64_t rows = rows_of(x), n = kUnpackBytes / x.stride[1];
  return n < 1 ? 1 : n < rows ? n : rows;
}

const char* supports(const Call& call) {
  const Tensor& x = call.in[0];
  if (!is_packed_weight(x)) return nullptr;
  const WeightType* type = find_weight_type(x.dtype);
  return type == nullptr || type->unpack == nullptr ? "the weight's type is not packed" : nullptr;
}

uint64_t workspace(const Call& call) {
  const Tensor& x = call.in[0];
  if (!is_packed_weight(x) || x.dtype == call.out.dtype) return 0;
  return static_cast<uint64_t>(rows_at_once(x) * x.stride[1]);
}

mica_status record_packed(const Call& call, Recorder& recorder) {
  const Tensor& x = call.in[0];
  const WeightType& type = *find_weight_type(x.dtype);
  PackArgs args = {};
  args.weight = reinterpret_cast<uint8_t*>(x.address);
  args.k = x.dim[0], args.n_per_slice = x.dim[1];
  if (!packed_of(type.parts, args.k, args.n_per_slice, x.dim[2] * x.dim[3], args.layout))
    return MICA_INTERNAL;
  const int64_t n_rows = rows_of(x);
  if (x.dtype == call.out.dtype) {
    args.rows = reinterpret_cast<uint8_t*>(call.out.address);
    args.n = n_rows;
    return type.unpack(recorder, args);
  }
  Call piece = call;  // rows [args.first, args.first + args.n), plain
  Tensor& blocks = piece.in[0];
  blocks.layout = 0, blocks.address = call.workspace;
  blocks.rank = piece.out.rank = 2;
  for (Tensor* t : {&blocks, &piece.out}) t->dim[2] = t->dim[3] = 1;
  args.rows = reinterpret_cast<uint8_t*>(call.workspace);
  for (; args.first < n_rows; args.first += args.n) {
    const int64_t left = n_rows - args.first, most = rows_at_once(x);
    args.n = blocks.dim[1] = piece.out.dim[1] = left < most ? left : most;
    piece.out.address = call.out.address + static_cast<uint64_t>(args.first * args.k * 4);
    mica_status status = type.unpack(recorder, args);
    if (status == MICA_OK) status = record_plain(piece, recorder);
    if (status != MICA_OK) return status;
  }
  return MICA_OK;
}

mica_status record(const Call& call, Recorder& recorder) {
  return is_packed_weight(call.in[0]) ? record_packed(call, recorder)
                                      : record_plain(call, recorder);
}

constexpr Kernel kRows[] = {
    {"copy", "", supports, numerics_exact, workspace, record, gpu::takes_weight<kLayoutRows8>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(copy, kRows, MICA_KNOWS(copy, dtype))
