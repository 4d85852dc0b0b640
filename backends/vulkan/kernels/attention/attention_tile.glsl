// Many rows against all entries of their sequence, a page of 64 cells at a time: two products of
// tiles in F32 with the softmax between them. Invocation (tx, ty) has kTileRows rows from
// ty * kTileRows on, of the scores 4 cells from tx * 4 on, and of the sums 4 elements of each 64.
layout(constant_id = 13) const uint kLanesK = 8;  // of a stored row
layout(constant_id = 14) const uint kLanesV = 8;
layout(constant_id = 17) const uint kTileRows = 4;  // of an invocation: a multiple of 4
layout(constant_id = 18) const uint kStepV = 16;    // cells of V at once: divides 64

const uint kSize = gl_WorkGroupSize.x;  // 16 * kUnitRows / kTileRows
const uint kQuads = kTileRows / 4u;
const uint kRowQuads = kUnitRows / 4u;
const uint kParts = (kDimV + 63u) / 64u;
// Strides in vec4, one more than needed so that neighbours are on other banks.
const uint kRowStride = kRowQuads + 1u;      // rows of an element of q, or of a cell's weights
const uint kCellStride = 17u;                // cells of an element of K
const uint kElemStride = kParts * 16u + 1u;  // elements of a cell of V
const uint kPoolQK = 16u * (kRowStride + kCellStride);
const uint kPoolV = kStepV * kElemStride;
const uint kPoolTop = (kUnitRows * 17u + 3u) / 4u;
const uint kPoolMost = kPoolQK > kPoolV ? kPoolQK : kPoolV;
const uint kPool = kPoolMost > kPoolTop ? kPoolMost : kPoolTop;

shared vec4 pool[kPool];                // q and K, V, or the lanes' largest scores
shared vec4 weights[64u * kRowStride];  // [cell][row]
shared float largest[kUnitRows], less[kUnitRows];
shared ivec4 seen[kUnitRows];
shared int position[kUnitRows];
shared int range_begin, range_end;    // of the page: what any row sees
shared int by_all_begin, by_all_end;  // what all do

vec4 scores[kTileRows];
vec4 sums[kTileRows * kParts];
float denominator[kTileRows];

uint unit_token(Unit u, uint row) { return u.tokens.x + row / kGroup; }
void put(uint quad, uint i, float x) { pool[quad + i / 4u][i % 4u] = x; }

// A lane of a cell's K; zeros for what is not in `range`.
void key_operand(Page p, uint64_t head, Entry e, int cell, uint lane, ivec2 range, out float k[8]) {
  const bool inside = lane < kLanesK && cell >= range.x && cell < range.y;
  Raw raw = Raw(uvec4(0u), uvec4(0u), 0u);
  if (inside && !has(kKeysApart)) raw = load_key(p, head, uint(cell), lane);
  decode_key(raw, k);
  if (!has(kRotatesKeys) || !inside) return;
  if (has(kKeysApart)) {
    keys_apart(p, head, e, uint(cell), lane, k);
  } else {
    rotate_key(cell_angles(e, lane, cell), k);
  }
}

// Two lanes (16 elements) of q and of K to [element][row] and [element][cell], as q and cells of
// this entry meet.
void load_qk(Unit u, uint first_row, uint n_rows, uint i_kv_head, Entry e, Page p, uint64_t head,
             uint lane0, ivec2 range) {
  for (uint i = tid(); i < kUnitRows * 2u; i += kSize) {
    const uint lane = lane0 + i % 2u, row = first_row + i / 2u;
    const bool inside = row < n_rows && lane < kLanesK;
    const uint64_t q = q_row(unit_token(u, row), i_kv_head * kGroup + row % kGroup);
    for (uint j = 0u; j < 8u; ++j) {
      const uint d = key_element(lane, j);
      const float x = inside && d < kDimK ? query_operand(q, d, e.turn) * params.scale : 0.0;
      put((i % 2u * 8u + j) * kRowStride, i / 2u, x);
    }
  }
  for (uint i = tid(); i < 128u; i += kSize) {
    const uint lane = lane0 + i % 2u;
    const int cell = int(i / 2u);
    float k[8];
    key_operand(p, head, e, cell, lane, range, k);
    [[unroll]] for (uint j = 0u; j < 8u; ++j) {
      put(16u * kRowStride + (i % 2u * 8u + j) * kCellStride, i / 2u, k[j]);
    }
  }
}

void add_scores(uint tx, uint ty) {
  for (uint d = 0u; d < 16u; ++d) {
    const vec4 k = pool[16u * kRowStride + d * kCellStride + tx];
    [[unroll]] for (uint quad = 0u; quad < kQuads; ++quad) {
      const vec4 q = pool[d * kRowStride + ty * kQuads + quad];
      [[unroll]] for (uint r = 0u; r < 4u; ++r) scores[quad * 4u + r] += q[r] * k;
    }
  }
}

