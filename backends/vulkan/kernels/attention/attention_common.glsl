// What the attention shaders share: arguments, the cache table, what a query sees, loads from
// pages. Include after common/base.glsl, numbers.glsl and attention_page.glsl.
//
// The table is step data and never trusted: numbers out of range are cut, never followed.
#include "kernels/attention/attention_params.h"

// Numbers as in AttentionSpecs (attention.cpp).
layout(constant_id = 3) const uint kDimK = 64;
layout(constant_id = 4) const uint kDimV = 64;
layout(constant_id = 5) const uint kGroup = 1;  // query heads of a kv head
layout(constant_id = 6) const uint kDtypeK = MICA_F16;
layout(constant_id = 7) const uint kDtypeV = MICA_F16;
layout(constant_id = 8) const uint kDtypeQ = MICA_F32;
layout(constant_id = 9) const uint kFlags = 1;

#ifdef MERGE
layout(push_constant, scalar) uniform Push { AttentionMergePush push; };
#else
layout(push_constant, scalar) uniform Push { AttentionPush push; };
#endif
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer ParamsP {
  AttentionParams v;
};
// Read once, ahead of all else.
AttentionParams params = ParamsP(push.params).v;

bool has(uint flag) { return (kFlags & flag) != 0u; }
uint tid() { return gl_LocalInvocationID.x; }
// One sequence's table is found without waiting for the parameters.
uint max_seqs() { return has(kManySeqs) ? params.max_seqs : 1u; }
uint n_tokens() { return live_count(push.live, params.n_tokens); }

// --- the table (mica/kv_table.h) -----------------------------------------------------------------

uint table_count(uint word, uint most) {
  return uint(clamp(I32P(push.table).v[word], 0, int(most)));
}
uint n_seqs() { return table_count(0u, max_seqs()); }
uint n_entries() {
  return table_count(MICA_KV_TABLE_STARTS(max_seqs()) + n_seqs(), params.max_entries);
}
// Begin and end of a sequence's tokens, and of its entries.
uvec2 seq_tokens(uint i_seq, uint n) {
  const uint word = MICA_KV_TABLE_SPANS + i_seq;
  const uint begin = table_count(word, n);
  return uvec2(begin, max(begin, table_count(word + 1u, n)));
}
uvec2 seq_entries(uint i_seq, uint n) {
  const uint word = MICA_KV_TABLE_STARTS(max_seqs()) + i_seq;
  const uint begin = table_count(word, n);
  return uvec2(begin, max(begin, table_count(word + 1u, n)));
}

struct Entry {
  uint page, first_cell, n_cells;
  int base, div;
  uint turn;      // the row of `turns` that rotates its queries; 0: none does
  uint key_turn;  // of K that is stored un-rotated; row 0 rotates by nothing
};
uint turn_of(uint flag, int word) {
  return has(flag) && word > 0 && uint(word) < params.max_turns ? uint(word) : 0u;
}
Entry entry_at(uint i) {
  const uint word = MICA_KV_TABLE_ENTRIES(max_seqs()) + MICA_KV_ENTRY_WORDS * i;
  I32P words = I32P(push.table + word * 4u);
  const int page = words.v[MICA_KV_ENTRY_PAGE];
  const int first = words.v[MICA_KV_ENTRY_FIRST_CELL], n = words.v[MICA_KV_ENTRY_N_CELLS];
  const int turn = words.v[MICA_KV_ENTRY_TURN];
  Entry e = Entry(uint(page), uint(first), uint(n), words.v[MICA_KV_ENTRY_BASE],
                  words.v[MICA_KV_ENTRY_DIV], turn_of(kTurns, turn), turn_of(kRotatesKeys, turn));
  const bool wrong = page < 0 || uint(page) >= params.n_pages || first < 0 ||
                     first > MICA_KV_PAGE_CELLS || n < 0 || n > MICA_KV_PAGE_CELLS - first ||
                     e.div < 1;
  if (wrong) e = Entry(0u, 0u, 0u, 0, 1, 0u, 0u);
  return e;
}

