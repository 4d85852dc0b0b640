// Few rows against a chunk of the entries, for one kv head: K and V are read once from memory, each
// row by neighbouring invocations ("lanes" of 8 elements), with nothing but what is summed in
// shared memory. Rows go in fours, so that one vec4 has an element's products with four rows.
layout(constant_id = 13) const uint kLanesK = 8;  // of a stored row
layout(constant_id = 14) const uint kLanesV = 8;
layout(constant_id = 15) const uint kStep = 64;  // cells at once: divides 64
layout(constant_id = 16) const uint kBatch = 4;  // loads in flight

const uint kQuads = kUnitRows / 4u;
const uint kSize = gl_WorkGroupSize.x;
const uint kCellsK = kSize / kLanesK;  // cells that the workgroup reads side by side
const uint kCellsV = kSize / kLanesV;
const uint kPartRow = kLanesK + 1u;  // one more: no two lanes on one bank
const uint kPart = kStep * kPartRow * kQuads;
const uint kParts = 8u;  // of a step, for finding its largest scores
const uint kPool = kPart > 4u * kSize ? kPart : 4u * kSize;

shared vec4 pool[kPool];                      // products of lanes; at the end, sums of cells
shared vec4 weights[kStep * kQuads];          // scores, then their exponentials
shared vec4 query[kUnitRows * kLanesK * 2u];  // [row][first or second four][lane]
shared vec4 largest[2u * kQuads];             // of each row so far: before this step, and after
shared vec4 step_largest[kParts * kQuads];
shared ivec4 seen[kUnitRows];
shared int position[kUnitRows];
shared uint column_sum[kSize];

uint unit_token(Unit u, uint row) { return u.tokens.x + row / kGroup; }

// As they meet cells of entries with this turn.
void load_queries(Unit u, uint first_row, uint i_kv_head, uint turn) {
  const uint n_rows = (u.tokens.y - u.tokens.x) * kGroup;
  for (uint i = tid(); i < kUnitRows * kLanesK * 2u; i += kSize) {
    const uint row = first_row + i / (kLanesK * 2u);
    const uint lane = i % kLanesK, j = i / kLanesK % 2u * 4u;
    const uint64_t q = q_row(unit_token(u, row), i_kv_head * kGroup + row % kGroup);
    vec4 x = vec4(0.0);
    [[unroll]] for (uint k = 0u; k < 4u; ++k) {
      const uint d = key_element(lane, j + k);
      if (row < n_rows && d < kDimK) x[k] = query_operand(q, d, turn) * params.scale;
    }
    query[i] = x;
  }
}

void begin_rows(Unit u, uint first_row) {
  const uint n_rows = (u.tokens.y - u.tokens.x) * kGroup;
  if (tid() < kUnitRows) {
    const uint row = first_row + tid();
    position[tid()] = row < n_rows ? I32P(push.positions).v[unit_token(u, row)] : 0;
  }
  if (tid() < 2u * kQuads) largest[tid()] = vec4(minus_infinity());
}

// The mask's column of the first cell of entry `to`.
uint columns_before(uint from, uint to) {
  uint mine = 0u;
  for (uint i = from + tid(); i < to; i += kSize) mine += entry_at(i).n_cells;
  column_sum[tid()] = mine;
  barrier();
  uint sum = 0u;
  for (uint i = 0u; i < kSize; ++i) sum += column_sum[i];
  return sum;
}

// The lanes of kBatch cells, every kCells-th from `base` on; zeros for what is not in `range`.
void load_batch(bool of_k, Page p, uint64_t head, uint first, uint base, uint n_cells, uint lane,
                ivec2 range, out Raw raw[kBatch]) {
  [[unroll]] for (uint b = 0u; b < kBatch; ++b) {
    const uint c = base + b * n_cells;
    const int cell = int(first + c);
    raw[b] = Raw(uvec4(0u), uvec4(0u), 0u);
    const bool inside = c < kStep && cell >= range.x && cell < range.y;
    if (inside && of_k) raw[b] = load_key(p, head, uint(cell), lane);
    if (inside && !of_k) raw[b] = load_lane(p, head, uint(cell), lane);
  }
}

