// softmax of scale * x + mask over rows; scores are computed again in each of three passes.
#include "backends/cuda/kernels/plain_rows.cuh"
#include "ops/softmax_args.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 256;

struct SoftmaxArgs {
  Tensor x, mask, out;
  float scale;
};

struct Row {
  const char* x;
  const char* mask;  // nullptr: none
};

__device__ float score(const SoftmaxArgs& a, const Row& row, int64_t i) {
  const float s = float_at(a.x.dtype, row.x, i) * a.scale;
  return row.mask != nullptr ? s + float_at(a.mask.dtype, row.mask, i) : s;
}

// A block of threads a row.
__global__ void __launch_bounds__(kThreads) softmax_kernel(const __grid_constant__ SoftmaxArgs a) {
  __shared__ float scratch[32];
  wait_for_inputs();
  start_next();
  const int64_t n_rows = live_rows(a.out);
  const int64_t n = a.x.dim[0];
  const float inf = infinity();
  const auto larger = [](float p, float q) { return q > p ? q : p; };
  const auto sum_of = [](float p, float q) { return p + q; };
  for (int64_t i_row = blockIdx.x; i_row < n_rows; i_row += gridDim.x) {
    const RowIndex r = row_index(a.out, i_row);
    const Row row = {row_at(a.x, r), a.mask.address != 0 ? repeated_row_at(a.mask, r) : nullptr};
    float largest = -inf;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const float s = score(a, row, i);
      largest = larger(largest, s != s ? inf : s);  // not-a-number spoils the row as infinity does
    }
    largest = reduce_block(largest, scratch, larger);
    float sum = 0;
    const bool regular = largest != inf && largest != -inf;
    for (int64_t i = threadIdx.x; regular && i < n; i += kThreads)
      sum += expf(score(a, row, i) - largest);
    sum = reduce_block(sum, scratch, sum_of);
    const float factor = 1.0f / sum;
    char* out = row_at(a.out, r);
    const int bytes = a.out.dtype == MICA_F32 ? 4 : 2;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      float y = largest == inf ? float_of(0x7fc00000u) : 0.0f;
      if (regular) y = expf(score(a, row, i) - largest) * factor;
      store_float(a.out.dtype, y, out + i * bytes);
    }
  }
}

mica_status record(const Call& call, Recorder& recorder) {
  SoftmaxArgs a = {call.in[0], call.in[1], call.out, call.arg<mica_softmax_args>().scale};
  if (a.mask.absent()) a.mask.address = 0;
  return launch(recorder, softmax_kernel, grid_for(call, rows_of(a.out), 8), dim3(kThreads), 0, a);
}

constexpr Kernel kRows[] = {{"softmax", "", nullptr, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(softmax, kRows, MICA_KNOWS(softmax, scale))
