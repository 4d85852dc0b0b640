#version 460
#extension GL_GOOGLE_include_directive : require
// sample: a token of each row by temperature, top-k, top-p and min-p (the rule: ops/sample.h). A
// row is looked over in pieces of the vocabulary by many workgroups (LOOK), which find for each
// piece its sums and its kKept largest; one workgroup chooses, and only when those are not enough
// does it go back to the logits.
//
// Sums are kept in pairs of floats (48 bits), exp has an error of an ulp: so comparisons differ
// from the reference's only when their sides are within about 1e-7 of each other.
//! variant look -DLOOK
//! variant choose
#include "kernels/common/base.glsl"
#include "kernels/numbers.glsl"
#include "kernels/select.glsl"
#include "ops/philox.h"

layout(push_constant, scalar) uniform Push {
  uint64_t logits, params, keys, y, live, workspace;
  uint64_t s_row;        // bytes
  uint64_t s_workspace;  // bytes of a row: pieces, then what they keep, then room to sort
  uint n_vocab, n_rows;
  uint piece, n_pieces;  // tokens of a piece
}
push;

const uint kKept = 256u;  // ranks of a piece
const uint kNone = 0xffffffffu;
const uint kFloor = 0x007fffffu;  // key_of(-infinity)

// What is known of a piece.
struct Piece {
  uvec2 top;          // the best rank
  vec2 sum, hot_sum;  // of exp(logit - the piece's largest), and with the temperature
  uint n_valid, unused;
};
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer PieceP { Piece v[]; };

uint64_t pieces_of(uint i_row) { return push.workspace + i_row * push.s_workspace; }
uint64_t kept_of(uint i_row) { return pieces_of(i_row) + push.n_pieces * 32ul; }
uint64_t room_of(uint i_row) { return kept_of(i_row) + push.n_pieces * (kKept * 8ul); }

shared vec2 sums[gl_WorkGroupSize.x];
shared uint indices[gl_WorkGroupSize.x];
shared uvec2 tops[gl_WorkGroupSize.x];

// --- pairs of floats: x is the sum rounded, y what is missing (Dekker 1971, Knuth) ---------------

vec2 pair_of(float a, float b) {  // a + b
  precise const float s = a + b;
  precise const float t = s - a;
  precise const float u = s - t;
  precise const float left = a - u;
  precise const float right = b - t;
  precise const float rest = left + right;
  return vec2(s, rest);
}
vec2 pair_add(vec2 a, vec2 b) {
  const vec2 s = pair_of(a.x, b.x);
  precise const float low = a.y + b.y;
  precise const float rest = s.y + low;
  return pair_of(s.x, rest);
}
vec2 product_of(float a, float b) {  // a * b
  precise const float p = a * b;
  precise const float ta = a * 4097.0;
  precise const float tb = b * 4097.0;
  precise const float da = ta - a;
  precise const float db = tb - b;
  precise const float ah = ta - da;
  precise const float bh = tb - db;
  precise const float al = a - ah;
  precise const float bl = b - bh;
  precise const float e1 = ah * bh - p;
  precise const float e2 = e1 + ah * bl;
  precise const float e3 = e2 + al * bh;
  precise const float e4 = e3 + al * bl;
  return vec2(p, e4);
}
vec2 pair_times(vec2 a, vec2 b) {
  const vec2 p = product_of(a.x, b.x);
  precise const float cross_sum = a.x * b.y + a.y * b.x;
  precise const float rest = p.y + cross_sum;
  return pair_of(p.x, rest);
}
bool pair_less(vec2 a, vec2 b) { return a.x < b.x || (a.x == b.x && a.y < b.y); }

// --- the row -------------------------------------------------------------------------------------

struct Row {
  uint64_t logits;
  uint64_t list;  // of the ranks in order
  float top;      // the largest logit
  float temperature, top_k, top_p, min_p;
  uint n_valid;
  uint index;
};

