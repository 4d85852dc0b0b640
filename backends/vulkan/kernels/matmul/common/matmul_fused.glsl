// What the fused forms of matmul_vec.comp and matmul_vec_float.comp have instead of matmul.glsl: up
// to three weights of one type at once, an rms_norm of x ahead, and what is done with the sums.
// Include after base.glsl, numbers.glsl and weight.glsl.
//
// The norm's factor is one for all of a row, so x is multiplied by the norm's weight alone, and the
// sums by the factor, which their team knows by then: beside them it adds up the squares of x.
#include "kernels/common/load4.glsl"
#include "kernels/matmul/common/matmul_fused_params.h"

layout(push_constant, scalar) uniform Push { FusedPush p; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer ParamsP {
  FusedParams v;
};
// What the loads of x need is read once, ahead of all else; the rest only where it is needed, so
// that it takes no registers before.
uint64_t x_address = ParamsP(p.params).v.x;
uint64_t norm_address = ParamsP(p.params).v.norm;
uint x_stride = ParamsP(p.params).v.s_x;

// Numbers as in FusedSpecs (matmul_fused.h).
layout(constant_id = 13) const uint ENDING = kStore;
layout(constant_id = 14) const uint NORM = 0;  // 1: there is one
layout(constant_id = 15) const uint GELU = 0;  // of kGlu; 0: SiLU
// Of kQkv.
layout(constant_id = 16) const uint HEAD_DIM_Q = 2;
layout(constant_id = 17) const uint HEAD_DIM_K = 2;
layout(constant_id = 18) const uint HEAD_DIM_V = 2;
layout(constant_id = 19) const uint N_PAIRS_Q = 0;  // that RoPE turns in a head
layout(constant_id = 20) const uint N_PAIRS_K = 0;
layout(constant_id = 21) const uint HALF_SPLIT_Q = 0;  // 1: pairs are half of what is turned apart
layout(constant_id = 22) const uint HALF_SPLIT_K = 0;
layout(constant_id = 23) const uint CELL_K = 0;  // mica_dtype
layout(constant_id = 24) const uint CELL_V = 0;
uint head_dim_of(uint i) { return i == 0u ? HEAD_DIM_Q : i == 1u ? HEAD_DIM_K : HEAD_DIM_V; }
uint n_pairs_of(uint i) { return i == 0u ? N_PAIRS_Q : i == 1u ? N_PAIRS_K : 0u; }
bool is_half_split(uint i) { return (i == 0u ? HALF_SPLIT_Q : i == 1u ? HALF_SPLIT_K : 0u) != 0u; }

struct Slice {
  uint block;
  uint m;     // live columns
  bool runs;  // false: nothing to do
};
Slice find_slice(uint64_t item) { return Slice(uint(item), live_count(p.live, p.m), true); }
uint64_t x_row(Slice s, uint m) { return x_address + uint64_t(m) * x_stride; }

// Elements e … e + 3 of a row of x, times the norm's weight; `squares` grows by theirs.
vec4 load_x(uint dtype, uint64_t row, uint e, bool wide, inout float squares) {
  vec4 v = load4(dtype, row, e, p.k, wide);
  if (NORM != 0) {
    squares += dot(v, v);
    v *= load4(MICA_F32, norm_address, e, p.k, wide);
  }
  return v;
}

// --- Rows of w -----------------------------------------------------------------------------------

// Teams have ROWS rows each, in the order of the weights; none has rows of two weights, but for
// kGlu, where it has as many of either. The rows of kQkv's Q and K come in the pairs that RoPE
// turns into one another.
uint teams_of(uint n) { return (n + ROWS - 1u) / ROWS; }
uint n_teams() {
  if (ENDING == kGlu) return teams_of(2u * p.n[0]);
  return teams_of(p.n[0]) + teams_of(p.n[1]) + teams_of(p.n[2]);
}

struct Place {
  uint i;  // weight
  uint n;  // row of it
  bool exists;
};
Place place_of(uint team, uint r) {
  const uint n_all = n_teams();
  const bool surplus = team >= n_all;  // of the last workgroup
  team = min(team, n_all - 1u);
  Place at;
  if (ENDING == kGlu) {
    at.i = r / (ROWS / 2u);
    at.n = team * (ROWS / 2u) + r % (ROWS / 2u);
  } else {
    const uint end0 = teams_of(p.n[0]), end1 = end0 + teams_of(p.n[1]);
    at.i = team < end0 ? 0u : team < end1 ? 1u : 2u;
    at.n = (team - (at.i == 0u ? 0u : at.i == 1u ? end0 : end1)) * ROWS + r;
    if (ENDING == kQkv && is_half_split(at.i)) {
      const uint head_dim = head_dim_of(at.i), n_pairs = n_pairs_of(at.i);
      const uint head = at.n / head_dim, i = at.n % head_dim / 2u;
      if (i < n_pairs) at.n = head * head_dim + i + (r & 1u) * n_pairs;
    }
  }
  const uint n = at.i == 0u ? p.n[0] : at.i == 1u ? p.n[1] : p.n[2];
  at.exists = !surplus && at.n < n;
  at.n = min(at.n, n - 1u);
  return at;
}
uint64_t w_of(Place at) { return at.i == 0u ? p.w[0] : at.i == 1u ? p.w[1] : p.w[2]; }

#if defined(W_BITS)
uint64_t plane_behind(uint64_t plane, uint n_rows, uint row_bytes) {
  return (plane + uint64_t(n_rows) * row_bytes + 15ul) & ~15ul;
}
Row w_row(Place at) {
  const uint n_units = p.k / 32u;
  const uint n = at.i == 0u ? p.n[0] : at.i == 1u ? p.n[1] : p.n[2];
  uint64_t planes[4];  // as layout.h has them
  planes[0] = w_of(at);
  planes[1] = plane_behind(planes[0], n, n_units * 4u * W_BITS);
  planes[2] = plane_behind(planes[1], n, s_row_bytes(n_units));
  planes[3] = plane_behind(planes[2], n, n_units * 4u * W_HIGH_BITS);
  return packed_row(planes, at.n, n_units);
}
#else
uint64_t w_row(Place at) { return w_of(at) + uint64_t(at.n) * p.k * float_bytes(W_KIND); }
#endif
