// q5_1: d * q + m. Plane s: d and m as F16, a unit.
#define W_BITS 4
#define W_HIGH_BITS 1
#define W_HALVES 0
#define W_ZERO 0
#define W_BIAS 1

uint s_row_bytes(uint n_units) { return n_units * 4u; }
uint d_row_bytes(uint n_units) { return 0u; }

struct Scale {
  uint dm;
};
Scale load_scale(Row r, uint u) { return Scale(U32P(r.s).v[u]); }
void affine(Scale s, uint u, out vec2 scale, out vec2 bias) {
  const vec2 dm = unpackHalf2x16(s.dm);
  scale = vec2(dm.x);
  bias = vec2(dm.y);
}
