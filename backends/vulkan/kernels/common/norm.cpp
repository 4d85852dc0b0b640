// Recording rms_norm and layer_norm.
#include "backends/vulkan/kernels/common/norm.h"

MICA_VULKAN_SHADER(norm)

namespace mica::vulkan {
namespace {

struct Push {
  uint64_t x, w, b, y, live;
  uint32_t inner, n_rows, n, dim1, dim2, s1, s2, s3;
  float eps;
};
static_assert(sizeof(Push) <= kMaxPushBytes);

constexpr uint32_t kAbsent = 255;

uint32_t type_of(const Tensor* t) {
  return t != nullptr && !t->absent() ? static_cast<uint32_t>(t->dtype) : kAbsent;
}

}  // namespace

const char* norm_supports(const Call& call) {
  const Tensor& x = call.in[0];
  if (x.dim[0] > 1 && x.stride[0] != elem_bytes(x.dtype))
    return "the elements of x are not adjacent";
  return float_inputs(call);
}

mica_status record_norm(const Call& call, bool layer_norm, float eps, Recorder& recorder) {
  const Tensor& x = call.in[0];
  const Tensor& y = call.out;
  const Tensor* w = call.n_in > 1 ? &call.in[1] : nullptr;
  const Tensor* b = call.n_in > 2 ? &call.in[2] : nullptr;
  uint32_t s[4];
  element_strides(x, s);
  Push push{};
  push.x = x.address;
  push.w = w != nullptr ? w->address : 0;
  push.b = b != nullptr ? b->address : 0;
  push.y = y.address;
  push.live = y.live;
  push.n = static_cast<uint32_t>(x.dim[0]);
  push.inner = static_cast<uint32_t>(inner_elements(y) / (y.rank > 1 ? y.dim[0] : 1));
  push.n_rows = static_cast<uint32_t>(rows_of(y));
  push.dim1 = static_cast<uint32_t>(x.dim[1]);
  push.dim2 = static_cast<uint32_t>(x.dim[2]);
  push.s1 = s[1], push.s2 = s[2], push.s3 = s[3];
  push.eps = eps;
  bool four = x.dtype == MICA_F32 && push.n % 4 == 0 && x.address % 16 == 0 && y.address % 16 == 0;
  for (int i = 1; i < 4; ++i) four = four && s[i] % 4 == 0;
  const uint32_t threads = push.n >= 1024 ? 256 : 64;
  return launch(recorder, shader_norm,
                {threads, layer_norm ? 1u : 0u, static_cast<uint32_t>(x.dtype), type_of(w),
                 type_of(b), four ? 1u : 0u},
                push, {groups_for(caps_of(call), push.n_rows, 1), 1, 1});
}

}  // namespace mica::vulkan
