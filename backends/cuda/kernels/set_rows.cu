// set_rows: scatters rows into an input of the step, converted to its type bit by bit.
#include "backends/cuda/kernels/plain_rows.cuh"

namespace mica::cuda {
namespace {

constexpr int kThreads = 128;

struct SetRowsArgs {
  Tensor dst, src, ids;
};

__device__ int64_t id_at(const Tensor& ids, int64_t i) {
  return ids.dtype == MICA_I64 ? reinterpret_cast<const int64_t*>(ids.address)[i]
                               : reinterpret_cast<const int32_t*>(ids.address)[i];
}

__device__ void put_block(const SetRowsArgs& a, const char* src, int64_t block, char* dst) {
  const BlockInfo info = block_info(a.dst.dtype);
  float x[256];
  for (uint32_t i = 0; i < info.elems; ++i)
    x[i] = float_at(a.src.dtype, src, block * info.elems + i);
  encode_block(a.dst.dtype, x, reinterpret_cast<uint8_t*>(dst) + block * info.bytes);
}

// A block of threads a row. Where ids repeat, the last row wins.
__global__ void __launch_bounds__(kThreads) set_rows_kernel(const __grid_constant__ SetRowsArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n = min(live_count(a.ids.live, a.ids.dim[0]), a.ids.dim[0]);
  const bool is_float = is_float_type(a.dst.dtype);
  for (int64_t row = blockIdx.x; row < n; row += gridDim.x) {
    const int64_t id = id_at(a.ids, row);
    if (id < 0 || id >= a.dst.dim[1]) continue;
    bool again = false;
    for (int64_t i = row + 1 + threadIdx.x; i < n; i += kThreads) again |= id_at(a.ids, i) == id;
    if (__syncthreads_or(again) != 0) continue;
    const char* src = reinterpret_cast<const char*>(a.src.address) + row * a.src.stride[1];
    char* dst = reinterpret_cast<char*>(a.dst.address) + id * a.dst.stride[1];
    if (is_float) {
      const int bytes = a.dst.dtype == MICA_F32 ? 4 : 2;
      for (int64_t i = threadIdx.x; i < a.dst.dim[0]; i += kThreads)
        store_float(a.dst.dtype, float_at(a.src.dtype, src, i), dst + i * bytes);
    } else {
      const int64_t n_blocks = a.dst.dim[0] / block_info(a.dst.dtype).elems;
      for (int64_t i = threadIdx.x; i < n_blocks; i += kThreads) put_block(a, src, i, dst);
    }
  }
}

mica_status record(const Call& call, Recorder& recorder) {
  const SetRowsArgs a = {call.out, call.in[1], call.in[2]};
  return launch(recorder, set_rows_kernel, grid_for(call, a.ids.dim[0], 8), dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {{"set_rows", "", nullptr, numerics_exact, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(set_rows, kRows)
