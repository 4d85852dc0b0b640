// top_k: the indices of the k largest elements of each row, in order.
#include "backends/cuda/kernels/select.cuh"
#include "ops/top_k_args.h"

namespace mica::cuda {
namespace {

struct TopKArgs {
  Tensor x, out;
  uint64_t room;  // of the blocks, room_each numbers each
  uint32_t k, room_each;
};

// A block of threads a row.
__global__ void __launch_bounds__(kSelectThreads) top_k_kernel(const __grid_constant__ TopKArgs a) {
  __shared__ SelectShared shared;
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.out);
  uint64_t* room =
      reinterpret_cast<uint64_t*>(a.room) + static_cast<uint64_t>(blockIdx.x) * a.room_each;
  for (int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const RowIndex r = row_index(a.out, row);
    const float* x = reinterpret_cast<const float*>(row_at(a.x, r));
    int32_t* out = reinterpret_cast<int32_t*>(row_at(a.out, r));
    const uint64_t* sorted = select_sorted(x, a.x.dim[0], a.k, room, shared);
    for (uint32_t i = threadIdx.x; i < a.k; i += kSelectThreads) out[i] = index_of(sorted[i]);
    __syncthreads();
  }
}

uint32_t room_each(const Call& call) {
  const uint32_t m = sort_room(call.arg<mica_top_k_args>().k);
  return m <= kSortShared ? 0 : m;
}
dim3 grid_of(const Call& call) {
  const int64_t rows = rows_of(call.in[0]);
  // Few blocks where each needs memory of its own.
  return grid_for(call, room_each(call) != 0 && rows > 32 ? 32 : rows, 2);
}
uint64_t workspace(const Call& call) { return uint64_t{room_each(call)} * 8 * grid_of(call).x; }

mica_status record(const Call& call, Recorder& recorder) {
  const TopKArgs a = {call.in[0], call.out, call.workspace, call.arg<mica_top_k_args>().k,
                      room_each(call)};
  return launch(recorder, top_k_kernel, grid_of(call), dim3(kSelectThreads), 0, a);
}

constexpr Kernel kRows[] = {{"top_k", "", nullptr, numerics_exact, workspace, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(top_k, kRows, MICA_KNOWS(top_k, k))