// The cells of a page that a query sees: [x, y) and [z, w), the former before the latter. Cell i of
// an entry has position floor((base + i) / div), which is below p just when base + i < p * div.
ivec4 seen_cells(Entry e, int position) {
  const int64_t n = int64_t(e.n_cells);
  int64_t end = n;
  if (has(kCausal)) {
    end = clamp((int64_t(position) + 1l) * int64_t(e.div) - int64_t(e.base), 0l, n);
  }
  int64_t begin = 0l, first_end = 0l;
  if (has(kWindow)) {
    const int64_t oldest = int64_t(position) - int64_t(params.window) + 1l;
    begin = clamp(oldest * int64_t(e.div) - int64_t(e.base), 0l, end);
    first_end = clamp(int64_t(params.n_first) * int64_t(e.div) - int64_t(e.base), 0l, begin);
    if (first_end == begin) begin = first_end = 0l;
  }
  const int cell = int(e.first_cell);
  return ivec4(cell, cell + int(first_end), cell + int(begin), cell + int(end));
}
// From the first to behind the last of them; x >= y: none.
ivec2 seen_range(ivec4 s) {
  const bool first = s.y > s.x, main_part = s.w > s.z;
  if (!first && !main_part) return ivec2(64, 0);
  return ivec2(first ? s.x : s.z, main_part ? s.w : s.y);
}
bool sees(ivec4 s, int cell) { return (cell >= s.x && cell < s.y) || (cell >= s.z && cell < s.w); }

// --- scores --------------------------------------------------------------------------------------

// Own, because drivers' tanh and exp may be short of bits, and softcap is a large factor.
float tanh_accurate(float x) {
  const float a = abs(x);
  if (a < 0.25) {
    const float z = x * x;
    return x + x * z * (-0.333333333 + z * (0.133333333 + z * (-0.0539682540 + z * 0.0218694885)));
  }
  const float t = exp_accurate(-2.0 * a);
  const float y = (1.0 - t) / (1.0 + t);
  return x < 0.0 ? -y : is_nan(x) ? x : y;
}

// What the mask adds to a score. `column` is the cell's place among those of its sequence.
float mask_at(uint token, uint head, uint column) {
  if (column >= params.mask_columns) return minus_infinity();
  uint64_t row = params.mask + uint64_t(token) * params.s_mask_token;
  if (has(kMaskHeads)) row += uint64_t(head) * params.s_mask_head;
  return has(kMaskF16) ? f16_value(uint(U16P(row).v[column])) : F32P(row).v[column];
}

// A seen cell's product (already times scale) to what the softmax is over.
float finish_score(float s, uint token, uint head, uint column) {
  if (has(kSoftcap)) s = params.softcap * tanh_accurate(s / params.softcap);
  if (has(kMasked)) {
    const float bias = mask_at(token, head, column);
    s = bias == minus_infinity() ? bias : s + bias;  // a hidden cell's score may be anything
  }
  return s;
}

// exp(s - largest), 0 for what is not seen.
float weight_of(float s, float largest) { return s == minus_infinity() ? 0.0 : exp(s - largest); }

// Where some rows do not see all cells, what K and V hold in hidden ones must not matter. Scores
// are replaced; but a weight of 0 times an infinite V would be not-a-number. So such a V counts in
// the rows that see it alone: a seen cell's weight may be 0 too.
bool not_finite(float x) { return (floatBitsToUint(x) & kInfinity) == kInfinity; }
bool not_finite(vec4 x) {
  return not_finite(x.x) || not_finite(x.y) || not_finite(x.z) || not_finite(x.w);
}
// Is the cell hidden from the row, by its position or by the mask? `column`: of the page's cell 0.
bool is_hidden(ivec4 seen, int cell, uint token, uint head, uint column) {
  if (!sees(seen, cell)) return true;
  return has(kMasked) && mask_at(token, head, column + uint(cell)) == minus_infinity();
}

#ifndef MERGE
uint64_t q_row(uint token, uint head) {
  return push.q + uint64_t(token) * params.s_q_token + uint64_t(head) * params.s_q_head;
}

// --- the seam query_operand ----------------------------------------------------------------------

// Of a head's elements that `turns` rotates, the other one of element d's pair.
struct RotatedPair {
  bool found;
  uint index;
  uint other;
  bool second;  // d is the pair's second
};
RotatedPair pair_of(uint d) {
  const uint i = d - params.rope_offset;  // before the offset it wraps
  const uint n_pairs = params.n_rot / 2u;
  const bool halves = params.rope_pairing == 1u;  // MICA_ROPE_HALF_SPLIT
  const uint apart = halves ? n_pairs : 1u;
  RotatedPair p;
  p.found = d >= params.rope_offset && i < params.n_rot;
  p.index = halves ? i % n_pairs : i / 2u;
  p.second = halves ? i >= n_pairs : i % 2u != 0u;
  p.other = p.second ? d - apart : d + apart;
  return p;
}

