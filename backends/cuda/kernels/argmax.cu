// argmax: the index of the largest element of each row. Long rows are cut over several blocks,
// whose answers a second launch compares.
#include "backends/cuda/kernels/select.cuh"

namespace mica::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPartElems = 2048;

struct ArgmaxArgs {
  Tensor x;
  uint64_t out, parts;
  uint32_t n_parts;  // blocks a row
};

uint32_t n_parts_of(const Call& call) {
  const Tensor& x = call.in[0];
  const int64_t wanted = (x.dim[0] + kPartElems - 1) / kPartElems;
  const int64_t room = int64_t{2} * device_of(call).n_sms / rows_of(x);
  const int64_t n = wanted < room ? wanted : room;
  return static_cast<uint32_t>(n < 1 ? 1 : n);
}

__device__ uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// A block a part of a row; grid: (n_parts, rows).
__global__ void __launch_bounds__(kThreads) argmax_kernel(const __grid_constant__ ArgmaxArgs a) {
  __shared__ uint64_t scratch[32];
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.x);
  const int64_t n = a.x.dim[0];
  const int64_t part = (n + a.n_parts - 1) / a.n_parts;
  const int64_t begin = part * blockIdx.x;
  const int64_t end = min(n, begin + part);
  for (int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
    const float* x = reinterpret_cast<const float*>(row_at(a.x, row_index(a.x, row)));
    uint64_t best = 0;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
      best = larger(best, rank_of(x[i], i));
    best = reduce_block(best, scratch, larger);
    if (threadIdx.x != 0) continue;
    if (a.n_parts == 1) {
      reinterpret_cast<int32_t*>(a.out)[row] = index_of(best);
    } else {
      reinterpret_cast<uint64_t*>(a.parts)[row * a.n_parts + blockIdx.x] = best;
    }
  }
}

// A warp a row.
__global__ void __launch_bounds__(32) merge_kernel(const __grid_constant__ ArgmaxArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.x);
  for (int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const uint64_t* parts = reinterpret_cast<const uint64_t*>(a.parts) + row * a.n_parts;
    uint64_t best = 0;
    for (uint32_t i = threadIdx.x; i < a.n_parts; i += 32) best = larger(best, parts[i]);
    for (int offset = 16; offset > 0; offset /= 2)
      best = larger(best, __shfl_xor_sync(0xffffffffu, best, offset));
    if (threadIdx.x == 0) reinterpret_cast<int32_t*>(a.out)[row] = index_of(best);
  }
}

uint64_t workspace(const Call& call) {
  const uint64_t n = n_parts_of(call);
  return n == 1 ? 0 : n * static_cast<uint64_t>(rows_of(call.in[0])) * 8;
}

mica_status record(const Call& call, Recorder& recorder) {
  const ArgmaxArgs a = {call.in[0], call.out.address, call.workspace, n_parts_of(call)};
  const int64_t rows = rows_of(a.x) < 32768 ? rows_of(a.x) : 32768;
  const dim3 grid(a.n_parts, static_cast<unsigned>(rows));
  const mica_status status = launch(recorder, argmax_kernel, grid, dim3(kThreads), 0, a);
  if (status != MICA_OK || a.n_parts == 1) return status;
  return launch(recorder, merge_kernel, dim3(static_cast<unsigned>(rows)), dim3(32), 0, a);
}

constexpr Kernel kRows[] = {{"argmax", "", nullptr, numerics_exact, workspace, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(argmax, kRows)
