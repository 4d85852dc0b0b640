// As attention_tile.glsl, on matrix units: a unit's rows are shared out among subgroups, 16 each,
// against a page of 64 cells at a time. K and V are F16; q and the softmax's weights are two F16
// parts each, whose products together carry 22 bits and are summed in F32.
//
// A fragment's elements have no place that a shader may know, so scores go through shared memory,
// where K has been: as F32, then, in the same rows, as weights, the upper parts and the lower.
layout(constant_id = 13) const uint kLanesK = 8;  // of a stored row
layout(constant_id = 14) const uint kLanesV = 8;
#include "kernels/common/fragments.glsl"
#ifdef COOP
#define frag_each(c, f) \
  for (int i_ = 0; i_ < c.length(); ++i_) c[i_] = f(c[i_])
#define frag_add(c, d) c = c + d
#else
#define frag_each(c, f)                                      \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) \
      [[unroll]] for (uint j_ = 0u; j_ < 4u; ++j_) c.e[i_ + m_][j_] = f(c.e[i_ + m_][j_])
#define frag_add(c, d) \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) c.e[i_ + m_] += d.e[i_ + m_]
#endif

const uint kSize = gl_WorkGroupSize.x;
const uint kFragsK = (kDimK + 15u) / 16u;
const uint kFragsV = (kDimV + 15u) / 16u;
// Strides of rows in uvec4, odd: 8 rows lie on all banks once.
const uint kPitchK = kFragsK * 2u + 1u;
const uint kPitchV = kFragsV * 2u + 1u;
const uint kPitchS = 17u;
const uint kPageK = 64u * kPitchK, kPageV = 64u * kPitchV;
const uint kScores = kUnitRows * kPitchS;  // kUnitRows <= 64
const bool kRotates = (kFlags & kRotatesKeys) != 0u;
const uint kLower = (kRotates ? 64u : kUnitRows) * kPitchK;  // parts of q, or of rotated K
const uint kPoolK = kPageK > kScores ? kPageK : kScores;
const uint kPoolV = kPageV > kLower ? kPageV : kLower;
const uint kQuads = 16u / kFragFolds;  // of a row's cells, four at a time, that an invocation has
const float kLog2E = 1.44269504;
// x's upper 11 bits, which F16 has exactly between 2^-14 and 2^16. By a mask, because drivers may
// take a number for what it was before it was rounded to F16.
float upper_of(float x) { return uintBitsToFloat(floatBitsToUint(x) & 0xffffe000u); }
vec2 upper_of(vec2 x) { return vec2(upper_of(x.x), upper_of(x.y)); }
vec4 upper_of(vec4 x) { return vec4(upper_of(x.xy), upper_of(x.zw)); }

// Weights are kept times 2^12, so that their lower parts are no subnormals of F16.
const float kWeightShift = 12.0;

shared uvec4 pool_k[kPoolK];
shared uvec4 pool_v[kPoolV];
shared float factor[kUnitRows];
shared float totals[kUnitRows * kFragFolds];
shared int position[kUnitRows];
shared uint page_apart;  // of a page that some row does not see whole: V is not finite somewhere

FragA q_parts[2u * kFragsK];  // the lower, then the upper
FragC sums[kFragsV];
// Of the rows that this invocation has a share of. Scores are times log2(e).
float largest[kFragRows], denominator[kFragRows];

