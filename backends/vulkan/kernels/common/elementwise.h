// Kernels over elements, all of one shader: functions of one tensor, arithmetic of two, and both.
#pragma once
#include "backends/vulkan/kernels/common/elements.h"

namespace mica::vulkan {

// As kernels/common/elementwise.comp counts them.
enum class Act : uint32_t { none, scale, silu, gelu, gelu_erf, tanh, relu, sigmoid };
enum class Arithmetic : uint32_t { none, add, sub, mul, div };

struct Elementwise {
  Act act;
  Arithmetic op;
  const Tensor* a;
  const Tensor* b;    // nullptr: op is none
  const Tensor* mid;  // act(a) where somebody else reads it too, or nullptr
  const Tensor* y;
  float scale, bias;
};
mica_status record_elementwise(const DeviceCaps& caps, const Elementwise& e, Recorder& recorder);

template <Act kAct>
mica_status record_unary(const Call& call, Recorder& recorder) {
  const Elementwise e = {kAct, Arithmetic::none, &call.in[0], nullptr, nullptr, &call.out, 1, 0};
  return record_elementwise(caps_of(call), e, recorder);
}
template <Arithmetic kOp>
mica_status record_binary(const Call& call, Recorder& recorder) {
  const Elementwise e = {Act::none, kOp, &call.in[0], &call.in[1], nullptr, &call.out, 1, 0};
  return record_elementwise(caps_of(call), e, recorder);
}

// A region of two members: an activation, and its product with another tensor.
const char* glu_supports(const Call& call);
mica_status record_glu(const Call& call, Act act, Recorder& recorder);

template <Act kAct>
constexpr Kernel unary_kernel(const char* name) {
  return {name, "", float_inputs, numerics_f32, nullptr, record_unary<kAct>};
}
template <Arithmetic kOp>
constexpr Kernel binary_kernel(const char* name) {
  return {name, "", float_inputs, numerics_f32, nullptr, record_binary<kOp>};
}
template <Act kAct>
constexpr Kernel glu_kernel(const char* name) {
  return {name, "", glu_supports, numerics_f32, nullptr, [](const Call& call, Recorder& recorder) {
            return record_glu(call, kAct, recorder);
          }};
}

}  // namespace mica::vulkan
