// What fused matmuls do with the sums of a team: sums[m * ROWS + r], and behind them the squares of
// each column of x. Include after reduce.glsl.
#include "kernels/attention/attention_page.glsl"
#include "kernels/rope_angle.glsl"
#include "kernels/rsqrt_exact.glsl"
#define is_nan is_nan_of_math  // numbers.glsl has one too
#include "kernels/common/math.glsl"
#undef is_nan

// What kQkv needs only at its end. Addresses are 0 where there is none.
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Table {
  uint64_t bias[3];  // F32
  uint64_t factors;  // F32, of frequencies
  uint n_cells[2];
  float magnitude;
  uint unused;
  uint64_t turns[];
};
// DETAIL of kQkv: bit 0: pairs are half a head apart; the types of K's and V's cells, 8 bits each;
// V's head_dim. Of kGlu: 1: GELU, else SiLU.
uint cell_type(uint i) { return (i == 1u ? DETAIL >> 1 : DETAIL >> 9) & 255u; }
uint head_dim_of(uint i) { return i == 2u ? DETAIL >> 17 : HEAD_DIM; }

void put_cell(uint i, uint m, uint n, float v) {
  const int slot = I32P(p.b).v[m];
  if (slot < 0 || uint(slot) >= Table(p.table).n_cells[i - 1u]) return;
  const uint head_dim = head_dim_of(i), dtype = cell_type(i);
  const Page page = page_of(dtype, head_dim);
  const uint64_t head = head_at(page, i == 1u ? p.y[1] : p.y[2], uint(slot) / MICA_KV_PAGE_CELLS,
                                (i == 1u ? p.n[1] : p.n[2]) / head_dim, n / head_dim);
  store_float(dtype, head + uint(slot) % MICA_KV_PAGE_CELLS * page.row_bytes, n % head_dim, v);
}

// A pair of rows of one weight: biases, RoPE if the pair is one of it, and to their places.
void end_pair(Place at0, Place at1, uint m, vec2 v) {
  Table t = Table(p.table);
  const uint64_t bias = at0.i == 0u ? t.bias[0] : at0.i == 1u ? t.bias[1] : t.bias[2];
  if (bias != 0) v += vec2(F32P(bias).v[at0.n], F32P(bias).v[at1.n]);
  const uint e = at0.n % HEAD_DIM;
  const uint pair = (DETAIL & 1u) != 0u ? e : e / 2u;
  if (N_PAIRS != 0 && at0.i != 2u && pair < N_PAIRS) {
    uint64_t turn = t.turns[pair];
    if (t.factors != 0) turn = divided(turn, F32P(t.factors).v[pair]);
    const vec2 cs = t.magnitude * cos_sin(turn * uint64_t(int64_t(I32P(p.a).v[m])));
    v = vec2(v.x * cs.x - v.y * cs.y, v.x * cs.y + v.y * cs.x);
  }
  if (at0.i == 0u) {
    const uint64_t y = p.y[0] + 4ul * p.n[0] * m;
    F32P(y).v[at0.n] = v.x;
    F32P(y).v[at1.n] = v.y;
  } else {
    put_cell(at0.i, m, at0.n, v.x);
    put_cell(at0.i, m, at1.n, v.y);
  }
}

float sum_at(uint i) {
  float v = sums[0];
  [[unroll]] for (uint j = 1; j < SUMS; ++j) v = i == j ? sums[j] : v;
  return v;
}

// The results of a team are items, a pair of rows where those belong together: in turn, each of the
// lanes that have the sums takes one.
const uint kEach = ENDING == kGlu || ENDING == kQkv ? ROWS / 2u : ROWS;  // of a column
const uint kLanes = REDUCE == 0 ? SUBGROUP : TEAM;

// What kAdd adds to the lane's first item: fetched before the products, it is there when they are.
float residual_ahead(uint team, uint lane, uint m0, uint n_live) {
  if (ENDING != kAdd || lane >= min(kLanes, kEach * n_live)) return 0.0;
  return F32P(p.a + uint64_t(m0 + lane / kEach) * p.s_a).v[place_of(team, lane % kEach).n];
}

// Of column m of x, whose sums are those from `first` on.
void end_item(uint team, uint r, uint m, uint first, float factor, float residual) {
  if (ENDING == kGlu) {
    const Place at = place_of(team, r);
    if (!at.exists) return;
    const float gate = sum_at(first + r) * factor;
    const float up = sum_at(first + ROWS / 2u + r) * factor;
    F32P(p.y[0] + 4ul * p.n[0] * m).v[at.n] =
        ((DETAIL & 1u) != 0u ? gelu_exact(gate) : silu_exact(gate)) * up;
    return;
  }
  if (ENDING == kQkv) {
    const Place at0 = place_of(team, 2u * r), at1 = place_of(team, 2u * r + 1u);
    const vec2 v = vec2(sum_at(first + 2u * r), sum_at(first + 2u * r + 1u));
    if (at0.exists) end_pair(at0, at1, m, factor * v);
    return;
  }
  const Place at = place_of(team, r);
  if (!at.exists) return;
  const uint n = at.i == 0u ? p.n[0] : at.i == 1u ? p.n[1] : p.n[2];
  const uint64_t y = at.i == 0u ? p.y[0] : at.i == 1u ? p.y[1] : p.y[2];
  F32P(y + 4ul * n * m).v[at.n] = sum_at(first + r) * factor + residual;
}

// Of the columns from m0 on.
void end_team(uint team, uint lane, uint m0, uint n_live, float residual) {
  if (lane >= kLanes) return;
  if (REDUCE == 0 && kBetween) {  // lane 0 alone has them
    [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] = subgroupAdd(lane == 0u ? sums[i] : 0.0);
  }
  for (uint item = lane; item < kEach * n_live; item += kLanes) {
    const uint m = item / kEach, r = item % kEach;
    if (ENDING == kAdd && item != lane)
      residual = F32P(p.a + uint64_t(m0 + m) * p.s_a).v[place_of(team, r).n];
    float factor = 1.0;
    if (NORM != 0) factor = rsqrt_exact(sum_at(SUMS - COLUMNS + m) / float(p.k) + p.eps);
    end_item(team, r, m0 + m, m * ROWS, factor, residual);
  }
}
