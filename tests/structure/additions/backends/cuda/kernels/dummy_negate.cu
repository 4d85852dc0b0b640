// A dummy kernel: y = -x.
#include "backends/cuda/kernel.h"

namespace mica::cuda {
namespace {

constexpr int kThreads = 128;

struct NegateArgs {
  uint64_t x, y, live;
  int64_t n_slowest, per_slowest;  // the extent's maximum; elements of one of it
};

__global__ void __launch_bounds__(kThreads) negate_kernel(const NegateArgs a) {
  wait_for_inputs();
  start_next();
  const int64_t n = live_count(a.live, a.n_slowest) * a.per_slowest;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) reinterpret_cast<float*>(a.y)[i] = -reinterpret_cast<const float*>(a.x)[i];
}

const char* supports(const Call& call) {
  return call.in[0].layout == 0 ? nullptr : "x is a weight in a layout of the backend's";
}

uint32_t numerics(const Call&) { return MICA_NUM_F32; }

mica_status record(const Call& call, Recorder& recorder) {
  const Tensor& y = call.out;
  const int64_t n = y.dim[0] * y.dim[1] * y.dim[2] * y.dim[3];
  const int64_t n_slowest = y.dim[y.rank - 1];
  const NegateArgs args = {call.in[0].address, y.address, y.live, n_slowest, n / n_slowest};
  const auto n_blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  return launch(recorder, negate_kernel, dim3(n_blocks), dim3(kThreads), 0, args);
}

constexpr Kernel kRows[] = {{"dummy_negate", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(dummy_negate, kRows)
