// Four elements of a row at once. Include after base.glsl.
#ifndef MICA_LOAD4_GLSL
#define MICA_LOAD4_GLSL

// Elements e … e + 3 of a row of F32, F16 or BF16, zeros from element n on. `wide`: n is a multiple
// of 4 and the row's address one of 4 elements.
vec4 load4(uint dtype, uint64_t row, uint e, uint n, bool wide) {
  vec4 v = vec4(0);
  if (wide) {
    if (e >= n) return v;
    if (dtype == MICA_F32) return F32x4P(row).v[e >> 2];
    const uvec2 w = U32x2P(row).v[e >> 2];
    if (dtype == MICA_F16) return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
    return uintBitsToFloat(uvec4(w.x << 16, w.x & 0xffff0000u, w.y << 16, w.y & 0xffff0000u));
  }
  [[unroll]] for (uint i = 0; i < 4u; ++i) if (e + i < n) v[i] = load_float(dtype, row, e + i);
  return v;
}

#endif
