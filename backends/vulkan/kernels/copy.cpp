// copy: values packed, in the same or another dtype, bit by bit as the reference does.
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/layout.h"
#include "mica/dtype.h"
#include "ops/copy_args.h"

MICA_VULKAN_SHADER(copy)
MICA_VULKAN_SHADER(copy_k)

namespace mica::vulkan {
namespace {

constexpr uint32_t kThreads = 64;
constexpr uint32_t kThreadsK = 32;  // of a block of 256

struct Push {
  uint64_t x, y, live;
  uint64_t s_x[4];
  uint32_t dim[4];
  uint32_t rank;
  uint32_t x_dtype, y_dtype;
  uint32_t unit_elems, units;
};

// How many units of how many elements; `units` a block when one is moved in pairs of bytes.
struct Cut {
  uint32_t unit_elems, units;
  uint64_t n;
  bool k_block;
};

Cut cut_of(const Call& c) {
  const mica_dtype_info& x = *mica_dtype_get(c.in[0].dtype);
  const mica_dtype_info& y = *mica_dtype_get(c.out.dtype);
  Cut cut = {1, 1, 0, false};
  if (x.dtype == y.dtype && x.block_elems > 1) {
    cut.unit_elems = x.block_elems;
    cut.units = x.block_bytes / 2;
  } else if (y.block_elems > 1) {
    cut.unit_elems = y.block_elems;
    cut.k_block = y.block_elems == 256;
  }
  cut.n = static_cast<uint64_t>(c.out.dim[0]) / cut.unit_elems * cut.units;
  for (int i = 1; i < 4; ++i) cut.n *= static_cast<uint64_t>(c.out.dim[i]);
  return cut;
}

const char* supports(const Call& c) {
  if (c.in[0].layout != kLayoutPlain) return "x is a repacked weight or a page of a cache";
  for (int i = 0; i < 4; ++i)
    if (c.in[0].dim[i] > UINT32_MAX) return "a dimension of 2^32 or more";
  if (cut_of(c).n > UINT32_MAX) return "2^32 elements or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& x = c.in[0];
  const Cut cut = cut_of(c);
  Push push{};
  push.x = x.address;
  push.y = c.out.address;
  push.live = x.live;
  for (int i = 0; i < 4; ++i) {
    push.s_x[i] = static_cast<uint64_t>(x.stride[i]);
    push.dim[i] = static_cast<uint32_t>(x.dim[i]);
  }
  push.rank = x.rank;
  push.x_dtype = static_cast<uint32_t>(x.dtype);
  push.y_dtype = static_cast<uint32_t>(c.out.dtype);
  push.unit_elems = cut.unit_elems;
  push.units = cut.units;
  if (cut.k_block) return launch(recorder, shader_copy_k, {kThreadsK, 1, 1}, push, folded(cut.n));
  return launch(recorder, shader_copy, {kThreads, 1, 1}, push, folded_threads(cut.n, kThreads));
}

constexpr Kernel kKernels[] = {{"copy", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(copy, kKernels)
