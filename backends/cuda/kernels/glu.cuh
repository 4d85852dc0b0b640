// Gated linear units: a region of two members, act(gate) and its product with up, done at once.
#pragma once
#include "backends/cuda/kernels/unary.cuh"

namespace mica::cuda {

struct GluArgs {
  Walk walk;
  Operand gate, up, act, out;
};

template <float (*kAct)(float)>
__global__ void __launch_bounds__(kElementThreads) glu_elements(GluArgs a) {
  start_next();
  wait_for_inputs();
  walk(a.walk, [&](const At& at) {
    Four y = load(a.gate, at);
    const Four up = load(a.up, at);
#pragma unroll
    for (float& v : y.v) v = rounded(a.act.dtype, kAct(v));
    if (a.act.address != 0) store(a.act, at, y);  // somebody outside the region reads it too
#pragma unroll
    for (int i = 0; i < 4; ++i) y.v[i] *= up.v[i];
    store(a.out, at, y);
  });
}

inline const char* glu_supports(const Call& call) {
  if (call.n_members != 2 || call.members[1].op != MICA_OP_mul) return "it is not act, mul";
  const char* no = float_elements(call.members[0]);
  return no != nullptr ? no : float_elements(call.members[1]);
}

inline uint32_t glu_numerics(const Call&) { return MICA_NUM_F32; }

template <float (*kAct)(float)>
mica_status glu_record(const Call& call, Recorder& recorder) {
  const Call& act = call.members[0];
  const Call& mul = call.members[1];
  const Tensor& gate = act.in[0];
  const Tensor& up = mul.in[1];
  const bool flat = is_packed(gate) && is_packed(up) && is_packed(mul.out) &&
                    same_shape(gate, up) && (act.out.address == 0 || is_packed(act.out));
  const GluArgs a = {walk_of(mul.out, flat), operand_of(gate, flat), operand_of(up, flat),
                     operand_of(act.out, flat), operand_of(mul.out, flat)};
  return launch(recorder, glu_elements<kAct>, walk_grid(call, a.walk), dim3(kElementThreads), 0, a);
}

template <float (*kAct)(float)>
constexpr Kernel glu_kernel(const char* name) {
  return {name, "", glu_supports, glu_numerics, nullptr, glu_record<kAct>};
}

}  // namespace mica::cuda