// Products of q and the cells [first, first + kStep) that are in `range`, a lane apart.
void lane_products(Page p, uint64_t head, Entry e, uint first, ivec2 range) {
  const uint lane = tid() % kLanesK, slot = tid() / kLanesK;
  if (slot >= kCellsK) return;
  for (uint base = slot; base < kStep; base += kBatch * kCellsK) {
    Raw raw[kBatch];
    load_batch(true, p, head, first, base, kCellsK, lane, range, raw);
    // Behind K's loads, which take longer.
    const int cell = int(first + base);
    Angles angles;
    if (has(kRotatesKeys) && !has(kKeysApart)) angles = first_angles(e, lane, cell);
    [[unroll]] for (uint b = 0u; b < kBatch; ++b) {
      const uint c = base + b * kCellsK;
      if (c >= kStep) continue;
      float k[8];
      decode_key(raw[b], k);
      if (has(kKeysApart)) {
        keys_apart(p, head, e, first + c, lane, k);
      } else if (has(kRotatesKeys)) {
        rotate_key(composed(angles, row_angles(lane, ahead_row(e, cell, b * kCellsK))), k);
      }
      const vec4 low = vec4(k[0], k[1], k[2], k[3]), high = vec4(k[4], k[5], k[6], k[7]);
      for (uint quad = 0u; quad < kQuads; ++quad) {
        vec4 sum;
        [[unroll]] for (uint r = 0u; r < 4u; ++r) {
          const uint at = (quad * 4u + r) * 2u * kLanesK + lane;
          sum[r] = dot(query[at], low) + dot(query[at + kLanesK], high);
        }
        pool[(quad * kStep + c) * kPartRow + lane] = sum;
      }
    }
  }
}

// Adds the lanes up and finishes the scores of four rows and one cell.
void finish_scores(Unit u, uint first_row, uint i_kv_head, uint first, ivec2 range, uint column) {
  for (uint i = tid(); i < kStep * kQuads; i += kSize) {
    const int cell = int(first + i % kStep);
    vec4 sum = vec4(0.0);
    for (uint lane = 0u; lane < kLanesK; ++lane) sum += pool[i * kPartRow + lane];
    [[unroll]] for (uint r = 0u; r < 4u; ++r) {
      const uint i_row = i / kStep * 4u + r;
      if (cell >= range.x && cell < range.y && sees(seen[i_row], cell)) {
        const uint row = first_row + i_row;
        sum[r] = finish_score(sum[r], unit_token(u, row), i_kv_head * kGroup + row % kGroup,
                              column + uint(cell));
      } else {
        sum[r] = minus_infinity();
      }
    }
    weights[i] = sum;
  }
}

// The largest score of each row, of kParts parts of the step.
void find_largest() {
  const uint n = kStep / kParts;
  for (uint i = tid(); i < kParts * kQuads; i += kSize) {
    vec4 top = weights[i * n];
    for (uint c = 1u; c < n; ++c) top = max(top, weights[i * n + c]);
    step_largest[i] = top;
  }
}

// Scores to exponentials. `before` and `after` are the places of the largest so far.
void exponentials(uint before, uint after) {
  for (uint i = tid(); i < kStep * kQuads; i += kSize) {
    const uint quad = i / kStep;
    vec4 top = largest[before + quad];
    [[unroll]] for (uint part = 0u; part < kParts; ++part) {
      top = max(top, step_largest[quad * kParts + part]);
    }
    if (i % kStep == 0u) largest[after + quad] = top;
    vec4 w = weights[i];
    [[unroll]] for (uint r = 0u; r < 4u; ++r) w[r] = weight_of(w[r], top[r]);
    weights[i] = w;
  }
}

// What an invocation sums: 8 elements of V of every kCellsV-th cell, times four rows' weights.
vec4 sums[kQuads * 8u];
vec4 denominator[kQuads];
Raw ahead[kBatch];  // the step's first batch of V, loaded while the scores are made