// What is over to the softmax, and each invocation's largest of its 4 cells.
void finish_scores(Unit u, uint first_row, uint i_kv_head, uint tx, uint ty, uint column) {
  [[unroll]] for (uint r = 0u; r < kTileRows; ++r) {
    const uint i_row = ty * kTileRows + r;
    const ivec4 s = seen[i_row];
    [[unroll]] for (uint c = 0u; c < 4u; ++c) {
      const int cell = int(tx * 4u + c);
      if (!sees(s, cell)) {
        scores[r][c] = minus_infinity();
      } else if (has(kSoftcap | kMasked)) {
        const uint row = first_row + i_row;
        scores[r][c] = finish_score(scores[r][c], unit_token(u, row),
                                    i_kv_head * kGroup + row % kGroup, column + uint(cell));
      }
    }
    const vec4 x = scores[r];
    put(0u, i_row * 17u + tx, max(max(x.x, x.y), max(x.z, x.w)));
  }
}

void move_largest() {
  for (uint i = tid(); i < kUnitRows; i += kSize) {
    const float before = largest[i];
    float now = before;
    for (uint x = 0u; x < 16u; ++x) now = max(now, pool[(i * 17u + x) / 4u][(i * 17u + x) % 4u]);
    largest[i] = now;
    less[i] = weight_of(before, now);
  }
}

void exponentials(uint tx, uint ty) {
  [[unroll]] for (uint r = 0u; r < kTileRows; ++r) {
    const uint i_row = ty * kTileRows + r;
    const float top = largest[i_row], shrink = less[i_row];
    [[unroll]] for (uint c = 0u; c < 4u; ++c) scores[r][c] = weight_of(scores[r][c], top);
    denominator[r] = denominator[r] * shrink + dot(scores[r], vec4(1.0));
    [[unroll]] for (uint part = 0u; part < kParts; ++part) sums[r * kParts + part] *= shrink;
  }
  [[unroll]] for (uint c = 0u; c < 4u; ++c) {
    [[unroll]] for (uint quad = 0u; quad < kQuads; ++quad) {
      weights[(tx * 4u + c) * kRowStride + ty * kQuads + quad] =
          vec4(scores[quad * 4u][c], scores[quad * 4u + 1u][c], scores[quad * 4u + 2u][c],
               scores[quad * 4u + 3u][c]);
    }
  }
}

void load_v(Page p, uint64_t head, uint first, ivec2 range) {
  for (uint i = tid(); i < kStepV * kLanesV; i += kSize) {
    const uint lane = i % kLanesV;
    const int cell = int(first + i / kLanesV);
    Raw raw = Raw(uvec4(0u), uvec4(0u), 0u);
    if (cell >= range.x && cell < range.y) raw = load_lane(p, head, uint(cell), lane);
    float v[8];
    decode_lane(kDtypeV, raw, v);
    [[unroll]] for (uint j = 0u; j < 8u; ++j) {
      const uint d = element_of(kDtypeV, lane, j);
      if (d < kParts * 64u) put(i / kLanesV * kElemStride, d, v[j]);
    }
  }
}

void add_values(uint tx, uint ty, uint first) {
  for (uint c = 0u; c < kStepV; ++c) {
    vec4 v[kParts];
    [[unroll]] for (uint part = 0u; part < kParts; ++part) {
      v[part] = pool[c * kElemStride + part * 16u + tx];
    }
    [[unroll]] for (uint quad = 0u; quad < kQuads; ++quad) {
      const vec4 w = weights[(first + c) * kRowStride + ty * kQuads + quad];
      [[unroll]] for (uint r = 0u; r < 4u; ++r) {
        [[unroll]] for (uint part = 0u; part < kParts; ++part) {
          sums[(quad * 4u + r) * kParts + part] += w[r] * v[part];
        }
      }
    }
  }
}

// As add_values, of a page that some row does not see whole.
void add_seen_values(Unit u, uint first_row, uint i_kv_head, uint tx, uint ty, uint first,
                     uint column) {
  [[dont_unroll]] for (uint c = 0u; c < kStepV; ++c) {
    vec4 v[kParts];
    bool apart = false;
    [[unroll]] for (uint part = 0u; part < kParts; ++part) {
      v[part] = pool[c * kElemStride + part * 16u + tx];
      apart = apart || not_finite(v[part]);
    }
    uint hidden = 0u;  // a bit a row
    if (apart) {
      [[dont_unroll]] for (uint r = 0u; r < kTileRows; ++r) {
        const uint i_row = ty * kTileRows + r, row = first_row + i_row;
        if (is_hidden(seen[i_row], int(first + c), unit_token(u, row),
                      i_kv_head * kGroup + row % kGroup, column))
          hidden |= 1u << r;
      }
    }
    [[unroll]] for (uint r = 0u; r < kTileRows; ++r) {
      const float w = weights[(first + c) * kRowStride + ty * kQuads + r / 4u][r % 4u];
      const bool counts = (hidden >> r & 1u) == 0u;
      [[unroll]] for (uint part = 0u; part < kParts; ++part) {
        if (counts) sums[r * kParts + part] += w * v[part];
      }
    }
  }
}

