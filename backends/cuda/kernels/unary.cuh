// Functions of one tensor, element by element: unary_kernel<F>("name"), F::of(call) makes an F
// whose (x) is the value.
#pragma once
#include "backends/cuda/kernels/elements.cuh"

namespace mica::cuda {

template <class F>
struct UnaryArgs {
  Walk walk;
  Operand x, out;
  F fn;
};

template <class F>
__global__ void __launch_bounds__(kElementThreads) unary_elements(UnaryArgs<F> a) {
  start_next();
  wait_for_inputs();
  walk(a.walk, [&](const At& at) {
    Four y = load(a.x, at);
#pragma unroll
    for (float& v : y.v) v = a.fn(v);
    store(a.out, at, y);
  });
}

template <class F>
mica_status unary_record(const Call& call, Recorder& recorder) {
  const bool flat = is_packed(call.in[0]) && is_packed(call.out);
  const UnaryArgs<F> a = {walk_of(call.out, flat), operand_of(call.in[0], flat),
                          operand_of(call.out, flat), F::of(call)};
  return launch(recorder, unary_elements<F>, walk_grid(call, a.walk), dim3(kElementThreads), 0, a);
}

template <class F>
constexpr Kernel unary_kernel(const char* name) {
  return {name, "", float_elements, numerics_f32, nullptr, unary_record<F>};
}

// A function without arguments of its own.
template <float (*kFunction)(float)>
struct Plain {
  static Plain of(const Call&) { return {}; }
  __device__ float operator()(float x) const { return kFunction(x); }
};

// expf is within 2 units in the last place, over all of F32, and reaches 0 and infinity.
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }
// x/2 (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
__device__ inline float gelu(float x) {
  const float twice_u = x * fmaf(x * x, 0.07135481387f, 1.595769167f);
  return x / (1.0f + expf(-twice_u));
}

}  // namespace mica::cuda
