// copy: values packed, in the same or another dtype, bit by bit as the reference does; of a packed
// weight through the blocks that files have.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/kernels/common/weight.h"
#include "mica/dtype.h"
#include "ops/copy_args.h"

MICA_VULKAN_SHADER(copy)
MICA_VULKAN_SHADER(copy_k)
MICA_VULKAN_SHADER(copy_planes)

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

uint64_t blocks_of(const Tensor& x) {
  const int64_t n_rows = x.dim[1] * x.dim[2] * x.dim[3];
  return static_cast<uint64_t>(x.dim[0] / mica_dtype_get(x.dtype)->block_elems * n_rows);
}

struct PlanesPush {
  uint64_t plane[kPlanes];
  uint64_t y, n_blocks;
  uint32_t row_bytes[kPlanes], block_bytes[kPlanes];
  uint32_t n_row_blocks, dtype;
};

bool is_packed_weight(const Tensor& x) { return x.layout == kLayoutPlanes; }

const char* supports(const Call& c) {
  for (int i = 0; i < 4; ++i)
    if (c.in[0].dim[i] > UINT32_MAX) return "a dimension of 2^32 or more";
  if (cut_of(c).n > UINT32_MAX) return "2^32 elements or more";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

uint64_t workspace(const Call& c) {
  const Tensor& x = c.in[0];
  if (!is_packed_weight(x) || x.dtype == c.out.dtype) return 0;
  return blocks_of(x) * mica_dtype_get(x.dtype)->block_bytes;
}

mica_status record_planes(const Tensor& x, uint64_t y, Recorder& recorder) {
  const auto n_rows = static_cast<uint64_t>(x.dim[1] * x.dim[2] * x.dim[3]);
  Planes planes;
  if (!planes_of(x.dtype, x.dim[0], n_rows, planes)) return MICA_INTERNAL;
  PlanesPush push{};
  push.y = y;
  push.n_blocks = blocks_of(x);
  push.n_row_blocks = static_cast<uint32_t>(push.n_blocks / n_rows);
  push.dtype = static_cast<uint32_t>(x.dtype);
  for (uint32_t i = 0; i < kPlanes; ++i) {
    push.plane[i] = x.address + planes.offset[i];
    push.row_bytes[i] = static_cast<uint32_t>(planes.row_bytes[i]);
    push.block_bytes[i] = planes.block_bytes[i];
  }
  return launch(recorder, shader_copy_planes, {kThreads, 1, 1}, push,
                folded_threads(push.n_blocks, kThreads));
}

mica_status record_plain(const Call& c, Recorder& recorder) {
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

mica_status record(const Call& c, Recorder& recorder) {
  if (!is_packed_weight(c.in[0])) return record_plain(c, recorder);
  const bool same = c.in[0].dtype == c.out.dtype;
  MICA_TRY(record_planes(c.in[0], same ? c.out.address : c.workspace, recorder));
  if (same) return MICA_OK;
  barrier(recorder);
  Call blocks = c;
  Tensor& x = blocks.in[0];
  x.layout = kLayoutPlain;
  x.address = c.workspace;
  x.stride[0] = mica_dtype_get(x.dtype)->block_bytes;
  x.stride[1] = x.stride[0] * (x.dim[0] / mica_dtype_get(x.dtype)->block_elems);
  for (int i = 2; i < 4; ++i) x.stride[i] = x.stride[i - 1] * x.dim[i - 1];
  return record_plain(blocks, recorder);
}

constexpr Kernel kKernels[] = {
    {"copy", "", supports, numerics, workspace, record, gpu::takes_weight<kLayoutPlanes>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(copy, kKernels, MICA_KNOWS(copy, dtype))