Row row_of(uint i_row) {
  const uint64_t params = push.params + i_row * 16u;
  Row row;
  row.logits = push.logits + i_row * push.s_row;
  row.list = 0ul;
  row.top = 0.0;
  row.temperature = F32P(params).v[0];
  row.top_k = F32P(params).v[1];
  row.top_p = F32P(params).v[2];
  row.min_p = F32P(params).v[3];
  row.n_valid = 0u;
  row.index = i_row;
  return row;
}
// How many ranks a piece keeps, and the first try puts in order.
uint first_try(Row row) {
  return row.top_k >= 1.0 && row.top_k < float(kKept) ? uint(row.top_k) : kKept;
}

float logit_of(Row row, uint i) { return F32P(row.logits).v[~rank_at(row.list, i).y]; }

// exp((logit - top) / temperature); a temperature of 1 gives step 3's e.
float weight_of(Row row, float logit, float temperature) {
  const vec2 d = pair_of(logit, -row.top);
  if (isinf(temperature)) return 1.0;
  if (temperature == 1.0) {
    precise const float y = exp_accurate(d.x);
    return y + y * d.y;
  }
  const float q = d.x / temperature;
  if (q < -100.0) return 0.0;
  const vec2 p = product_of(q, temperature);
  precise const float rest = ((d.x - p.x) - p.y) + d.y;
  precise const float y = exp_accurate(q);
  return y + y * (rest / temperature);
}

vec2 summed(vec2 mine) {
  const uint i = gl_LocalInvocationID.x;
  sums[i] = mine;
  barrier();
  for (uint apart = gl_WorkGroupSize.x / 2u; apart > 0u; apart /= 2u) {
    if (i < apart) sums[i] = pair_add(sums[i], sums[i + apart]);
    barrier();
  }
  const vec2 result = sums[0];
  barrier();
  return result;
}

// Of the whole vocabulary: the pieces' sums, made relative to the largest logit of all.
vec2 sum_all(Row row, bool hot) {
  vec2 mine = vec2(0.0);
  const uint64_t pieces = pieces_of(row.index);
  for (uint i = gl_LocalInvocationID.x; i < push.n_pieces; i += gl_WorkGroupSize.x) {
    if (PieceP(pieces).v[i].n_valid == 0u) continue;
    const float top = F32P(row.logits).v[~PieceP(pieces).v[i].top.y];
    const float factor = weight_of(row, top, hot ? row.temperature : 1.0);
    const vec2 sum = hot ? PieceP(pieces).v[i].hot_sum : PieceP(pieces).v[i].sum;
    if (factor > 0.0) mine = pair_add(mine, pair_times(sum, vec2(factor, 0.0)));
  }
  return summed(mine);
}

// Of the first n in order.
vec2 sum_first(Row row, uint n, float temperature) {
  vec2 mine = vec2(0.0);
  for (uint i = gl_LocalInvocationID.x; i < n; i += gl_WorkGroupSize.x) {
    mine = pair_add(mine, vec2(weight_of(row, logit_of(row, i), temperature), 0.0));
  }
  return summed(mine);
}

// Running sums of the workgroup's values: the sum up to and with mine, after `carry`.
vec2 running_sum(vec2 mine, vec2 carry) {
  const uint i = gl_LocalInvocationID.x;
  sums[i] = mine;
  barrier();
  for (uint apart = 1u; apart < gl_WorkGroupSize.x; apart *= 2u) {
    const vec2 before = i >= apart ? sums[i - apart] : vec2(0.0);
    barrier();
    sums[i] = pair_add(before, sums[i]);
    barrier();
  }
  return pair_add(carry, sums[i]);
}

uint least_of(uint mine) {
  const uint i = gl_LocalInvocationID.x;
  indices[i] = mine;
  barrier();
  for (uint apart = gl_WorkGroupSize.x / 2u; apart > 0u; apart /= 2u) {
    if (i < apart) indices[i] = min(indices[i], indices[i + apart]);
    barrier();
  }
  const uint result = indices[0];
  barrier();
  return result;
}

