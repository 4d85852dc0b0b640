// Scales of q4_k and q5_k: 16 bytes for 8 units. .x: d and dmin as F16. Bytes 0 … 7 of .yz: of unit
// i the low 4 bits of scale (low nibble) and of min. Nibble i of .w: their upper 2 bits, the
// scale's first.
uint s_row_bytes(uint n_units) { return n_units * 2u; }
uint d_row_bytes(uint n_units) { return 0u; }

struct Scale {
  uvec4 w;
};
Scale load_scale(Row r, uint u) { return Scale(U32x4P(r.s).v[u >> 3]); }
void affine(Scale s, uint u, out vec2 scale, out vec2 bias) {
  const vec2 d = unpackHalf2x16(s.w.x);
  const uint low = ((u & 4u) == 0u ? s.w.y : s.w.z) >> (8u * (u & 3u));
  const uint high = s.w.w >> (4u * (u & 7u));
  const uint step = (low & 15u) | ((high & 3u) << 4);
  const uint shift = ((low >> 4) & 15u) | ((high & 12u) << 2);
  scale = vec2(d.x * float(step));
  bias = vec2(-d.y * float(shift));
}
