// A tile of matmul_gemm.comp and matmul_stream.comp by subgroups, ACROSS of them along n and DOWN
// along m. A step is UNITS units (32 elements) of K; while it is multiplied from shared memory, the
// next one is on its way to registers. Packed weights become F16 on the way from registers to
// shared memory. There rows of a step are an odd number of 16 bytes apart: 8 of them lie on all
// banks once. With two BUFFERS one is written while the other is still multiplied; with one, more
// workgroups fit on a core.
//
// The file before has BN, BM, UNITS, ACROSS, DOWN, BUFFERS, W_WIDE, k_pad(), count_n(), x_tile().
const uint kThreads = gl_WorkGroupSize.x;
const uint kEights = 4u * UNITS;  // of a row, a step: uvec4
const uint kPitch = kEights + 1u;
const uint kPartsX = BM * kEights / kThreads;
#if defined(W_BITS)
const uint kPartsW = BN * UNITS / kThreads;  // an invocation moves whole units
#define WeightRow Row
#define WeightPart Raw
#else
const uint kPartsW = BN * kEights / kThreads;
#define WeightRow uint64_t
#define WeightPart uvec4
#endif
const uint kStep = (BN + BM) * kPitch;
const uint kFragsN = BN / ACROSS / 16u;
const uint kFragsM = BM / DOWN / 16u;

shared uvec4 steps[BUFFERS * kStep];  // rows of w, then of x

uint64_t rows_x[kPartsX];
WeightRow rows_w[kPartsW];
uvec4 parts_x[kPartsX];
WeightPart parts_w[kPartsW];
FragC outputs[kFragsM * kFragsN];

uint frag_n(uint i) { return (frag_team() % ACROSS * kFragsN + i) * 16u; }
uint frag_m(uint j) { return (frag_team() / ACROSS * kFragsM + j) * 16u; }
uint nth_part(uint i) { return gl_LocalInvocationIndex + i * kThreads; }

void begin_stage(Slice s, uint n0, uint m0) {
#if defined(W_BITS)
  const uint each = UNITS;
#else
  const uint each = kEights;
#endif
  FRAG_UNROLL for (uint i = 0; i < kPartsW; ++i) rows_w[i] =
      w_row(s, min(n0 + nth_part(i) / each, count_n() - 1u));
  FRAG_UNROLL for (uint i = 0; i < kPartsX; ++i) rows_x[i] = x_tile(s, m0 + nth_part(i) / kEights);
}

#if defined(W_BITS)
WeightPart load_weight(uint i, uint step) {
  const uint unit = step * UNITS + nth_part(i) % UNITS;
  return load_raw(rows_w[i], min(unit, p.k / 32u - 1u));
}

void put_weight(uint i, WeightPart raw, uint step, uint to) {
  const uint unit = step * UNITS + nth_part(i) % UNITS;
  const uint at = to * kStep + nth_part(i) / UNITS * kPitch + nth_part(i) % UNITS * 4u;
  vec2 scale, bias;
  affine(raw.s, unit, scale, bias);
  if (unit >= p.k / 32u) scale = bias = vec2(0);
#if W_BIAS || W_HALVES
#define stage_quants quant_halves  // with the offset, sums would not fit into F32
#else
#define stage_quants offset_quants
  bias -= kQuantOffset * scale;  // exact: the scale has 11 bits
#endif
  [[unroll]] for (uint j = 0; j < 4u; ++j) {
    const vec4 lo = vec4(stage_quants(uint(quad(raw, 2u * j))));
    const vec4 hi = vec4(stage_quants(uint(quad(raw, 2u * j + 1u))));
    steps[at + j] = uvec4(halves_of(lo * scale[j / 2u] + bias[j / 2u]),
                          halves_of(hi * scale[j / 2u] + bias[j / 2u]));
  }
}
#else
WeightPart load_weight(uint i, uint step) {
  const uint e = 8u * (step * kEights + nth_part(i) % kEights);
  uvec4 part = uvec4(0);
  if (W_WIDE != 0) {
    if (e < p.k) part = U32x4P(rows_w[i]).v[e / 8u];
  } else {
    [[unroll]] for (uint h = 0; h < 8u; ++h) if (e + h < p.k) part[h / 2u] |=
        uint(U16P(rows_w[i]).v[e + h]) << (h % 2u * 16u);
  }
  return part;
}

void put_weight(uint i, WeightPart part, uint step, uint to) {
  steps[to * kStep + nth_part(i) / kEights * kPitch + nth_part(i) % kEights] = part;
}
#endif

void fetch(uint step) {
  FRAG_UNROLL for (uint i = 0; i < kPartsW; ++i) parts_w[i] = load_weight(i, step);
  FRAG_UNROLL for (uint i = 0; i < kPartsX; ++i) parts_x[i] =
      U32x4P(rows_x[i]).v[step * kEights + nth_part(i) % kEights];
}

void put(uint step, uint to) {
  FRAG_UNROLL for (uint i = 0; i < kPartsW; ++i) put_weight(i, parts_w[i], step, to);
  FRAG_UNROLL for (uint i = 0; i < kPartsX; ++i)
      steps[to * kStep + (BN + nth_part(i) / kEights) * kPitch + nth_part(i) % kEights] =
          parts_x[i];
}

void multiply(uint from) {
  FRAG_UNROLL for (uint h = 0; h < 2u * UNITS; ++h) {
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

// The outputs' sums over steps [first, end), of which there is at least one.
//
// Where a load begins decides how well it is hidden, and compilers move loads. The barrier of
// subgroups keeps the next step's behind the last use of the registers they go to: begun earlier,
// they get others, and are waited for at once in order to be moved. The barrier of the workgroup
// keeps them from sinking to where they are needed.
void multiply_steps(Slice s, uint n0, uint m0, uint first, uint end) {
  begin_stage(s, n0, m0);
  FRAG_UNROLL for (uint i = 0; i < kFragsM * kFragsN; ++i) frag_clear(outputs[i]);
  fetch(first);
  for (uint step = first; step < end; ++step) {
    const uint to = (step - first) % BUFFERS;
    put(step, to);
    frag_barrier();
    fetch(min(step + 1u, end - 1u));
    barrier();
    multiply(to);
    // With two, all have multiplied a buffer when they have passed the other's barrier.
    if (BUFFERS == 1u) barrier();
  }
}
