// What all shaders of matmul share: arguments, the slice and rows that a workgroup has,
// activations. Include after base.glsl, numbers.glsl and weight.glsl.
#include "kernels/common/load4.glsl"

layout(push_constant, scalar) uniform Push {
  uint64_t w[4];  // planes of packed weights; else the address and byte strides of dims 1, 2, 3
  uint64_t x;
  uint64_t s_x[3];  // byte strides of dims 1, 2, 3
  uint64_t y;
  uint64_t live;
  uint n, k, m;   // rows of w, elements of a row, columns; n x m is a slice of y
  uint w2, x2;    // dim 2
  uint r2, r3;    // slices of x that share one of w
  uint n_blocks;  // workgroups (naive: invocations) that a slice takes
  uint n_slices;
  uint live_dim;  // of x
}
p;

// The slice that work item `item` belongs to, and its number there.
struct Slice {
  uint block;
  uint i2, i3;
  uint m;     // live columns
  bool runs;  // false: nothing to do
};
Slice find_slice(uint64_t item) {
  Slice s;
  const uint i = uint(item / p.n_blocks);
  s.block = uint(item % p.n_blocks);
  s.i2 = i % p.x2;
  s.i3 = i / p.x2;
  s.runs = i < p.n_slices;
  s.m = p.m;
  if (p.live != 0) {
    const uint live = uint(max(I32P(p.live).v[0], 0));
    if (p.live_dim == 1u) s.m = min(live, p.m);
    if (p.live_dim == 2u) s.runs = s.runs && s.i2 < live;
    if (p.live_dim == 3u) s.runs = s.runs && s.i3 < live;
  }
  return s;
}
uint64_t x_row(Slice s, uint m) { return p.x + m * p.s_x[0] + s.i2 * p.s_x[1] + s.i3 * p.s_x[2]; }
uint64_t y_row(Slice s, uint m) {
  return p.y + 4u * uint64_t(p.n) * (m + p.m * (s.i2 + uint64_t(p.x2) * s.i3));
}

// Where matmul_prepare.comp puts row 0 of a unit, in rows. Rows are padded to tiles.
uint64_t prepared_at(Slice s, uint unit, uint n_units, uint m_tile) {
  const uint64_t m_pad = (p.m + m_tile - 1u) / m_tile * m_tile;
  return ((s.i2 + uint64_t(p.x2) * s.i3) * n_units + unit) * m_pad;
}

#if defined(W_BITS)
Row w_row(Slice s, uint n) {
  const uint64_t slice = s.i2 / p.r2 + uint64_t(p.w2) * (s.i3 / p.r3);
  return packed_row(p.w, slice * p.n + n, p.k / 32u);
}
#else
uint64_t w_row(Slice s, uint n) {
  return p.w[0] + n * p.w[1] + (s.i2 / p.r2) * p.w[2] + (s.i3 / p.r3) * p.w[3];
}
#endif