uint unit_token(Unit u, uint row) { return u.tokens.x + row / kGroup; }
uint team_row() { return frag_team() * 16u; }
// The row, and the share of it.
uvec2 place_of(uint i) {
  const uint item = frag_lane() + i * frag_lanes();
  return uvec2(team_row() + item % 16u, item / 16u);
}
// q as it meets cells of entries with this turn: to pool_k the upper, to pool_v the lower parts;
// then to registers.
void load_q(Unit u, uint first_row, uint n_rows, uint i_kv_head, uint turn) {
  for (uint i = tid(); i < kUnitRows * kFragsK * 2u; i += kSize) {
    const uint row = first_row + i / (kFragsK * 2u), lane = i % (kFragsK * 2u);
    const uint64_t q = q_row(unit_token(u, row), i_kv_head * kGroup + row % kGroup);
    uvec4 high = uvec4(0u), low = uvec4(0u);
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      vec2 x = vec2(0.0);
      const uint d = kRotates ? key_element(lane, j * 2u) : lane * 8u + j * 2u;
      if (row < n_rows && d < kDimK) x.x = query_operand(q, d, turn);
      if (row < n_rows && d + 1u < kDimK) x.y = query_operand(q, d + 1u, turn);
      x = clamp(x, -65504.0, 65504.0);
      const vec2 upper = upper_of(x);
      high[j] = packFloat2x16(f16vec2(upper));
      low[j] = packFloat2x16(f16vec2(x - upper));
    }
    pool_k[i / (kFragsK * 2u) * kPitchK + lane] = high;
    pool_v[i / (kFragsK * 2u) * kPitchK + lane] = low;
  }
  barrier();
  FRAG_UNROLL for (uint i = 0u; i < kFragsK; ++i) {
    load_rows(q_parts[i], pool_v, team_row() * kPitchK + 2u * i, kPitchK);
    load_rows(q_parts[kFragsK + i], pool_k, team_row() * kPitchK + 2u * i, kPitchK);
  }
}

// The cells of a page that any row may see, all between the first and the last of them; none:
// x >= y. Positions are in [low, high].
ivec2 page_range(Entry e, int low, int high) {
  ivec2 range = ivec2(seen_cells(e, low).z, seen_cells(e, high).w);
  const bool first =
      params.n_first != 0u && int64_t(params.n_first) * int64_t(e.div) > int64_t(e.base);
  if (!has(kWindow) || first) range.x = int(e.first_cell);
  return range;
}

#include "kernels/attention/attention_coop_pages.glsl"

// Halves of V as one of three matrices has them: the finite ones; 1 for +infinity and not-a-number;
// -1 for -infinity and not-a-number. The rest is zero.
uint part_of_half(uint half_bits, uint which) {
  const bool finite = (half_bits & 0x7c00u) != 0x7c00u;
  if (which == 0u) return finite ? half_bits : 0u;
  const bool mine = !finite && ((half_bits & 0x3ffu) != 0u || half_bits >> 15 == which - 1u);
  return mine ? (which == 1u ? 0x3c00u : 0xbc00u) : 0u;
}
void put_part_of_values(Page pv, uint64_t v_head, ivec2 range, uint which) {
  for (uint part = tid(); part < 128u * kFragsV; part += kSize) {
    const uint cell = part / (kFragsV * 2u), lane = part % (kFragsV * 2u);
    uvec4 v = uvec4(0u);
    if (lane < kLanesV && is_inside(cell, range)) v = U32x4P(v_head + cell * pv.row_bytes).v[lane];
    [[unroll]] for (uint i = 0u; i < 4u; ++i) v[i] =
        part_of_half(v[i] & 0xffffu, which) | part_of_half(v[i] >> 16, which) << 16;
    pool_v[cell * kPitchV + lane] = v;
  }
}

// Of this subgroup's rows with the page's cells, 16 a fragment.
FragC scores[4];
void multiply_keys() {
  FRAG_UNROLL for (uint c = 0u; c < 4u; ++c) {
    frag_clear(scores[c]);
    if (kRotates) {
      FRAG_UNROLL for (uint i = 0u; i < kFragsK; ++i) {
        FragB k;
        load_columns(k, pool_v, c * 16u * kPitchK + 2u * i, kPitchK);
        frag_multiply(q_parts[kFragsK + i], k, scores[c]);
      }
      frag_each(scores[c], of_lower_key);
    }
    FRAG_UNROLL for (uint i = 0u; i < kFragsK; ++i) {
      FragB k;
      load_columns(k, pool_k, c * 16u * kPitchK + 2u * i, kPitchK);
      FRAG_UNROLL for (uint h = 0u; h < 2u; ++h)
          frag_multiply(q_parts[h * kFragsK + i], k, scores[c]);
    }
  }
}