void load_values(Page p, uint64_t head, uint first, ivec2 range) {
  load_batch(false, p, head, first, tid() / kLanesV, kCellsV, tid() % kLanesV, range, ahead);
}

// What is known of the cells of a step.
struct StepRows {
  Unit u;
  uint first_row, i_kv_head;
  uint column;  // of the mask: of the page's cell 0
  bool hides;   // some row does not see all cells
};

// A cell's V that is not finite in some element, to the sums of the rows that see it.
void add_apart(StepRows s, uint c, int cell, float v[8]) {
  uint hidden = 0u;  // a bit a row
  [[dont_unroll]] for (uint i = 0u; i < kUnitRows; ++i) {
    const uint row = s.first_row + i;
    if (is_hidden(seen[i], cell, unit_token(s.u, row), s.i_kv_head * kGroup + row % kGroup,
                  s.column))
      hidden |= 1u << i;
  }
  [[unroll]] for (uint i = 0u; i < kUnitRows; ++i) {
    const float w = weights[i / 4u * kStep + c][i % 4u];
    const bool counts = (hidden >> i & 1u) == 0u;
    [[unroll]] for (uint j = 0u; j < 8u; ++j) {
      if (counts) sums[i / 4u * 8u + j][i % 4u] += w * v[j];
    }
  }
}

void add_batch(StepRows s, uint first, uint base, Raw raw[kBatch]) {
  [[unroll]] for (uint b = 0u; b < kBatch; ++b) {
    const uint c = base + b * kCellsV;
    if (c >= kStep) continue;
    float v[8];
    decode_lane(kDtypeV, raw[b], v);
    if (s.hides) {
      bool apart = false;
      [[unroll]] for (uint j = 0u; j < 8u; ++j) apart = apart || not_finite(v[j]);
      if (apart) {
        add_apart(s, c, int(first + c), v);
        [[unroll]] for (uint j = 0u; j < 8u; ++j) v[j] = 0.0;
      }
    }
    [[unroll]] for (uint quad = 0u; quad < kQuads; ++quad) {
      const vec4 w = weights[quad * kStep + c];
      denominator[quad] += w;
      [[unroll]] for (uint j = 0u; j < 8u; ++j) sums[quad * 8u + j] += w * v[j];
    }
  }
}

void add_values(StepRows s, Page p, uint64_t head, uint first, ivec2 range, uint before,
                uint after) {
  const uint lane = tid() % kLanesV, slot = tid() / kLanesV;
  if (slot >= kCellsV) return;
  [[unroll]] for (uint quad = 0u; quad < kQuads; ++quad) {
    vec4 less;
    [[unroll]] for (uint r = 0u; r < 4u; ++r) {
      less[r] = weight_of(largest[before + quad][r], largest[after + quad][r]);
    }
    denominator[quad] *= less;
    [[unroll]] for (uint j = 0u; j < 8u; ++j) sums[quad * 8u + j] *= less;
  }
  add_batch(s, first, slot, ahead);
  for (uint base = slot + kBatch * kCellsV; base < kStep; base += kBatch * kCellsV) {
    Raw raw[kBatch];
    load_batch(false, p, head, first, base, kCellsV, lane, range, raw);
    add_batch(s, first, base, raw);
  }
}

