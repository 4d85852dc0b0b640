// concat: b behind a along one dimension; bytes are moved, whatever the dtype.
#include "backends/vulkan/kernels/common/elements.h"
#include "ops/concat_args.h"

MICA_VULKAN_SHADER(concat)

namespace mica::vulkan {
namespace {

constexpr uint32_t kThreads = 128;

struct Push {
  uint64_t x, y, live;
  uint32_t inner, n, dim[3], s[4], t[3];
};
static_assert(sizeof(Push) <= kMaxPushBytes);

// Bytes moved at a time: all types, strides and places are multiples of 2.
uint32_t grain_of(const Tensor& t) {
  uint64_t all = t.address | mica_dtype_get(t.dtype)->block_bytes;
  for (int i = 0; i < 4; ++i)
    if (t.dim[i] > 1) all |= static_cast<uint64_t>(t.stride[i]);
  return all % 4 == 0 ? 4 : 2;
}

bool fits(const Tensor& t) {
  int64_t last = 0;
  for (int i = 0; i < 4; ++i) last += t.dim[i] * t.stride[i];
  return last / 2 <= UINT32_MAX;
}

const char* supports(const Call& call) {
  return fits(call.in[0]) && fits(call.in[1]) && fits(call.out) ? nullptr
                                                                : "a tensor has more than 8 GiB";
}

// x goes to the result from index `start` of dimension `along` on.
mica_status place(const Call& call, const Tensor& x, uint32_t along, int64_t start,
                  Recorder& recorder) {
  const Tensor& y = call.out;
  const mica_dtype_info& info = *mica_dtype_get(x.dtype);
  const uint32_t grain = grain_of(x) < grain_of(y) ? grain_of(x) : grain_of(y);
  const auto grains = [&](int64_t bytes) { return static_cast<uint32_t>(bytes / grain); };
  const uint32_t unit = info.block_bytes / grain;
  Push push{};
  push.x = x.address;
  const int64_t first = along == 0 ? start / info.block_elems : start;
  push.y = y.address + static_cast<uint64_t>(first * y.stride[along]);
  push.live = x.live;
  push.dim[0] = static_cast<uint32_t>(x.dim[0] / info.block_elems) * unit;
  push.dim[1] = static_cast<uint32_t>(x.dim[1]);
  push.dim[2] = static_cast<uint32_t>(x.dim[2]);
  push.n = push.dim[0] * static_cast<uint32_t>(rows_of(x));
  push.inner = push.n / static_cast<uint32_t>(x.dim[x.rank - 1]);
  push.s[0] = grains(x.stride[0]);
  for (int i = 1; i < 4; ++i) push.s[i] = grains(x.stride[i]), push.t[i - 1] = grains(y.stride[i]);
  return launch(recorder, shader_concat, {kThreads, grain, unit}, push,
                {groups_for(caps_of(call), push.n, kThreads), 1, 1});
}

mica_status record(const Call& call, Recorder& recorder) {
  const uint32_t along = call.arg<mica_concat_args>().dim;
  MICA_TRY(place(call, call.in[0], along, 0, recorder));
  return place(call, call.in[1], along, call.in[0].dim[along], recorder);
}

constexpr Kernel kRows[] = {{"concat", "", supports, numerics_exact, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(concat, kRows, MICA_KNOWS(concat, dim))