// Four cells' scores as the softmax wants them.
vec4 finished(uvec4 bits, ivec4 seen, int cell) {
  vec4 s = uintBitsToFloat(bits) * (kRotates ? params.scale / kKeyTimes : params.scale);
  if (has(kSoftcap)) {
    [[unroll]] for (uint i = 0u; i < 4u; ++i) s[i] =
        params.softcap * tanh_accurate(s[i] / params.softcap);
  }
  s *= kLog2E;
  if (seen.z != 0 || seen.w != 64) {
    [[unroll]] for (int i = 0; i < 4; ++i) if (!sees(seen, cell + i)) s[i] = minus_infinity();
  }
  return s;
}
float most_of(vec4 x) { return max(max(x.x, x.y), max(x.z, x.w)); }
float power_of(float s, float top) { return s == minus_infinity() ? 0.0 : exp2(s - top); }

// Scores in pool_k to weights there, in the rows of this subgroup.
void softmax(Entry e, uint n_rows) {
  FRAG_UNROLL for (uint i = 0u; i < kFragRows; ++i) {
    const uvec2 place = place_of(i);
    const uint row = place.x * kPitchS;
    const ivec4 seen = place.x < n_rows ? seen_cells(e, position[place.x]) : ivec4(0);
    vec4 mine[kQuads];
    float top = largest[i];
    FRAG_UNROLL for (uint j = 0u; j < kQuads; ++j) {
      const uint quad = place.y * kQuads + j;
      mine[j] = finished(pool_k[row + quad], seen, int(quad * 4u));
      top = max(top, most_of(mine[j]));
    }
    for (uint j = kQuads; j < 16u; ++j) {  // the other shares
      const uint quad = (place.y * kQuads + j) % 16u;
      top = max(top, most_of(finished(pool_k[row + quad], seen, int(quad * 4u))));
    }
    const float shrink = power_of(largest[i], top);
    float sum = 0.0;
    frag_barrier();
    FRAG_UNROLL for (uint j = 0u; j < kQuads; j += 2u) {
      uvec4 high, low;
      [[unroll]] for (uint h = 0u; h < 2u; ++h) {
        vec4 w;
        [[unroll]] for (uint c = 0u; c < 4u; ++c) w[c] =
            power_of(mine[j + h][c], top - kWeightShift);
        sum += dot(w, vec4(1.0));
        const vec4 upper = upper_of(w), lower = w - upper;
        high[2u * h] = packFloat2x16(f16vec2(upper.xy));
        high[2u * h + 1u] = packFloat2x16(f16vec2(upper.zw));
        low[2u * h] = packFloat2x16(f16vec2(lower.xy));
        low[2u * h + 1u] = packFloat2x16(f16vec2(lower.zw));
      }
      const uint at = row + (place.y * kQuads + j) / 2u;
      pool_k[at] = high;
      pool_k[at + 8u] = low;
    }
    if (place.y == 0u) factor[place.x] = shrink;
    denominator[i] = denominator[i] * shrink + sum;
    largest[i] = top;
  }
  frag_barrier();
}

void shrink_sums() {
  FragC shrink;
  load_repeated(shrink, factor, team_row());
  FRAG_UNROLL for (uint i = 0u; i < kFragsV; ++i) frag_times(sums[i], shrink);
}

void add_values(ivec2 range) {
  for (uint c = uint(range.x) / 16u; int(c * 16u) < range.y; ++c) {
    FragA w[2];  // the upper parts, the lower
    FRAG_UNROLL for (uint h = 0u; h < 2u; ++h)
        load_rows(w[h], pool_k, team_row() * kPitchS + 8u * h + 2u * c, kPitchS);
    FRAG_UNROLL for (uint i = 0u; i < kFragsV; ++i) {
      FragB v;
      load_rows(v, pool_v, c * 16u * kPitchV + 2u * i, kPitchV);
      FRAG_UNROLL for (uint h = 0u; h < 2u; ++h) frag_multiply(w[h], v, sums[i]);
    }
  }
}

