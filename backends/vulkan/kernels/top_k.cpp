// top_k: the indices of the k largest elements of each row.
#include "backends/vulkan/kernels/common/launch.h"
#include "ops/top_k_args.h"

MICA_VULKAN_SHADER(top_k)

namespace mica::vulkan {
namespace {

constexpr uint32_t kListed = 2048;  // as in select.glsl

struct Push {
  uint64_t x, y, live, workspace;
  uint64_t s_x[3];
  uint32_t dim[4];
  uint32_t rank, k;
};

const char* supports(const Call& c) {
  for (int i = 0; i < 4; ++i)
    if (c.in[0].dim[i] > INT32_MAX) return "a dimension of 2^31 or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

uint64_t rows_of(const Tensor& x) {
  return static_cast<uint64_t>(x.dim[1]) * static_cast<uint64_t>(x.dim[2]) *
         static_cast<uint64_t>(x.dim[3]);
}

uint64_t workspace(const Call& c) {
  const uint64_t k = c.arg<mica_top_k_args>().k;
  uint64_t room = 1;
  while (room < k) room *= 2;
  return k > kListed ? rows_of(c.in[0]) * room * 8 : 0;
}

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& x = c.in[0];
  Push push{};
  push.x = x.address;
  push.y = c.out.address;
  push.live = x.live;
  push.workspace = c.workspace;
  for (int i = 0; i < 4; ++i) push.dim[i] = static_cast<uint32_t>(x.dim[i]);
  for (int i = 0; i < 3; ++i) push.s_x[i] = static_cast<uint64_t>(x.stride[i + 1]);
  push.rank = x.rank;
  push.k = c.arg<mica_top_k_args>().k;
  const uint32_t threads = x.dim[0] <= 256 ? 64 : 256;
  return launch(recorder, shader_top_k, {threads, 1, 1}, push, folded(rows_of(x)));
}

constexpr Kernel kKernels[] = {{"top_k", "", supports, numerics, workspace, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(top_k, kKernels, MICA_KNOWS(top_k, k))
