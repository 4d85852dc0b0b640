// Gated linear units: a region of two members, act(gate) and its product with up, done at once.
#pragma once
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace {

inline const char* glu_supports(const Call& call) {
  if (call.n_members != 2 || call.members[1].op != MICA_OP_mul) return "it is not act, mul";
  const Tensor& gate = call.members[0].in[0];
  const Tensor& up = call.members[1].in[1];
  for (int i = 0; i < 4; ++i) {
    if (gate.dim[i] != up.dim[i]) return "gate and up differ in shape";
  }
  const char* no = float_inputs(call.members[0]);
  return no != nullptr ? no : float_inputs(call.members[1]);
}

inline Cut glu_cut(const Call& call) {
  const Call& mul = call.members[1];
  return cut(mul.out, packed(call.members[0].in[0]) && packed(mul.in[1]));
}
inline int64_t glu_items(const Call& call, uint32_t) {
  return cut_items(call.members[1].out, glu_cut(call));
}
inline int64_t glu_grain(const Call& call, uint32_t) { return cut_grain(glu_cut(call)); }

// Rounds to the dtype that the value between the members has.
MICA_INLINE f32x16 rounded_to(mica_dtype dtype, f32x16 x) {
  uint16_t half[16];
  if (dtype == MICA_F16) {
    store_f16(half, x);
    return load_f16(half);
  }
  if (dtype == MICA_BF16) {
    store_bf16(half, x);
    return load_bf16(half);
  }
  return x;
}

template <class F>
void glu_run(const Call& call, uint32_t, int64_t first, int64_t end, char*) {
  const Call& act = call.members[0];
  const Call& mul = call.members[1];
  const Cut c = glu_cut(call);
  float gate_buffer[kChunk], up_buffer[kChunk], out_buffer[kChunk];
  for (int64_t item = first; item < end; ++item) {
    const int64_t row = item / c.chunks;
    const int64_t at = (item - row * c.chunks) * kChunk;
    const int64_t n = min_i64(kChunk, c.row_elems - at);
    const float* gate = read_floats(act.in[0], row_at(act.in[0], row), at, n, gate_buffer);
    const float* up = read_floats(mul.in[1], row_at(mul.in[1], row), at, n, up_buffer);
    char* out_row = row_at(mul.out, row);
    float* y = place_floats(mul.out, out_row, at, out_buffer);
    if (act.out.data != nullptr || act.out.dtype != MICA_F32) {
      for (int64_t i = 0; i < n; i += 16) {
        const int64_t m = min_i64(16, n - i);
        store_n(gate_buffer + i, rounded_to(act.out.dtype, F::apply(load_n(gate + i, m))), m);
      }
      // Somebody outside the region reads it too.
      if (act.out.data != nullptr) {
        write_floats(act.out, row_at(act.out, row), at, n, gate_buffer);
      }
      for (int64_t i = 0; i < n; i += 16) {
        const int64_t m = min_i64(16, n - i);
        store_n(y + i, load_n(gate_buffer + i, m) * load_n(up + i, m), m);
      }
    } else {
      int64_t i = 0;
      for (; i + 16 <= n; i += 16) store(y + i, F::apply(load(gate + i)) * load(up + i));
      if (i < n) {
        const int64_t m = n - i;
        store_n(y + i, F::apply(load_n(gate + i, m)) * load_n(up + i, m), m);
      }
    }
    write_floats(mul.out, out_row, at, n, y);
  }
}

template <class F>
constexpr Kernel glu_kernel(const char* name) {
  return {name,    "",      1,         glu_supports, numerics_f32,
          nullptr, nullptr, glu_items, glu_run<F>,   glu_grain};
}

}  // namespace
MICA_CPU_END
