// set_rows: rows to their indices in a table, converted to its dtype as the reference does.
#include "backends/vulkan/kernels/common/launch.h"
#include "mica/dtype.h"

MICA_VULKAN_SHADER(set_rows)
MICA_VULKAN_SHADER(set_rows_k)

namespace mica::vulkan {
namespace {

enum Input : uint32_t { kDst, kSrc, kIds };

struct Push {
  uint64_t dst, src, ids, live;
  uint64_t s_dst, s_src;
  uint32_t n_ids, n_rows, n_elems;
  uint32_t dst_dtype, src_dtype, id_dtype;
};

const char* supports(const Call& c) {
  if (c.in[kDst].dim[0] > INT32_MAX || c.in[kDst].dim[1] > UINT32_MAX) return "dst is too large";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& dst = c.out;
  const Tensor& src = c.in[kSrc];
  const Tensor& ids = c.in[kIds];
  const Push push = {dst.address,
                     src.address,
                     ids.address,
                     ids.live,
                     static_cast<uint64_t>(dst.stride[1]),
                     static_cast<uint64_t>(src.stride[1]),
                     static_cast<uint32_t>(ids.dim[0]),
                     static_cast<uint32_t>(dst.dim[1]),
                     static_cast<uint32_t>(dst.dim[0]),
                     static_cast<uint32_t>(dst.dtype),
                     static_cast<uint32_t>(src.dtype),
                     static_cast<uint32_t>(ids.dtype)};
  const bool k_block = mica_dtype_get(dst.dtype)->block_elems == 256;
  return launch(recorder, k_block ? shader_set_rows_k : shader_set_rows,
                {k_block ? 32u : 64u, 1, 1}, push, folded(push.n_ids));
}

constexpr Kernel kKernels[] = {{"set_rows", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(set_rows, kKernels)
