// The seam key_operand: stored K as the products with queries take it, by lanes of 8 elements. K
// that is stored un-rotated (kRotatesKeys) is rotated to its cell's position by two rows of the
// turns (mica/kv_table.h). Include after attention_common.glsl.
//
// RoPE rotates elements in pairs, and so that a lane has both of each, lanes of K are other
// elements with kKeyHalves: the first four of a lane and the second are n_rot / 2 apart.
// kKeysApart: some lane has but one of a pair; then elements are loaded one by one.

// Which of the row's fours is a lane's first (`which` = 0) or second (1).
uint key_four(uint lane, uint which) {
  const uint rotated = params.n_rot / 8u, before = params.rope_offset / 4u;
  if (lane < rotated) return before + lane + which * rotated;
  const uint i = 2u * (lane - rotated) + which;  // of those that are not rotated
  return i < before ? i : i + 2u * rotated;
}
uint key_element(uint lane, uint j) {
  if (!has(kKeyHalves)) return element_of(kDtypeK, lane, j);
  return key_four(lane, j / 4u) * 4u + j % 4u;
}

// Four elements of a quantized type: the quants, one a byte, and load_scale().
uvec2 load_four(Page p, uint64_t head, uint cell, uint four) {
  const uint64_t row = head + cell * p.row_bytes;
  uvec2 r;
  if (p.dtype == MICA_Q8_0) {
    r.x = U32P(row + four * 4u).v[0];
  } else {
    const uint both = U32P(row + four / 8u * 16u + four % 4u * 4u).v[0];
    r.x = both >> (four & 4u) & 0x0f0f0f0fu;
    if (has_fifths(p.dtype)) {
      const uint fifths = U32P(head + fifths_at(p, cell, four / 8u)).v[0] >> four % 8u * 4u & 15u;
      r.x |= (fifths & 1u) << 4 | (fifths & 2u) << 11 | (fifths & 4u) << 18 | (fifths & 8u) << 25;
    }
  }
  r.y = load_scale(p, head, cell, four / 8u);
  return r;
}
vec4 decode_four(uint dtype, uvec2 r) {
  const vec2 scale = unpackHalf2x16(r.y);
  const int centre = quant_centre(dtype);
  vec4 x;
  [[unroll]] for (int j = 0; j < 4; ++j) {
    x[j] = scale.x * float(dtype == MICA_Q8_0 ? bitfieldExtract(int(r.x), 8 * j, 8)
                                              : int(bitfieldExtract(r.x, 8 * j, 8)) - centre);
    if (has_min(dtype)) x[j] += scale.y;
  }
  return x;
}

Raw load_key(Page p, uint64_t head, uint cell, uint lane) {
  if (!has(kKeyHalves)) return load_lane(p, head, cell, lane);
  const uint first = key_four(lane, 0u), second = key_four(lane, 1u);
  const uint64_t row = head + cell * p.row_bytes;
  Raw r = Raw(uvec4(0u), uvec4(0u), 0u);
  if (p.dtype == MICA_F32) {
    r.a = U32x4P(row + first * 16u).v[0];
    r.b = U32x4P(row + second * 16u).v[0];
  } else if (p.n_blocks == 0u) {
    r.a.xy = U32x2P(row + first * 8u).v[0];
    r.a.zw = U32x2P(row + second * 8u).v[0];
  } else {
    r.a.xy = load_four(p, head, cell, first);
    r.a.zw = load_four(p, head, cell, second);
  }
  return r;
}
void decode_key(Raw r, out float k[8]) {
  if (!has(kKeyHalves) || page_k().n_blocks == 0u) {
    decode_lane(kDtypeK, r, k);
    return;
  }
  const vec4 first = decode_four(kDtypeK, r.a.xy), second = decode_four(kDtypeK, r.a.zw);
  [[unroll]] for (uint j = 0u; j < 4u; ++j) {
    k[j] = first[j];
    k[j + 4u] = second[j];
  }
}

// --- rotation ------------------------------------------------------------------------------------

// Cosines and sines of a lane's four pairs.
struct Angles {
  vec4 c, s;
};

