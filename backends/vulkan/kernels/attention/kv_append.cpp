// kv_append: rows of K or V to their cells, encoded bit by bit as ops/dtypes does. A slot that two
// tokens name gets either row: the cache never makes such slots.
#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/common/launch.h"
#include "backends/vulkan/kv.h"

MICA_VULKAN_SHADER(kv_append)

namespace mica::vulkan {
namespace {

enum Input : uint32_t { kState, kRows, kSlots };
constexpr uint32_t kThreads = 64;

struct Push {
  uint64_t state, rows, slots, live;
  uint64_t s_head, s_token;
  uint32_t n_tokens, n_kv_heads, head_dim, n_cells;
  uint32_t dtype, row_dtype;
};

bool page_of(const Call& c, KvPage& page) {
  const Tensor& state = c.in[kState];
  return kv_page(state.dtype, state.dim[0], state.dim[1], page);
}

const char* supports(const Call& c) {
  KvPage page;
  if (c.in[kState].layout != kLayoutKvPage) return "the state is not of a cache";
  if (!page_of(c, page)) return kPageTypes;
  if (!is_float(c.in[kRows].dtype)) return "rows must be F32, F16 or BF16";
  if (c.in[kRows].stride[0] != (c.in[kRows].dtype == MICA_F32 ? 4 : 2))
    return "the elements of a row are not adjacent";
  if (page.page_bytes > UINT32_MAX) return "a page of more than 4 GiB";
  return nullptr;
}

uint32_t numerics(const Call&) { return MICA_NUM_EXACT; }

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& state = c.in[kState];
  const Tensor& rows = c.in[kRows];
  KvPage page;
  (void)page_of(c, page);
  const Push push = {state.address,
                     rows.address,
                     c.in[kSlots].address,
                     rows.live,
                     static_cast<uint64_t>(rows.stride[1]),
                     static_cast<uint64_t>(rows.stride[2]),
                     static_cast<uint32_t>(rows.dim[2]),
                     static_cast<uint32_t>(state.dim[1]),
                     static_cast<uint32_t>(state.dim[0]),
                     static_cast<uint32_t>(state.dim[2]),
                     static_cast<uint32_t>(state.dtype),
                     static_cast<uint32_t>(rows.dtype)};
  const uint64_t pieces = page.n_blocks != 0 ? page.n_blocks : page.row_elems / 8;
  const uint64_t n = pieces * push.n_kv_heads * push.n_tokens;
  return launch(recorder, shader_kv_append, {kThreads, 1, 1}, push, folded_threads(n, kThreads));
}

constexpr Kernel kKernels[] = {
    {"kv_append", "", supports, numerics, nullptr, record, gpu::takes_page<kLayoutKvPage>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(kv_append, kKernels)
