// How the work is cut. The rows of a sequence are its tokens times kGroup, row = token * kGroup +
// query head; a unit is kUnitRows of them against entries of the table, for one kv head.
//
// A sequence of few tokens in this step is split: its entries are cut in chunks, units are (rows,
// chunk), and what they find is merged. Of the others a unit has all entries. The cut depends on
// the table and on what is fixed when a plan is made.
layout(constant_id = 10) const uint kUnitRows = 4;
layout(constant_id = 11) const uint kSplitTokens = 1;  // at most, to be split
layout(constant_id = 12) const uint kChunks = 16;      // wanted of a step, all sequences together

struct Unit {
  uvec2 tokens, entries;  // of the sequence
  uint n_chunks;
  uint first;  // unit of the sequence
  bool found;
};

shared uint unit_scan[gl_WorkGroupSize.x];
shared uvec4 unit_ranges;
shared uvec2 unit_place;
shared uint unit_found;

bool is_split(uvec2 tokens) { return tokens.y - tokens.x <= kSplitTokens; }
uint row_units(uvec2 tokens) {
  return ((tokens.y - tokens.x) * kGroup + kUnitRows - 1u) / kUnitRows;
}
uint chunks_of(uvec2 entries, uint all_entries) {
  const uint chunk = max(1u, (all_entries + kChunks - 1u) / kChunks);
  return max(1u, (entries.y - entries.x + chunk - 1u) / chunk);
}
// Units of a sequence in this dispatch.
uint units_of(uvec2 tokens, uint n_chunks) {
#ifdef TILE
  return is_split(tokens) ? 0u : row_units(tokens);
#else
  return is_split(tokens) ? row_units(tokens) * n_chunks : 0u;
#endif
}

// The sequence that has unit `key`, or, with by_token, that has token `key`.
Unit find_unit(bool by_token, uint key) {
  const uint n = n_tokens(), count = n_seqs();
  Unit u;
  if (!has(kManySeqs)) {
    // No load waits for another.
    const uint all_entries = table_count(MICA_KV_TABLE_STARTS(max_seqs()) + 1u, params.max_entries);
    u.tokens = seq_tokens(0u, n);
    if (count == 0u) u.tokens = uvec2(0u);
    u.entries = seq_entries(0u, all_entries);
    u.n_chunks = chunks_of(u.entries, all_entries);
    u.first = 0u;
    u.found =
        by_token ? key >= u.tokens.x && key < u.tokens.y : key < units_of(u.tokens, u.n_chunks);
    return u;
  }
  const uint all_entries = n_entries();
  if (tid() == 0u) unit_found = 0u;
  uint before = 0u;
  for (uint base = 0u; base < count; base += gl_WorkGroupSize.x) {
    const uint i = base + tid();
    uvec2 tokens = uvec2(0u), entries = uvec2(0u);
    uint n_chunks = 0u, units = 0u;
    if (i < count) {
      tokens = seq_tokens(i, n);
      entries = seq_entries(i, all_entries);
      n_chunks = chunks_of(entries, all_entries);
      units = units_of(tokens, n_chunks);
    }
    unit_scan[tid()] = units;
    barrier();
    for (uint apart = 1u; apart < gl_WorkGroupSize.x; apart *= 2u) {
      const uint more = tid() >= apart ? unit_scan[tid() - apart] : 0u;
      barrier();
      unit_scan[tid()] += more;
      barrier();
    }
    const uint first = before + unit_scan[tid()] - units;
    const bool mine =
        by_token ? key >= tokens.x && key < tokens.y : key >= first && key < first + units;
    if (mine) {
      unit_found = 1u;
      unit_ranges = uvec4(tokens, entries);
      unit_place = uvec2(n_chunks, first);
    }
    before += unit_scan[gl_WorkGroupSize.x - 1u];
    barrier();
  }
  barrier();
  u.tokens = unit_ranges.xy;
  u.entries = unit_ranges.zw;
  u.n_chunks = unit_place.x;
  u.first = unit_place.y;
  u.found = unit_found != 0u;
  return u;
}

// Where a split unit's partial results are, behind those of the units before it: kUnitRows rows of
// {kDimV sums, largest, denominator}.
uint64_t partial_offset(uint unit, uint n_kv_heads, uint i_kv_head) {
  return (uint64_t(unit) * n_kv_heads + i_kv_head) * (kUnitRows * (kDimV + 2u) * 4u);
}
