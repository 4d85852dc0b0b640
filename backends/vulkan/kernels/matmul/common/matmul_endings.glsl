// What fused matmuls do with the sums of a team: sums[m * ROWS + r], and behind them the squares of
// each column of x. Include after reduce.glsl.
#include "kernels/attention/attention_page.glsl"
#include "kernels/rsqrt_exact.glsl"
#define is_nan is_nan_of_math  // numbers.glsl has one too
#include "kernels/common/math.glsl"
#undef is_nan

// Element n of column m of what is appended: to a cell of K's state or V's.
void put_cell(bool is_v, uint m, uint n, float v) {
  ParamsP params = ParamsP(p.params);
  const int slot = I32P(params.v.slots).v[m];
  if (slot < 0 || uint(slot) >= (is_v ? params.v.n_cells[1] : params.v.n_cells[0])) return;
  const uint head_dim = is_v ? HEAD_DIM_V : HEAD_DIM_K, dtype = is_v ? CELL_V : CELL_K;
  const Page page = page_of(dtype, head_dim);
  const uint64_t head =
      head_at(page, is_v ? params.v.y[2] : params.v.y[1], uint(slot) / MICA_KV_PAGE_CELLS,
              (is_v ? p.n[2] : p.n[1]) / head_dim, n / head_dim);
  store_float(dtype, head + uint(slot) % MICA_KV_PAGE_CELLS * page.row_bytes, n % head_dim, v);
}

// A pair of Q or K as RoPE turns it.
vec2 turned(uint i, uint pair, uint m, vec2 v) {
  ParamsP params = ParamsP(p.params);
  const uint64_t angles = i == 0u ? params.v.angles[0] : params.v.angles[1];
  F32P angle = F32P(angles + (uint64_t(m) * n_pairs_of(i) + pair) * 8ul);
  const float magnitude = i == 0u ? params.v.magnitude[0] : params.v.magnitude[1];
  const vec2 cs = magnitude * vec2(angle.v[0], angle.v[1]);
  return vec2(v.x * cs.x - v.y * cs.y, v.x * cs.y + v.y * cs.x);
}

// A pair of rows of one weight: biases, RoPE if the pair is one of it, and to their places.
void end_pair(Place at0, Place at1, uint m, vec2 v) {
  ParamsP params = ParamsP(p.params);
  const uint64_t bias = at0.i == 0u   ? params.v.bias[0]
                        : at0.i == 1u ? params.v.bias[1]
                                      : params.v.bias[2];
  if (bias != 0) v += vec2(F32P(bias).v[at0.n], F32P(bias).v[at1.n]);
  if (n_pairs_of(at0.i) != 0u) {
    const uint e = at0.n % head_dim_of(at0.i), pair = is_half_split(at0.i) ? e : e / 2u;
    if (pair < n_pairs_of(at0.i)) v = turned(at0.i, pair, m, v);
  }
  if (at0.i == 0u) {
    const uint64_t y = params.v.y[0] + 4ul * p.n[0] * m;
    F32P(y).v[at0.n] = v.x;
    F32P(y).v[at1.n] = v.y;
  } else {
    put_cell(at0.i == 2u, m, at0.n, v.x);
    put_cell(at0.i == 2u, m, at1.n, v.y);
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

float residual_at(Place at, uint64_t m) {
  ParamsP params = ParamsP(p.params);
  return F32P(params.v.residual + m * params.v.s_residual).v[at.n];
}

// What the end of a team needs, fetched before the products: it is there when they are.
struct Ahead {
  uint64_t y;      // of the team's weight; of kQkv 0
  float residual;  // of the lane's first item
};
Ahead fetch_ahead(uint team, uint lane, uint m0, uint n_live) {
  Ahead ahead = Ahead(0ul, 0.0);
  if (ENDING == kQkv) return ahead;
  const uint i = ENDING == kGlu ? 0u : place_of(team, 0u).i;
  ParamsP params = ParamsP(p.params);
  ahead.y = i == 0u ? params.v.y[0] : i == 1u ? params.v.y[1] : params.v.y[2];
  if (ENDING == kAdd && lane < min(kLanes, kEach * n_live))
    ahead.residual = residual_at(place_of(team, lane % kEach), m0 + lane / kEach);
  return ahead;
}

// Of column m of x, whose sums are those from `first` on.
void end_item(uint team, uint r, uint m, uint first, float factor, Ahead ahead) {
  if (ENDING == kGlu) {
    const Place at = place_of(team, r);
    if (!at.exists) return;
    const float gate = sum_at(first + r) * factor;
    const float up = sum_at(first + ROWS / 2u + r) * factor;
    F32P(ahead.y + 4ul * p.n[0] * m).v[at.n] =
        (GELU != 0 ? gelu_exact(gate) : silu_exact(gate)) * up;
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
  F32P(ahead.y + 4ul * n * m).v[at.n] = sum_at(first + r) * factor + ahead.residual;
}

// Of the columns from m0 on.
void end_team(uint team, uint lane, uint m0, uint n_live, Ahead ahead) {
  if (lane >= kLanes) return;
  if (REDUCE == 0 && kBetween) {  // lane 0 alone has them
    [[unroll]] for (uint i = 0; i < SUMS; ++i) sums[i] = subgroupAdd(lane == 0u ? sums[i] : 0.0);
  }
  const float eps = ParamsP(p.params).v.eps;
  for (uint item = lane; item < kEach * n_live; item += kLanes) {
    const uint m = item / kEach, r = item % kEach;
    if (ENDING == kAdd && item != lane) ahead.residual = residual_at(place_of(team, r), m0 + m);
    float factor = 1.0;
    if (NORM != 0) factor = rsqrt_exact(sum_at(SUMS - COLUMNS + m) / float(p.k) + eps);
    end_item(team, r, m0 + m, m * ROWS, factor, ahead);
  }
}