// How many of the `limit` tokens that top-k leaves also pass top-p and min-p, when `known` of them
// are in order; kNone: more must be.
uint count_kept(Row row, uint limit, uint known) {
  const bool by_mass = row.top_p < 1.0;
  if (!by_mass && !(row.min_p > 0.0)) return limit;
  vec2 mass = vec2(0.0);
  if (by_mass) {
    const vec2 all = limit == row.n_valid ? sum_all(row, false) : sum_first(row, limit, 1.0);
    mass = pair_times(vec2(row.top_p, 0.0), all);
  }
  vec2 carry = vec2(0.0);
  for (uint first = 0u; first < known; first += gl_WorkGroupSize.x) {
    const uint i = first + gl_LocalInvocationID.x;
    const float e = i < known ? weight_of(row, logit_of(row, i), 1.0) : 0.0;
    const vec2 sum = running_sum(vec2(e, 0.0), carry);
    vec2 before = carry;
    if (gl_LocalInvocationID.x > 0u) before = pair_add(carry, sums[gl_LocalInvocationID.x - 1u]);
    const bool cut =
        (by_mass && !pair_less(before, mass)) || (row.min_p > 0.0 && !(e >= row.min_p));
    const uint kept = least_of(i > 0u && i < known && cut ? i : kNone);
    if (kept != kNone) return kept;
    carry = pair_add(carry, sums[gl_WorkGroupSize.x - 1u]);
    barrier();
  }
  return known == limit ? limit : kNone;
}

// The place in order at which the running sum of weights passes u times that of all kept; kNone:
// more must be in order.
uint draw(Row row, uint kept, uint known, vec2 u) {
  if (kept > known && kept != row.n_valid) return kNone;
  const vec2 all = kept > known ? sum_all(row, true) : sum_first(row, kept, row.temperature);
  const vec2 wanted = pair_times(u, all);
  const uint n = min(kept, known);
  vec2 carry = vec2(0.0);
  for (uint first = 0u; first < n; first += gl_WorkGroupSize.x) {
    const uint i = first + gl_LocalInvocationID.x;
    const float w = i < n ? weight_of(row, logit_of(row, i), row.temperature) : 0.0;
    const vec2 sum = running_sum(vec2(w, 0.0), carry);
    const uint chosen = least_of(i < n && pair_less(wanted, sum) ? i : kNone);
    if (chosen != kNone) return chosen;
    carry = pair_add(carry, sums[gl_WorkGroupSize.x - 1u]);
    barrier();
  }
  return kept > known ? kNone : kept - 1u;
}

// The number of tokens that take part, and the best rank, of what the invocations found.
uvec3 merged(uint count, uvec2 top) {
  const uint i = gl_LocalInvocationID.x;
  tops[i] = top;
  indices[i] = count;
  barrier();
  for (uint apart = gl_WorkGroupSize.x / 2u; apart > 0u; apart /= 2u) {
    if (i < apart) {
      if (is_above(tops[i + apart], tops[i])) tops[i] = tops[i + apart];
      indices[i] += indices[i + apart];
    }
    barrier();
  }
  const uvec3 result = uvec3(indices[0], tops[0]);
  barrier();
  return result;
}

vec2 uniform_pair(uint64_t keys) {
  const mica_philox_bits counter = mica_philox_bits(U32P(keys).v[3], U32P(keys).v[2], 0u, 0u);
  const uint bits = mica_philox4x32_10(counter, U32P(keys).v[0], U32P(keys).v[1]).x;
  // (bits + 1/2) / 2^32, the upper 16 and the lower 17 bits apart: both are exact.
  const float low = float((bits & 0xffffu) * 2u + 1u) * 1.1641532182693481e-10;  // 2^-33
  return pair_of(float(bits >> 16) * 1.52587890625e-5, low);
}

