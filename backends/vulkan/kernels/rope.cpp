// Rotary position embedding by rows of the op rope_angles' table.
#include "ops/rope.h"

#include "backends/vulkan/kernels/common/elements.h"
#include "ops/rope_args.h"

MICA_VULKAN_SHADER(rope)

namespace mica::vulkan {
namespace {

enum RopeInput { kX, kAngles };

constexpr uint32_t kThreads = 128;

struct Push {
  uint64_t x, y, angles, live;
  uint32_t head_dim, n_heads, n_tokens, n_rot, offset, s1, s2;
  float magnitude;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

const char* supports(const Call& call) {
  const Tensor& x = call.in[kX];
  if (x.dim[0] > 1 && x.stride[0] != elem_bytes(x.dtype))
    return "the elements of x are not adjacent";
  if (const char* why = sized_operand(call.in[kAngles]); why != nullptr) return why;
  return float_operand(x);
}

mica_status record(const Call& call, Recorder& recorder) {
  const Tensor& x = call.in[kX];
  const auto& a = call.arg<mica_rope_args>();
  uint32_t s[4];
  element_strides(x, s);
  Push push{};
  push.x = x.address;
  push.y = call.out.address;
  push.angles = call.in[kAngles].address;
  push.live = call.out.live;
  push.head_dim = static_cast<uint32_t>(x.dim[0]);
  push.n_heads = static_cast<uint32_t>(x.dim[1]);
  push.n_tokens = static_cast<uint32_t>(x.dim[2]);
  push.n_rot = a.n_rot;
  push.offset = a.offset;
  push.s1 = s[1], push.s2 = s[2];
  push.magnitude = a.magnitude;
  const int64_t items = x.dim[0] - a.n_rot + a.n_rot / 2;
  return launch(
      recorder, shader_rope,
      {kThreads, static_cast<uint32_t>(x.dtype), a.pairing == MICA_ROPE_HALF_SPLIT ? 1u : 0u}, push,
      {groups_for(caps_of(call), items * x.dim[1] * x.dim[2], kThreads), 1, 1});
}

constexpr Kernel kRows[] = {{"rope", "", supports, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(rope, kRows, MICA_KNOWS(rope, magnitude))
