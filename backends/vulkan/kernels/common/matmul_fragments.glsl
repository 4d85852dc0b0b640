// matmul_gemm.comp's tile by subgroups, ACROSS of them along n and DOWN along m. Of steps of 32
// elements of K two are in shared memory, one multiplied while the other is written, and two more
// on their way in registers. Rows of a step are 80 bytes apart: 8 of them lie on all banks once.
const uint kThreads = gl_WorkGroupSize.x;
const uint kPitch = 5;  // uvec4
const uint kPartsW = BN * 4u / kThreads;
const uint kPartsX = BM * 4u / kThreads;
const uint kParts = kPartsW + kPartsX;
const uint kStep = (BN + BM) * kPitch;
const uint kFragsN = BN / ACROSS / 16u;
const uint kFragsM = BM / DOWN / 16u;

shared uvec4 steps[2u * kStep];  // rows of w, then of x
shared float edge[ACROSS * DOWN * 256];  // a fragment a subgroup, where a tile is cut off

uint64_t stage[kParts];
uvec4 parts[2u * kParts];
FragC outputs[kFragsM * kFragsN];

uint frag_n(uint i) { return (frag_team() % ACROSS * kFragsN + i) * 16u; }
uint frag_m(uint j) { return (frag_team() / ACROSS * kFragsM + j) * 16u; }

void begin_stage(Slice s, uint n0, uint m0) {
  const uint j = gl_LocalInvocationIndex % 4u;
  FRAG_UNROLL for (uint i = 0; i < kPartsW; ++i) {
    const uint n = n0 + (gl_LocalInvocationIndex + i * kThreads) / 4u;
    stage[i] = w_row(s, min(n, count_n() - 1u)) + j * 16u;
  }
  FRAG_UNROLL for (uint i = 0; i < kPartsX; ++i)
    stage[kPartsW + i] =
        x_tile(s, m0 + (gl_LocalInvocationIndex + i * kThreads) / 4u) + j * 16u;
}

void fetch(uint step, const uint set) {
  const uint at = min(step, k_pad() / 32u - 1u) * 64u;
  FRAG_UNROLL for (uint i = 0; i < kParts; ++i)
    parts[set * kParts + i] = U32x4P(stage[i] + at).v[0];
}

void put(const uint set, uint to) {
  FRAG_UNROLL for (uint i = 0; i < kParts; ++i) {
    const uint part = gl_LocalInvocationIndex + (i < kPartsW ? i : i - kPartsW) * kThreads;
    const uint row = part / 4u + (i < kPartsW ? 0u : BN);
    steps[to * kStep + row * kPitch + part % 4u] = parts[set * kParts + i];
  }
}

void multiply(uint from) {
  FRAG_UNROLL for (uint h = 0; h < 2u; ++h) {
    FragA x[kFragsM];
    FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j) {
      load_rows(x[j], steps, from * kStep + (BN + frag_m(j)) * kPitch + 2u * h, kPitch);
    }
    FRAG_UNROLL for (uint i = 0; i < kFragsN; ++i) {
      FragB w;
      load_columns(w, steps, from * kStep + frag_n(i) * kPitch + 2u * h, kPitch);
      FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j)
        frag_multiply(x[j], w, outputs[j * kFragsN + i]);
    }
  }
}

void write_outputs(Slice s, uint n0, uint m0) {
  const uint y_n = first_n();
#if defined(COOP)
  const bool whole = m0 + BM <= s.m && n0 + BN <= count_n() && (p.n | y_n) % 4u == 0u;
#else
  const bool whole = false;
#endif
  FRAG_UNROLL for (uint j = 0; j < kFragsM; ++j) {
    FRAG_UNROLL for (uint i = 0; i < kFragsN; ++i) {
      const uint m = m0 + frag_m(j);
      const uint n = n0 + frag_n(i);
#if defined(COOP)
      if (whole) {
        coopMatStore(outputs[j * kFragsN + i], F32x4P(y_row(s, m)).v, (y_n + n) / 4u, p.n / 4u,
                     gl_CooperativeMatrixLayoutRowMajor);
        continue;
      }
#endif
      const uint at = frag_team() * 256u;
      frag_barrier();
      store_rows(outputs[j * kFragsN + i], edge, at, 16u);
      frag_barrier();
      for (uint e = frag_lane(); e < 256u; e += frag_lanes())
        if (m + e / 16u < s.m && n + e % 16u < count_n())
          F32P(y_row(s, m + e / 16u)).v[y_n + n + e % 16u] = edge[at + e];
    }
  }
}

// Step k lies in half k % 2 of `steps`; its parts were in set k % 2.
void turn(uint k, const uint odd) {
  put(1u - odd, 1u - odd);
  fetch(k + 3u, 1u - odd);
  multiply(odd);
  barrier();
}

void multiply_tile(Slice s, uint n0, uint m0) {
  begin_stage(s, n0, m0);
  FRAG_UNROLL for (uint i = 0; i < kFragsM * kFragsN; ++i) frag_clear(outputs[i]);
  fetch(0u, 0u);
  fetch(1u, 1u);
  put(0u, 0u);
  fetch(2u, 0u);
  barrier();
  const uint n_steps = k_pad() / 32u;
  for (uint k = 0; k < n_steps; k += 2u) {
    turn(k, 0u);
    if (k + 1u < n_steps) turn(k + 1u, 1u);
  }
  write_outputs(s, n0, m0);
}