// The upper parts of this subgroup's weights to 1 for cells that the row sees, and 0.
void weights_to_seen(Entry e, uint n_rows) {
  frag_barrier();
  for (uint i = frag_lane(); i < 16u * 8u; i += frag_lanes()) {
    const uint row = team_row() + i / 8u;
    const int cell = int(i % 8u * 8u);
    const ivec4 seen = row < n_rows ? seen_cells(e, position[row]) : ivec4(0);
    uvec4 halves = uvec4(0u);
    [[unroll]] for (int j = 0; j < 8; ++j) {
      if (sees(seen, cell + j)) halves[j / 2] |= 0x3c00u << j % 2 * 16;
    }
    pool_k[row * kPitchS + i % 8u] = halves;
  }
  frag_barrier();
}

// As add_values, where V is not finite somewhere and some rows do not see it: a weight of 0 times
// it would be not-a-number. Finite elements first; then how many of the others a row sees, made
// infinite: a seen cell's weight may be 0 too. By choice, not by large factors: compilers fold two
// of them to infinity, and make one and the sum a single operation that infinity survives.
float infinite_of(float x) {
  return x == 0.0 ? 0.0 : x > 0.0 ? -minus_infinity() : minus_infinity();
}
void add_values_apart(Page pv, uint64_t v_head, Entry e, uint n_rows, ivec2 range) {
  barrier();
  put_part_of_values(pv, v_head, range, 0u);
  barrier();
  add_values(range);
  weights_to_seen(e, n_rows);
  [[dont_unroll]] for (uint which = 1u; which < 3u; ++which) {
    barrier();
    put_part_of_values(pv, v_head, range, which);
    barrier();
    FRAG_UNROLL for (uint i = 0u; i < kFragsV; ++i) {
      FragC found;
      frag_clear(found);
      for (uint c = uint(range.x) / 16u; int(c * 16u) < range.y; ++c) {
        FragA w;
        load_rows(w, pool_k, team_row() * kPitchS + 2u * c, kPitchS);
        FragB v;
        load_rows(v, pool_v, c * 16u * kPitchV + 2u * i, kPitchV);
        frag_multiply(w, v, found);
      }
      frag_each(found, infinite_of);
      frag_add(sums[i], found);
    }
  }
}

// What a row's sums are to be multiplied by, to `factor`.
void finish_rows(uint first_row, uint i_kv_head) {
  FRAG_UNROLL for (uint i = 0u; i < kFragRows; ++i) {
    const uvec2 place = place_of(i);
    totals[place.x * kFragFolds + place.y] = denominator[i];
  }
  frag_barrier();
  FRAG_UNROLL for (uint i = 0u; i < kFragRows; ++i) {
    const uvec2 place = place_of(i);
    float sum = 0.0, times = 1.0;
    FRAG_UNROLL for (uint j = 0u; j < kFragFolds; ++j) sum += totals[place.x * kFragFolds + j];
    if (has(kHasSinks)) {
      const uint head = i_kv_head * kGroup + (first_row + place.x) % kGroup;
      const float sink = F32P(params.sinks).v[head] * kLog2E;
      const float top = max(sink, largest[i]);
      times = power_of(largest[i], top);
      sum = sum * times + power_of(sink, top - kWeightShift);
    }
    if (place.y == 0u) factor[place.x] = sum == 0.0 ? 0.0 : times / sum;
  }
}

