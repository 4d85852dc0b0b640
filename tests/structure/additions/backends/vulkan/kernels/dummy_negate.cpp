// A dummy kernel: y = -x.
#include "backends/vulkan/kernels/common/launch.h"

MICA_VULKAN_SHADER(dummy_negate)

namespace mica::vulkan {
namespace {

constexpr uint32_t kThreads = 64;

struct Push {
  uint64_t x, y, live;
  uint32_t n_slowest, per_slowest;  // the extent's maximum; elements of one of it
};

const char* supports(const Call& call) {
  if (call.in[0].layout != 0) return "x is a weight in a layout of the backend's";
  int64_t n = 1;
  for (const int64_t dim : call.out.dim) n *= dim;
  return n <= INT32_MAX ? nullptr : "it has more than 2^31 elements";
}

uint32_t numerics(const Call&) { return MICA_NUM_F32; }

mica_status record(const Call& call, Recorder& recorder) {
  const Tensor& y = call.out;
  const int64_t n = y.dim[0] * y.dim[1] * y.dim[2] * y.dim[3];
  const int64_t n_slowest = y.dim[y.rank - 1];
  const Push push = {call.in[0].address, y.address, y.live, static_cast<uint32_t>(n_slowest),
                     static_cast<uint32_t>(n / n_slowest)};
  return launch(recorder, shader_dummy_negate, {kThreads, 1, 1}, push,
                folded_threads(static_cast<uint64_t>(n), kThreads));
}

constexpr Kernel kRows[] = {{"dummy_negate", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(dummy_negate, kRows)