#ifdef LOOK

void main() {
  const uint i_piece = gl_WorkGroupID.x, i_row = gl_WorkGroupID.y;
  if (i_row >= live_count(push.live, push.n_rows)) return;
  Row row = row_of(i_row);
  const uint first = i_piece * push.piece;
  const uint end = min(push.n_vocab, first + push.piece);
  uint count = 0u;
  uvec2 top = uvec2(0u);
  for (uint i = first + gl_LocalInvocationID.x; i < end; i += gl_WorkGroupSize.x) {
    const uvec2 rank = rank_of(F32P(row.logits).v[i], i);
    if (rank.x <= kFloor) continue;
    ++count;
    if (is_above(rank, top)) top = rank;
  }
  const uvec3 found = merged(count, top);
  Piece piece = Piece(found.yz, vec2(0.0), vec2(0.0), found.x, 0u);
  if (found.x != 0u && row.temperature > 0.0) {
    row.top = F32P(row.logits).v[~found.z];
    vec2 sum = vec2(0.0), hot_sum = vec2(0.0);
    for (uint i = first + gl_LocalInvocationID.x; i < end; i += gl_WorkGroupSize.x) {
      const float x = F32P(row.logits).v[i];
      if (key_of(x) <= kFloor) continue;
      sum = pair_add(sum, vec2(weight_of(row, x, 1.0), 0.0));
      hot_sum = pair_add(hot_sum, vec2(weight_of(row, x, row.temperature), 0.0));
    }
    piece.sum = summed(sum);
    piece.hot_sum = summed(hot_sum);
    gather_largest(Source(row.logits, first, end - first, false), first_try(row), kKept,
                   kept_of(i_row) + i_piece * (kKept * 8ul));
  }
  if (gl_LocalInvocationID.x == 0u) PieceP(pieces_of(i_row)).v[i_piece] = piece;
}

#else

uint choose(Row row, uint best) {
  if (!(row.temperature > 0.0) || isinf(row.top)) return best;
  uint limit = row.n_valid;
  if (row.top_k >= 1.0 && row.top_k < float(limit)) limit = min(limit, uint(row.top_k));
  const vec2 u = uniform_pair(push.keys + row.index * 16u);
  // Of the tokens with a place among the first, each is in what its piece kept.
  Source from = Source(kept_of(row.index), 0u, push.n_pieces * kKept, true);
  uint known = min(limit, first_try(row));
  for (;;) {
    row.list = select_largest(from, known, room_of(row.index));
    const uint kept = count_kept(row, limit, known);
    const uint chosen = kept != kNone ? draw(row, kept, known, u) : kNone;
    if (chosen != kNone) return ~rank_at(row.list, chosen).y;
    if (known == limit) return best;  // unreachable: all are in order
    barrier();
    known = known < kListed ? min(limit, kListed) : limit;
    from = Source(row.logits, 0u, push.n_vocab, false);
  }
}

void main() {
  const uint i_row = gl_WorkGroupID.x;
  if (i_row >= live_count(push.live, push.n_rows)) return;
  Row row = row_of(i_row);
  uint count = 0u;
  uvec2 top = uvec2(0u);
  for (uint i = gl_LocalInvocationID.x; i < push.n_pieces; i += gl_WorkGroupSize.x) {
    count += PieceP(pieces_of(i_row)).v[i].n_valid;
    const uvec2 one = PieceP(pieces_of(i_row)).v[i].top;
    if (is_above(one, top)) top = one;
  }
  const uvec3 found = merged(count, top);
  row.n_valid = found.x;
  const uint best = ~found.z;
  uint chosen = 0u;
  if (row.n_valid != 0u) {
    row.top = F32P(row.logits).v[best];
    chosen = choose(row, best);
  }
  if (gl_LocalInvocationID.x == 0u) I32P(push.y).v[i_row] = int(chosen);
}

#endif
