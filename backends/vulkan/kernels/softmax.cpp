// softmax of scale * x + mask over rows.
#include "backends/vulkan/kernels/common/launch.h"
#include "ops/softmax_args.h"

MICA_VULKAN_SHADER(softmax)

namespace mica::vulkan {
namespace {

struct Push {
  uint64_t x, mask, y, live;
  uint64_t s_x[3], s_mask[3];
  uint32_t dim[4];
  uint32_t dtypes;
  float scale;
};

const char* supports(const Call& c) {
  for (int i = 0; i < 4; ++i)
    if (c.in[0].dim[i] > INT32_MAX) return "a dimension of 2^31 or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_F32; }

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& x = c.in[0];
  const Tensor& mask = c.in[1];
  Push push{};
  push.x = x.address;
  push.mask = mask.absent() ? 0 : mask.address;
  push.y = c.out.address;
  push.live = x.live;
  uint64_t n_rows = 1;
  for (int i = 0; i < 4; ++i) push.dim[i] = static_cast<uint32_t>(x.dim[i]);
  for (int i = 0; i < 3; ++i) {
    push.s_x[i] = static_cast<uint64_t>(x.stride[i + 1]);
    if (mask.dim[i + 1] > 1) push.s_mask[i] = static_cast<uint64_t>(mask.stride[i + 1]);
    n_rows *= push.dim[i + 1];
  }
  push.dtypes =
      static_cast<uint32_t>(x.dtype) | static_cast<uint32_t>(mask.dtype) << 8 | x.rank << 16;
  push.scale = c.arg<mica_softmax_args>().scale;
  const uint32_t threads = x.dim[0] <= 256 ? 32 : 256;
  return launch(recorder, shader_softmax, {threads, 1, 1}, push, folded(n_rows));
}

constexpr Kernel kKernels[] = {{"softmax", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(softmax, kKernels, MICA_KNOWS(softmax, scale))