// Element d < kDimK of the query at `q`, as it meets cells of entries with this turn. What kernels
// keep of a query is made again where an entry's turn is another one.
float query_operand(uint64_t q, uint d, uint turn) {
  const float x = load_float(kDtypeQ, q, d);
  if (!has(kTurns) || turn == 0u) return x;
  const RotatedPair p = pair_of(d);
  if (!p.found) return x;
  const float other = load_float(kDtypeQ, q, p.other);
  const uint64_t row = params.turns + uint64_t(turn) * (params.n_rot * 4u);
  const float c = F32P(row).v[2u * p.index], s = F32P(row).v[2u * p.index + 1u];
  return p.second ? other * s + x * c : x * c - other * s;
}
#endif

// --- loads of 8 elements -------------------------------------------------------------------------
// A row of a page is lanes of 8 elements. Those of lane l of types of nibbles are 4 low and 4 high
// ones.

uint element_of(uint dtype, uint lane, uint j) {
  if (!has_nibbles(dtype)) return lane * 8u + j;
  return lane / 4u * 32u + lane % 4u * 4u + (j < 4u ? j : 12u + j);
}

// Of types of nibbles the elements' are a.x; their fifth bits are bits 0 … 3 and 16 … 19 of a.y.
struct Raw {
  uvec4 a, b;
  uint scale;  // load_scale()
};

Raw load_lane(Page p, uint64_t head, uint cell, uint lane) {
  Raw r = Raw(uvec4(0u), uvec4(0u), 0u);
  const uint64_t row = head + cell * p.row_bytes;
  if (p.dtype == MICA_F32) {
    r.a = U32x4P(row + lane * 32u).v[0];
    r.b = U32x4P(row + lane * 32u).v[1];
  } else if (p.dtype == MICA_F16 || p.dtype == MICA_BF16) {
    r.a = U32x4P(row + lane * 16u).v[0];
  } else {
    if (p.dtype == MICA_Q8_0) {
      r.a.xy = U32x2P(row + lane * 8u).v[0];
    } else {
      r.a.x = U32P(row + lane * 4u).v[0];
      if (has_fifths(p.dtype)) {
        r.a.y = U32P(head + fifths_at(p, cell, lane / 4u)).v[0] >> (lane % 4u * 4u);
      }
    }
    r.scale = load_scale(p, head, cell, lane / 4u);
  }
  return r;
}

void decode_lane(uint dtype, Raw r, out float x[8]) {
  if (dtype == MICA_F32) {
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      x[j] = uintBitsToFloat(r.a[j]);
      x[j + 4u] = uintBitsToFloat(r.b[j]);
    }
  } else if (dtype == MICA_F16) {
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      const vec2 two = unpackHalf2x16(r.a[j]);
      x[2u * j] = two.x;
      x[2u * j + 1u] = two.y;
    }
  } else if (dtype == MICA_BF16) {
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      x[2u * j] = uintBitsToFloat(r.a[j] << 16);
      x[2u * j + 1u] = uintBitsToFloat(r.a[j] & 0xffff0000u);
    }
  } else {
    const vec2 scale = unpackHalf2x16(r.scale);
    const float d = scale.x;
    if (dtype == MICA_Q8_0) {
      [[unroll]] for (int j = 0; j < 4; ++j) {
        x[j] = d * float(bitfieldExtract(int(r.a.x), 8 * j, 8));
        x[j + 4] = d * float(bitfieldExtract(int(r.a.y), 8 * j, 8));
      }
    } else {
      const int centre = quant_centre(dtype);
      [[unroll]] for (int j = 0; j < 4; ++j) {
        uint low = bitfieldExtract(r.a.x, 8 * j, 4), high = bitfieldExtract(r.a.x, 8 * j + 4, 4);
        if (has_fifths(dtype)) {
          low |= bitfieldExtract(r.a.y, j, 1) << 4;
          high |= bitfieldExtract(r.a.y, j + 16, 1) << 4;
        }
        x[j] = d * float(int(low) - centre);
        x[j + 4] = d * float(int(high) - centre);
        if (has_min(dtype)) {
          x[j] += scale.y;
          x[j + 4] += scale.y;
        }
      }
    }
  }
}

Page page_k() { return page_of(kDtypeK, kDimK); }
Page page_v() { return page_of(kDtypeV, kDimV); }
