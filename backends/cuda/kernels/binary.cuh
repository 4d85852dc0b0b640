// Arithmetic of two tensors, b repeated over a: binary_kernel<F>("name"), F::apply(a, b).
#pragma once
#include "backends/cuda/kernels/elements.cuh"

namespace mica::cuda {

struct BinaryArgs {
  Walk walk;
  Operand a, b, out;
};

template <class F>
__global__ void __launch_bounds__(kElementThreads) binary_elements(BinaryArgs args) {
  start_next();
  wait_for_inputs();
  walk(args.walk, [&](const At& at) {
    Four y = load(args.a, at);
    const Four b = load(args.b, at);
#pragma unroll
    for (int i = 0; i < 4; ++i) y.v[i] = F::apply(y.v[i], b.v[i]);
    store(args.out, at, y);
  });
}

template <class F>
mica_status binary_record(const Call& call, Recorder& recorder) {
  const Tensor& a = call.in[0];
  const Tensor& b = call.in[1];
  const bool flat = is_packed(a) && is_packed(b) && is_packed(call.out) && same_shape(a, b);
  const BinaryArgs args = {walk_of(call.out, flat), operand_of(a, flat), operand_of(b, flat),
                           operand_of(call.out, flat)};
  return launch(recorder, binary_elements<F>, walk_grid(call, args.walk), dim3(kElementThreads), 0,
                args);
}

template <class F>
constexpr Kernel binary_kernel(const char* name) {
  return {name, "", float_elements, numerics_f32, nullptr, binary_record<F>};
}

}  // namespace mica::cuda
