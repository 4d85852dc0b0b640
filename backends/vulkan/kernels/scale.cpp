// scale: x * scale + bias.
#include "backends/vulkan/kernels/common/elementwise.h"
#include "ops/unary_args.h"

namespace mica::vulkan {
namespace {

mica_status record(const Call& call, Recorder& recorder) {
  const auto& args = call.arg<mica_scale_args>();
  const Elementwise e = {Act::scale, Arithmetic::none, &call.in[0], nullptr,
                         nullptr,    &call.out,        args.scale,  args.bias};
  return record_elementwise(caps_of(call), e, recorder);
}

constexpr Kernel kRows[] = {{"scale", "", float_inputs, numerics_f32, nullptr, record}};

}  // namespace
}  // namespace mica::vulkan
MICA_VULKAN_KERNELS(scale, kRows, MICA_KNOWS(scale, bias))