// By way of the subgroup's rows of pool_k, 64 elements at a time.
void store_results(Unit u, uint first_row, uint n_rows, uint i_kv_head) {
  barrier();
  finish_rows(first_row, i_kv_head);
  const uint n_heads = gl_NumWorkGroups.x * kGroup;
  FRAG_UNROLL for (uint begin = 0u; begin < kFragsV; begin += 4u) {
    frag_barrier();
    FRAG_UNROLL for (uint i = begin; i < min(begin + 4u, kFragsV); ++i)
        store_floats(sums[i], pool_k, team_row() * kPitchS + (i - begin) * 4u, kPitchS);
    frag_barrier();
    for (uint i = frag_lane(); i < 256u; i += frag_lanes()) {
      const uint i_row = team_row() + i / 16u, row = first_row + i_row;
      const uint d = begin * 16u + i % 16u * 4u;
      if (row >= n_rows || d >= kDimV) continue;
      const uint head = i_kv_head * kGroup + row % kGroup;
      const uint64_t y =
          push.result + (uint64_t(unit_token(u, row)) * n_heads + head) * kDimV * 4ul;
      const vec4 x = uintBitsToFloat(pool_k[i_row * kPitchS + i % 16u]) * factor[i_row];
      if (kDimV % 4u == 0u) {
        F32x4P(y).v[d / 4u] = x;
      } else {
        for (uint j = 0u; j < 4u && d + j < kDimV; ++j) F32P(y).v[d + j] = x[j];
      }
    }
  }
}

void main() {
  const uint i_kv_head = gl_WorkGroupID.x, n_kv_heads = gl_NumWorkGroups.x;
  const Unit u = find_unit(false, gl_WorkGroupID.y);
  if (!u.found) return;
  const uint n_rows = (u.tokens.y - u.tokens.x) * kGroup;
  // The last rows, which see most, begin first.
  const uint tile = row_units(u.tokens) - 1u - (gl_WorkGroupID.y - u.first);
  const uint first_row = tile * kUnitRows;
  const uint unit_rows = min(kUnitRows, n_rows - first_row);
  const Page pk = page_k(), pv = page_v();
  for (uint i = tid(); i < unit_rows; i += kSize)
    position[i] = I32P(push.positions).v[unit_token(u, first_row + i)];
  uint turn = 0u;                                 // of the loaded queries
  load_q(u, first_row, n_rows, i_kv_head, turn);  // ends behind a barrier
  int low = position[0], high = position[0];
  for (uint i = 1u; i < unit_rows; ++i) {
    low = min(low, position[i]);
    high = max(high, position[i]);
  }
  FRAG_UNROLL for (uint i = 0u; i < kFragsV; ++i) frag_clear(sums[i]);
  FRAG_UNROLL for (uint i = 0u; i < kFragRows; ++i) {
    largest[i] = minus_infinity();
    denominator[i] = 0.0;
  }
  for (uint i = u.entries.x; i < u.entries.y; ++i) {
    const Entry e = entry_at(i);
    const ivec2 range = page_range(e, low, high);
    if (range.x >= range.y) continue;
    const uint64_t k_head = head_at(pk, push.k, e.page, n_kv_heads, i_kv_head);
    const uint64_t v_head = head_at(pv, push.v, e.page, n_kv_heads, i_kv_head);
    const bool hides = seen_cells(e, high).z > range.x || seen_cells(e, low).w < range.y;
    // Rotated K's lower parts are where V will be, and V's loads are on their way meanwhile.
    if (tid() == 0u && !kRotates) page_apart = 0u;
    barrier();
    if (tid() == 0u && kRotates) page_apart = 0u;
    if (e.turn != turn) {  // of all invocations alike
      turn = e.turn;
      load_q(u, first_row, n_rows, i_kv_head, turn);
      barrier();
    }
    load_pages(pk, k_head, pv, v_head, range);
    put_keys(e, range);
    if (!kRotates) put_values(hides);
    barrier();
    bool apart = page_apart != 0u;
    multiply_keys();
    barrier();
    if (kRotates) {
      put_values(hides);
      barrier();
      apart = page_apart != 0u;
    }
    FRAG_UNROLL for (uint c = 0u; c < 4u; ++c)
        store_floats(scores[c], pool_k, team_row() * kPitchS + 4u * c, kPitchS);
    frag_barrier();
    softmax(e, unit_rows);
    shrink_sums();
    if (apart) {
      add_values_apart(pv, v_head, e, unit_rows, range);
    } else {
      add_values(range);
    }
  }
  store_results(u, first_row, n_rows, i_kv_head);
}
