// q6_k: d * scale * (q - 32), a signed 8-bit scale for 16 elements. Plane s: the two scales of a
// unit. Plane d: d as F16 for 8 units, a row padded to 4 bytes.
#define W_BITS 4
#define W_HIGH_BITS 2
#define W_HALVES 1
#define W_ZERO 32
#define W_BIAS 0

uint s_row_bytes(uint n_units) { return n_units * 2u; }
uint d_row_bytes(uint n_units) { return (n_units / 8u + 1u) / 2u * 4u; }

struct Scale {
  uint pair, d;
};
Scale load_scale(Row r, uint u) { return Scale(U16P(r.s).v[u], U16P(r.d).v[u >> 3]); }
void affine(Scale s, uint u, out vec2 scale, out vec2 bias) {
  const int pair = int(s.pair << 16) >> 16;
  scale = vec2(float((pair << 24) >> 24), float(pair >> 8)) * unpackHalf2x16(s.d).x;
  bias = vec2(0);
}
