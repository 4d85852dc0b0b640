// matmul_tile.comp's products by cooperative matrices: rows are columns of x (m), columns are rows
// of w (n). Subgroups are whole; TN of them lie along n and TM along m.
const uint kFragsN = BN / TN / 16u;
const uint kFragsM = BM / TM / 16u;
#define FragA coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define FragB coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define FragC coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>

FragC outputs[kFragsM * kFragsN];
shared float edge[TM * TN * 256];  // a fragment a subgroup, where a tile is cut off

uint frag_n(uint i) { return (gl_SubgroupID % TN * kFragsN + i) * 16u; }
uint frag_m(uint j) { return (gl_SubgroupID / TN * kFragsM + j) * 16u; }

void clear_outputs() {
  [[unroll]] for (uint i = 0; i < kFragsM * kFragsN; ++i) outputs[i] = FragC(0.0);
}

void multiply() {
  FragA x[kFragsM * 2u];
  [[unroll]] for (uint j = 0; j < kFragsM; ++j) {
    [[unroll]] for (uint h = 0; h < 2u; ++h)
      coopMatLoad(x[j * 2u + h], tile_x, frag_m(j) * kPitch + 4u * h, kPitch,
                  gl_CooperativeMatrixLayoutRowMajor);
  }
#if defined(W_BITS) && W_BIAS
  FragC sums[kFragsM];  // a column repeated
  [[unroll]] for (uint j = 0; j < kFragsM; ++j)
    coopMatLoad(sums[j], tile_sum, frag_m(j), 0u, gl_CooperativeMatrixLayoutColumnMajor);
#endif
  [[unroll]] for (uint i = 0; i < kFragsN; ++i) {
    FragB w[2];
    [[unroll]] for (uint h = 0; h < 2u; ++h)
      coopMatLoad(w[h], tile_w, frag_n(i) * kPitch + 4u * h, kPitch,
                  gl_CooperativeMatrixLayoutColumnMajor);
#if defined(W_BITS)
    FragC scale[1u + W_HALVES];  // a row repeated
    [[unroll]] for (uint h = 0; h < 1u + W_HALVES; ++h)
      coopMatLoad(scale[h], tile_scale, BN * h + frag_n(i), 0u, gl_CooperativeMatrixLayoutRowMajor);
#if W_BIAS
    FragC bias;
    coopMatLoad(bias, tile_bias, frag_n(i), 0u, gl_CooperativeMatrixLayoutRowMajor);
#endif
#endif
    [[unroll]] for (uint j = 0; j < kFragsM; ++j) {
      const uint o = j * kFragsN + i;
#if !defined(W_BITS)
      outputs[o] = coopMatMulAdd(x[j * 2u], w[0], outputs[o]);
      outputs[o] = coopMatMulAdd(x[j * 2u + 1u], w[1], outputs[o]);
#else
      FragC product = coopMatMulAdd(x[j * 2u], w[0], FragC(0.0));
#if W_HALVES
      outputs[o] += scale[0] * product;
      product = coopMatMulAdd(x[j * 2u + 1u], w[1], FragC(0.0));
      outputs[o] += scale[1] * product;
#else
      product = coopMatMulAdd(x[j * 2u + 1u], w[1], product);
      outputs[o] += scale[0] * product;
#endif
#if W_BIAS
      outputs[o] += sums[j] * bias;
#endif
#endif
    }
  }
}

void write_outputs(Slice s, uint n0, uint m0) {
  const bool whole = m0 + BM <= s.m && n0 + BN <= p.n && p.n % 4u == 0u;
  [[unroll]] for (uint j = 0; j < kFragsM; ++j) {
    [[unroll]] for (uint i = 0; i < kFragsN; ++i) {
      const uint m = m0 + frag_m(j);
      const uint n = n0 + frag_n(i);
      if (whole) {
        coopMatStore(outputs[j * kFragsN + i], F32x4P(y_row(s, m)).v, n / 4u, p.n / 4u,
                     gl_CooperativeMatrixLayoutRowMajor);
        continue;
      }
      const uint at = gl_SubgroupID * 256u;
      subgroupBarrier();
      coopMatStore(outputs[j * kFragsN + i], edge, at, 16u, gl_CooperativeMatrixLayoutRowMajor);
      subgroupBarrier();
      for (uint e = gl_SubgroupInvocationID; e < 256u; e += gl_SubgroupSize)
        if (m + e / 16u < s.m && n + e % 16u < p.n)
          F32P(y_row(s, m + e / 16u)).v[n + e % 16u] = edge[at + e];
    }
  }
}
