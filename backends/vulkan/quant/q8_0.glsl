// q8_0: d * q, q signed. Plane s: d as F16 a unit, a row padded to 4 bytes.
#define W_BITS 8
#define W_HIGH_BITS 0
#define W_HALVES 0
#define W_ZERO 0
#define W_BIAS 0

uint s_row_bytes(uint n_units) { return (n_units + 1u) / 2u * 4u; }
uint d_row_bytes(uint n_units) { return 0u; }

struct Scale {
  uint d;
};
Scale load_scale(Row r, uint u) { return Scale(U16P(r.s).v[u]); }
void affine(Scale s, uint u, out vec2 scale, out vec2 bias) {
  scale = unpackHalf2x16(s.d).xx;
  bias = vec2(0);
}