// Two pairs of a row of the turns, from its float `i` on; those that are not rotated are behind it.
vec4 two_angles(uint row, uint i) {
  const uint64_t at = params.turns + (uint64_t(row) * params.n_rot + i) * 4u;
  return i < params.n_rot ? F32x4P(at).v[0] : vec4(1.0, 0.0, 1.0, 0.0);
}
Angles row_angles(uint lane, uint row) {
  const bool halves = has(kKeyHalves);
  const uint i = halves ? lane * 8u : element_of(kDtypeK, lane, 0u) - params.rope_offset;
  const uint j = halves ? lane * 8u + 4u : element_of(kDtypeK, lane, 4u) - params.rope_offset;
  const vec4 a = two_angles(row, i), b = two_angles(row, j);
  return Angles(vec4(a.xz, b.xz), vec4(a.yw, b.yw));
}
Angles composed(Angles a, Angles b) { return Angles(a.c * b.c - a.s * b.s, a.s * b.c + a.c * b.s); }

// From the multiple of 64 that the entry's turn stands for to the position of a cell.
int key_offset(Entry e, int cell) {
  const int i = cell - int(e.first_cell);
  if (e.div == 1) return (e.base & (MICA_KV_PAGE_CELLS - 1)) + i;
  const uint base = uint(e.base), div = uint(e.div);
  return int((base + uint(i)) / div - base / div / MICA_KV_PAGE_CELLS * MICA_KV_PAGE_CELLS);
}
uint offset_row(Entry e, int cell) {
  return uint(clamp(key_offset(e, cell), 0, MICA_KV_OFFSET_TURNS - 1));
}

// A cell's rotation.
Angles cell_angles(Entry e, uint lane, int cell) {
  return composed(row_angles(lane, e.key_turn), row_angles(lane, offset_row(e, cell)));
}
// The same in two parts, for cells that follow `cell` at equal distances: what they have in common,
// and the row that a cell `ahead` of it adds. Few rows are so in use, and they stay in the cache.
Angles first_angles(Entry e, uint lane, int cell) {
  Angles a = row_angles(lane, e.key_turn);
  if (e.div != 1) return a;
  const int offset = key_offset(e, cell);  // may be below 0 before the entry's first cell
  Angles b = row_angles(lane, uint(min(abs(offset), MICA_KV_OFFSET_TURNS - 1)));
  if (offset < 0) b.s = -b.s;
  return composed(a, b);
}
uint ahead_row(Entry e, int cell, uint ahead) {
  return e.div == 1 ? ahead : offset_row(e, cell + int(ahead));
}

void rotate_key(Angles a, inout float k[8]) {
  [[unroll]] for (uint j = 0u; j < 4u; ++j) {
    const uint i0 = has(kKeyHalves) ? j : 2u * j, i1 = has(kKeyHalves) ? j + 4u : 2u * j + 1u;
    const float x0 = k[i0], x1 = k[i1];
    k[i0] = x0 * a.c[j] - x1 * a.s[j];
    k[i1] = x0 * a.s[j] + x1 * a.c[j];
  }
}

// An element of K at its cell's position; of any rotation.
float key_at(Page p, uint64_t head, Entry e, uint cell, uint d) {
  const float x = stored_element(p, head, cell, d);
  const RotatedPair pair = pair_of(d);
  if (!has(kRotatesKeys) || !pair.found) return x;
  const float other = stored_element(p, head, cell, pair.other);
  F32P turn = F32P(params.turns + uint64_t(e.key_turn) * (params.n_rot * 4u));
  F32P offset = F32P(params.turns + offset_row(e, int(cell)) * (params.n_rot * 4ul));
  const uint i = 2u * pair.index;
  const float c = turn.v[i] * offset.v[i] - turn.v[i + 1u] * offset.v[i + 1u];
  const float s = turn.v[i + 1u] * offset.v[i] + turn.v[i] * offset.v[i + 1u];
  return pair.second ? other * s + x * c : x * c - other * s;
}
void keys_apart(Page p, uint64_t head, Entry e, uint cell, uint lane, out float k[8]) {
  for (uint j = 0u; j < 8u; ++j) {
    const uint d = key_element(lane, j);
    k[j] = d < kDimK ? key_at(p, head, e, cell, d) : 0.0;
  }
}
