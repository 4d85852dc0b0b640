// kv_shift: rotates stored K in place and encodes it again as kv_append does. How many cells the
// list names is known on the device: the grid is for the most, and its workgroups loop.
#include "mica/kv_table.h"
#include "ops/kv_shift_args.h"
#include "ops/rope.h"

#include "backends/gpu/layouts.h"
#include "backends/vulkan/kernels/common/elements.h"
#include "backends/vulkan/kernels/rope_angle.h"
#include "backends/vulkan/kv.h"

MICA_VULKAN_SHADER(kv_shift)

namespace mica::vulkan {
namespace {

enum Input : uint32_t { kState, kShifts, kFactors };
constexpr uint32_t kThreads = 64;
constexpr uint32_t kMostDim = 4096;  // of quantized types: a row in 16 KiB of shared memory

struct Push {
  uint64_t state, shifts, revolutions, factors;
  uint32_t max_entries, n_kv_heads, n_cells, n_rot, offset, unused;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

bool divides(const Call& c) { return c.n_in > kFactors && !c.in[kFactors].absent(); }
int64_t entries_of(const Call& c) { return (c.in[kShifts].dim[0] - 1) / MICA_KV_SHIFT_WORDS; }
// Rows that the list may name.
int64_t rows_of_list(const Call& c) { return entries_of(c) * kPageCells * c.in[kState].dim[1]; }

const char* supports(const Call& c) {
  const Tensor& state = c.in[kState];
  const auto& a = c.arg<mica_kv_shift_args>();
  KvPage page;
  if (state.layout != kLayoutKvPage) return "the state is not of a cache";
  if (!kv_page(state.dtype, state.dim[0], state.dim[1], page)) return kPageTypes;
  if (page.page_bytes > UINT32_MAX) return "a page of more than 4 GiB";
  if (page.n_blocks != 0 && page.row_elems > kMostDim)
    return "quantized heads of more than 4096 elements";
  if (entries_of(c) > INT32_MAX / 2048 || rows_of_list(c) > INT32_MAX)
    return "the list is too large";
  if (a.angles.n_rot / 2 > kRopePairs) return "more than 8192 elements of a head are rotated";
  if (divides(c) && !revolves_once(a.angles))
    return "with frequency factors, a pair turns more than once";
  return nullptr;
}

mica_status record(const Call& c, Recorder& recorder) {
  const Tensor& state = c.in[kState];
  const auto& a = c.arg<mica_kv_shift_args>();
  KvPage page;
  (void)kv_page(state.dtype, state.dim[0], state.dim[1], page);
  uint64_t table[kRopePairs];
  fixed_revolutions(a.angles, table);
  Push push{};
  MICA_TRY(constants(recorder, table, a.angles.n_rot / 2 * 8, push.revolutions));
  push.state = state.address;
  push.shifts = c.in[kShifts].address;
  push.factors = divides(c) ? c.in[kFactors].address : 0;
  push.max_entries = static_cast<uint32_t>(entries_of(c));
  push.n_kv_heads = static_cast<uint32_t>(state.dim[1]);
  push.n_cells = static_cast<uint32_t>(state.dim[2]);
  push.n_rot = a.angles.n_rot;
  push.offset = a.offset;
  return launch(recorder, shader_kv_shift,
                {kThreads, 1, 1, static_cast<uint32_t>(state.dtype),
                 static_cast<uint32_t>(state.dim[0]), a.pairing == MICA_ROPE_HALF_SPLIT ? 1u : 0u,
                 divides(c) ? 1u : 0u, page.n_blocks != 0 ? page.row_elems : 1},
                push, {groups_for(caps_of(c), rows_of_list(c), 1), 1, 1});
}

constexpr Kernel kKernels[] = {
    {"kv_shift", "", supports, numerics_f32, nullptr, record, gpu::takes_page<kLayoutKvPage>}};

}  // namespace
}  // namespace mica::vulkan

MICA_VULKAN_KERNELS(kv_shift, kKernels, MICA_KNOWS(kv_shift, pairing))
