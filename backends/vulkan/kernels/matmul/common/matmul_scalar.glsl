// matmul_tile.comp's products by plain arithmetic. Neighbours in the workgroup have neighbouring
// rows of w, so that they write neighbouring outputs.
const uint kAcross = BN / TN;  // invocations along n
const uint kDown = BM / TM;

float outputs[TM * TN];
float products[TM * TN];  // of a unit, or half of it, before scaling

void clear_outputs() { [[unroll]] for (uint i = 0; i < TM * TN; ++i) outputs[i] = 0.0; }

// Adds columns of four elements [first, end) of the unit to products.
void multiply_columns(uint first, uint end) {
  const uint n = gl_LocalInvocationIndex % kAcross;
  const uint m = gl_LocalInvocationIndex / kAcross;
  for (uint k = first; k < end; ++k) {
    vec4 w[TN];
    [[unroll]] for (uint i = 0; i < TN; ++i) w[i] = vec4(tile_w[(n + i * kAcross) * kPitch + k]);
    [[unroll]] for (uint j = 0; j < TM; ++j) {
      const vec4 x = vec4(tile_x[(m + j * kDown) * kPitch + k]);
      [[unroll]] for (uint i = 0; i < TN; ++i) products[j * TN + i] += dot(w[i], x);
    }
  }
}

void multiply() {
  const uint n = gl_LocalInvocationIndex % kAcross;
  const uint m = gl_LocalInvocationIndex / kAcross;
#if defined(W_BITS)
  for (uint h = 0; h < 1u + W_HALVES; ++h) {
    [[unroll]] for (uint i = 0; i < TM * TN; ++i) products[i] = 0.0;
    multiply_columns(4u * h, W_HALVES != 0 ? 4u * h + 4u : 8u);
    [[unroll]] for (uint i = 0; i < TN; ++i) {
      const float scale = tile_scale[BN * h + n + i * kAcross];
      [[unroll]] for (uint j = 0; j < TM; ++j) outputs[j * TN + i] +=
          scale * tile_power[m + j * kDown] * products[j * TN + i];
    }
  }
#if W_BIAS
  [[unroll]] for (uint i = 0; i < TN; ++i) {
    [[unroll]] for (uint j = 0; j < TM; ++j) outputs[j * TN + i] +=
        tile_bias[n + i * kAcross] * tile_sum[m + j * kDown];
  }
#endif
#else
  [[unroll]] for (uint i = 0; i < TM * TN; ++i) products[i] = 0.0;
  multiply_columns(0u, 8u);
  [[unroll]] for (uint j = 0; j < TM; ++j) {
    [[unroll]] for (uint i = 0; i < TN; ++i) outputs[j * TN + i] +=
        tile_power[m + j * kDown] * products[j * TN + i];
  }
#endif
}

void write_outputs(Slice s, uint n0, uint m0) {
  [[unroll]] for (uint j = 0; j < TM; ++j) {
    const uint m = m0 + gl_LocalInvocationIndex / kAcross + j * kDown;
    if (m >= s.m) break;
    const uint64_t y = y_row(s, m);
    [[unroll]] for (uint i = 0; i < TN; ++i) {
      const uint n = n0 + gl_LocalInvocationIndex % kAcross + i * kAcross;
      if (n < p.n) F32P(y).v[n] = outputs[j * TN + i];
    }
  }
}