void store_results(Unit u, uint first_row, uint n_rows, uint i_kv_head, uint tx, uint ty) {
  barrier();
  [[unroll]] for (uint r = 0u; r < kTileRows; ++r) {
    put(0u, (ty * kTileRows + r) * 17u + tx, denominator[r]);
  }
  barrier();
  const uint n_heads = gl_NumWorkGroups.x * kGroup;
  for (uint r = 0u; r < kTileRows; ++r) {
    const uint i_row = ty * kTileRows + r;
    const uint row = first_row + i_row;
    if (row >= n_rows) continue;
    const uint head = i_kv_head * kGroup + row % kGroup;
    float sum = 0.0;
    for (uint x = 0u; x < 16u; ++x) sum += pool[(i_row * 17u + x) / 4u][(i_row * 17u + x) % 4u];
    float factor = 1.0;
    if (has(kHasSinks)) {
      const float sink = F32P(params.sinks).v[head];
      const float top = max(sink, largest[i_row]);
      factor = weight_of(largest[i_row], top);
      sum = sum * factor + weight_of(sink, top);
    }
    const uint64_t y = push.result + (uint64_t(unit_token(u, row)) * n_heads + head) * kDimV * 4ul;
    for (uint part = 0u; part < kParts; ++part) {
      for (uint j = 0u; j < 4u; ++j) {
        const uint d = part * 64u + tx * 4u + j;
        if (d >= kDimV) continue;
        F32P(y).v[d] = sum == 0.0 ? 0.0 : sums[r * kParts + part][j] * factor / sum;
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
  const uint tx = tid() % 16u, ty = tid() / 16u;
  const Page pk = page_k(), pv = page_v();
  for (uint i = tid(); i < kUnitRows; i += kSize) {
    const uint row = first_row + i;
    position[i] = row < n_rows ? I32P(push.positions).v[unit_token(u, row)] : 0;
    largest[i] = minus_infinity();
  }
  [[unroll]] for (uint i = 0u; i < kTileRows * kParts; ++i) sums[i] = vec4(0.0);
  [[unroll]] for (uint i = 0u; i < kTileRows; ++i) denominator[i] = 0.0;
  uint column = 0u;
  for (uint i = u.entries.x; i < u.entries.y; ++i) {
    const Entry e = entry_at(i);
    barrier();
    if (tid() == 0u) {
      range_begin = 64;
      range_end = 0;
      by_all_begin = 0;
      by_all_end = 64;
    }
    barrier();
    for (uint r = tid(); r < kUnitRows; r += kSize) {
      seen[r] = first_row + r < n_rows ? seen_cells(e, position[r]) : ivec4(0);
      const ivec2 one = seen_range(seen[r]);
      atomicMin(range_begin, one.x);
      atomicMax(range_end, one.y);
      if (first_row + r < n_rows) {
        atomicMax(by_all_begin, seen[r].z);
        atomicMin(by_all_end, seen[r].w);
      }
    }
    barrier();
    const ivec2 range = ivec2(range_begin, range_end);
    const bool hides = has(kMasked) || by_all_begin > range.x || by_all_end < range.y;
    const uint first_column = column - e.first_cell;
    column += e.n_cells;
    if (range.x >= range.y) continue;
    const uint64_t k_head = head_at(pk, push.k, e.page, n_kv_heads, i_kv_head);
    const uint64_t v_head = head_at(pv, push.v, e.page, n_kv_heads, i_kv_head);
    [[unroll]] for (uint r = 0u; r < kTileRows; ++r) scores[r] = vec4(0.0);
    for (uint lane = 0u; lane < kLanesK; lane += 2u) {
      barrier();
      load_qk(u, first_row, n_rows, i_kv_head, e, pk, k_head, lane, range);
      barrier();
      add_scores(tx, ty);
    }
    barrier();
    finish_scores(u, first_row, i_kv_head, tx, ty, first_column);
    barrier();
    move_largest();
    barrier();
    exponentials(tx, ty);
    for (uint first = uint(range.x) / kStepV * kStepV; int(first) < range.y; first += kStepV) {
      barrier();
      load_v(pv, v_head, first, range);
      barrier();
      if (hides) {
        add_seen_values(u, first_row, i_kv_head, tx, ty, first, first_column);
      } else {
        add_values(tx, ty, first);
      }
    }
  }
  store_results(u, first_row, n_rows, i_kv_head, tx, ty);
}
