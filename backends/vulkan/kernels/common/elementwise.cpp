// Recording the kernels over elements.
#include "backends/vulkan/kernels/common/elementwise.h"

MICA_VULKAN_SHADER(elementwise)
MICA_VULKAN_SHADER(elementwise_denorm)

namespace mica::vulkan {
namespace {

struct Push {
  uint64_t a, b, y, act;
  uint64_t live;
  uint32_t inner, n;
  uint32_t dim[3];
  uint32_t s_a[4], s_b[4];
  float scale, bias;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

constexpr uint32_t kThreads = 128;
constexpr uint32_t kEach = 4;  // elements of a thread

bool run_of_four(const Tensor* t) {
  return t == nullptr || (t->dtype == MICA_F32 && t->address % 16 == 0);
}

}  // namespace

mica_status record_elementwise(const DeviceCaps& caps, const Elementwise& e, Recorder& recorder) {
  const Tensor& y = *e.y;
  Push push{};
  push.a = e.a->address;
  push.b = e.b != nullptr ? e.b->address : 0;
  push.y = y.address;
  push.act = e.mid != nullptr ? e.mid->address : 0;
  push.live = y.live;
  push.inner = static_cast<uint32_t>(inner_elements(y));
  push.n = static_cast<uint32_t>(elements_of(y));
  for (int i = 0; i < 3; ++i) push.dim[i] = static_cast<uint32_t>(y.dim[i]);
  element_strides(*e.a, push.s_a);
  if (e.b != nullptr) element_strides(*e.b, push.s_b);
  push.scale = e.scale;
  push.bias = e.bias;
  const bool runs = packed(*e.a) && same_shape(*e.a, y) &&
                    (e.b == nullptr || (packed(*e.b) && same_shape(*e.b, y)));
  const bool fours =
      runs && run_of_four(e.a) && run_of_four(e.b) && run_of_four(e.mid) && run_of_four(e.y);
  const Shader& shader = caps.keeps_subnormals ? shader_elementwise_denorm : shader_elementwise;
  const uint32_t specs[] = {kThreads,
                            static_cast<uint32_t>(e.act),
                            static_cast<uint32_t>(e.op),
                            static_cast<uint32_t>(e.a->dtype),
                            static_cast<uint32_t>(e.b != nullptr ? e.b->dtype : MICA_F32),
                            static_cast<uint32_t>(y.dtype),
                            fours  ? 2u
                            : runs ? 1u
                                   : 0u,
                            e.mid != nullptr ? 1u : 0u,
                            caps.keeps_subnormals ? 0u : 1u};
  return launch(recorder, shader, specs, push,
                {groups_for(caps, elements_of(y), int64_t{kThreads} * (fours ? kEach : 1)), 1, 1});
}

const char* glu_supports(const Call& call) {
  if (call.n_members != 2 || call.members[1].op != MICA_OP_mul) return "it is not act, mul";
  const char* no = float_inputs(call.members[0]);
  return no != nullptr ? no : float_operand(call.members[1].in[1]);
}

mica_status record_glu(const Call& call, Act act, Recorder& recorder) {
  const Call& first = call.members[0];
  const Call& mul = call.members[1];
  const Tensor* mid = first.out.address != 0 ? &first.out : nullptr;
  const Elementwise e = {act, Arithmetic::mul, &first.in[0], &mul.in[1], mid, &mul.out, 1, 0};
  return record_elementwise(caps_of(call), e, recorder);
}

}  // namespace mica::vulkan
