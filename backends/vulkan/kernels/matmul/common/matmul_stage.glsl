// A unit (32 elements of K) of a tile's operands: fetched into registers, then put into shared
// memory as F16, rows of 32 values kPitch apart. Each invocation moves the same parts every time.
const uint kThreads = gl_WorkGroupSize.x;
const uint kPitch = 10;  // in four halves; a quarter more than the row, against bank conflicts
const uint kPartsW = BN * 4u / kThreads;
const uint kPartsX = BM * 4u / kThreads;

shared f16vec4 tile_w[BN * kPitch];
shared f16vec4 tile_x[BM * kPitch];
#if defined(W_BITS)
// Of elements 0 … 15 from 0 on, of 16 … 31 from BN on if they differ.
shared float tile_scale[BN * (1 + W_HALVES)];
#endif
#if defined(W_BITS) && W_BIAS
shared float tile_bias[BN];
shared float tile_sum[BM];
#endif
shared float tile_power[BM];  // of two, that a row's values are to be multiplied by

// This tile's rows of unit 0: the push constants have the address of all rows in x, of sums and
// powers in s_x[0].
uint64_t stage_x;
uint64_t stage_sums;
uint64_t stage_step;  // rows from unit to unit
uvec4 part_x[kPartsX];
#if defined(W_BITS)
Row stage_w[kPartsW];
Part part_w[kPartsW];
#else
uint64_t stage_w[kPartsW];
uvec4 part_w[kPartsW];
#endif
float part_sum, part_power;

void begin_stage(Slice s, uint n0, uint m0, uint n_units) {
  stage_step = (p.m + BM - 1u) / BM * BM;
  const uint64_t first = prepared_at(s, 0u, n_units, BM) + m0;
  stage_x = p.x + first * 64ul;
  stage_sums = p.s_x[0] + first * 8ul;
  [[unroll]] for (uint i = 0; i < kPartsW; ++i) {
    const uint n = n0 + (gl_LocalInvocationIndex + i * kThreads) / 4u;
    stage_w[i] = w_row(s, min(n, p.n - 1u));
  }
}

void fetch(uint unit) {
  const uint64_t x = stage_x + unit * stage_step * 64ul;
  [[unroll]] for (uint i = 0; i < kPartsX; ++i) part_x[i] =
      U32x4P(x).v[gl_LocalInvocationIndex + i * kThreads];
  [[unroll]] for (uint i = 0; i < kPartsW; ++i) {
    const uint j = (gl_LocalInvocationIndex + i * kThreads) % 4u;
#if defined(W_BITS)
    part_w[i] = load_part(stage_w[i], unit, j);
#else
    const uint e = 32u * unit + 8u * j;
    part_w[i] = uvec4(0);
    if (W_WIDE != 0) {
      if (e < p.k) part_w[i] = U32x4P(stage_w[i]).v[e >> 3];
    } else {
      [[unroll]] for (uint h = 0; h < 8u; ++h) if (e + h < p.k) part_w[i][h / 2u] |=
          uint(U16P(stage_w[i]).v[e + h]) << (h % 2u * 16u);
    }
#endif
  }
  if (gl_LocalInvocationIndex < BM) {
    const uint64_t row = stage_sums + (unit * stage_step + gl_LocalInvocationIndex) * 8ul;
    part_sum = F32P(row).v[0];
    part_power = F32P(row).v[1];
  }
}

void put(uint unit) {
  [[unroll]] for (uint i = 0; i < kPartsX; ++i) {
    const uint part = gl_LocalInvocationIndex + i * kThreads;
    const uint at = part / 4u * kPitch + part % 4u * 2u;
    tile_x[at] = four_halves(part_x[i].x, part_x[i].y);
    tile_x[at + 1u] = four_halves(part_x[i].z, part_x[i].w);
  }
  [[unroll]] for (uint i = 0; i < kPartsW; ++i) {
    const uint n = (gl_LocalInvocationIndex + i * kThreads) / 4u;
    const uint j = (gl_LocalInvocationIndex + i * kThreads) % 4u;
#if defined(W_BITS)
    tile_w[n * kPitch + j] = quant_halves(part_w[i].q_lo);
    tile_w[n * kPitch + 4u + j] = quant_halves(part_w[i].q_hi);
    if (j == 0u) {
      vec2 scale, bias;
      affine(part_w[i].s, unit, scale, bias);
      tile_scale[n] = scale.x;
#if W_HALVES
      tile_scale[BN + n] = scale.y;
#endif
#if W_BIAS
      tile_bias[n] = bias.x;
#endif
    }
#else
    tile_w[n * kPitch + 2u * j] = four_halves(part_w[i].x, part_w[i].y);
    tile_w[n * kPitch + 2u * j + 1u] = four_halves(part_w[i].z, part_w[i].w);
#endif
  }
  if (gl_LocalInvocationIndex < BM) {
    tile_power[gl_LocalInvocationIndex] = part_power;
#if defined(W_BITS) && W_BIAS
    tile_sum[gl_LocalInvocationIndex] = part_sum;
#endif
  }
}