// Adds up the cells that the invocations have apart, and keeps the results.
void store_results(uint64_t to, uint now) {
  const uint row_floats = kDimV + 2u;
  for (uint quad = 0u; quad < kQuads; ++quad) {
    [[unroll]] for (uint half_row = 0u; half_row < 2u; ++half_row) {
      barrier();
      [[unroll]] for (uint j = 0u; j < 4u; ++j) {
        pool[j * kSize + tid()] = sums[quad * 8u + half_row * 4u + j];
      }
      barrier();
      for (uint i = tid(); i < kLanesV * 4u; i += kSize) {
        const uint lane = i / 4u, j = i % 4u;
        const uint d = element_of(kDtypeV, lane, half_row * 4u + j);
        if (d >= kDimV) continue;
        vec4 sum = vec4(0.0);
        for (uint slot = 0u; slot < kCellsV; ++slot) {
          sum += pool[j * kSize + slot * kLanesV + lane];
        }
        [[unroll]] for (uint r = 0u; r < 4u; ++r) {
          F32P(to).v[(quad * 4u + r) * row_floats + d] = sum[r];
        }
      }
    }
    barrier();
    pool[tid()] = denominator[quad];
    barrier();
    if (tid() < 4u) {
      float sum = 0.0;
      for (uint slot = 0u; slot < kCellsV; ++slot) sum += pool[slot * kLanesV][tid()];
      F32P(to).v[(quad * 4u + tid()) * row_floats + kDimV] = largest[now + quad][tid()];
      F32P(to).v[(quad * 4u + tid()) * row_floats + kDimV + 1u] = sum;
    }
  }
}

void main() {
  const uint i_kv_head = gl_WorkGroupID.x, n_kv_heads = gl_NumWorkGroups.x;
  const uint i_unit = gl_WorkGroupID.y;
  const Unit u = find_unit(false, i_unit);
  if (!u.found) return;
  const uint chunk = (i_unit - u.first) % u.n_chunks;
  const uint first_row = (i_unit - u.first) / u.n_chunks * kUnitRows;
  const uint n_rows = (u.tokens.y - u.tokens.x) * kGroup;
  const uint n = u.entries.y - u.entries.x;
  const uint begin = u.entries.x + n * chunk / u.n_chunks;
  const uint end = u.entries.x + n * (chunk + 1u) / u.n_chunks;
  const Page pk = page_k(), pv = page_v();
  uint turn = 0u;  // of the loaded queries
  load_queries(u, first_row, i_kv_head, turn);
  begin_rows(u, first_row);
  [[unroll]] for (uint i = 0u; i < kQuads * 8u; ++i) sums[i] = vec4(0.0);
  [[unroll]] for (uint i = 0u; i < kQuads; ++i) denominator[i] = vec4(0.0);
  uint now = 0u;  // where in `largest` the current ones are: 0 or kQuads
  uint column = has(kMasked) ? columns_before(u.entries.x, begin) : 0u;
  for (uint i = begin; i < end; ++i) {
    const Entry e = entry_at(i);
    barrier();
    if (e.turn != turn) {
      turn = e.turn;
      load_queries(u, first_row, i_kv_head, turn);
    }
    if (tid() < kUnitRows) {
      seen[tid()] = first_row + tid() < n_rows ? seen_cells(e, position[tid()]) : ivec4(0);
    }
    barrier();
    ivec2 range = ivec2(64, 0), by_all = ivec2(0, 64);  // what any row sees, and what all do
    for (uint r = 0u; r < kUnitRows; ++r) {
      const ivec2 one = seen_range(seen[r]);
      range = ivec2(min(range.x, one.x), max(range.y, one.y));
      if (first_row + r < n_rows)
        by_all = ivec2(max(by_all.x, seen[r].z), min(by_all.y, seen[r].w));
    }
    const bool hides = has(kMasked) || by_all.x > range.x || by_all.y < range.y;
    const StepRows rows = StepRows(u, first_row, i_kv_head, column - e.first_cell, hides);
    const uint64_t k_head = head_at(pk, push.k, e.page, n_kv_heads, i_kv_head);
    const uint64_t v_head = head_at(pv, push.v, e.page, n_kv_heads, i_kv_head);
    for (uint first = uint(range.x) / kStep * kStep; int(first) < range.y; first += kStep) {
      lane_products(pk, k_head, e, first, range);
      load_values(pv, v_head, first, range);
      barrier();
      finish_scores(u, first_row, i_kv_head, first, range, column - e.first_cell);
      barrier();
      find_largest();
      barrier();
      const uint after = kQuads - now;
      exponentials(now, after);
      barrier();
      add_values(rows, pv, v_head, first, range, now, after);
      now = after;
    }
    column += e.n_cells;
  }
  store_results(push.result + partial_offset(i_unit, n_kv_heads, i_kv_head), now);
}
