// The plain variant: a workgroup a token and query head; 64 invocations, one a cell of the page.
shared float scores[64];
shared float sums[kDimV];

float raw_score(Page p, uint64_t head, Entry e, uint cell, uint64_t q) {
  float sum = 0.0;
  for (uint i = 0u; i < kDimK; ++i) {
    sum += params.scale * query_operand(q, i, e.turn) * key_at(p, head, e, cell, i);
  }
  return sum;
}

void main() {
  const uint i_head = gl_WorkGroupID.x;
  const uint token = gl_WorkGroupID.y;
  const uint n = n_tokens();
  if (token >= n) return;
  const uint n_kv_heads = gl_NumWorkGroups.x / kGroup;
  const uint i_kv_head = i_head / kGroup;
  uvec2 entries = uvec2(0u);
  for (uint i = 0u; i < n_seqs(); ++i) {
    const uvec2 tokens = seq_tokens(i, n);
    if (token >= tokens.x && token < tokens.y) entries = seq_entries(i, n_entries());
  }
  const int position = I32P(push.positions).v[token];
  const uint64_t q = q_row(token, i_head);
  const Page pk = page_k(), pv = page_v();
  for (uint i = tid(); i < kDimV; i += gl_WorkGroupSize.x) sums[i] = 0.0;
  float largest = has(kHasSinks) ? F32P(params.sinks).v[i_head] : minus_infinity();
  float denominator = has(kHasSinks) ? 1.0 : 0.0;
  uint column = 0u;
  for (uint i = entries.x; i < entries.y; ++i) {
    const Entry e = entry_at(i);
    const ivec4 seen = seen_cells(e, position);
    const uint64_t k_head = head_at(pk, push.k, e.page, n_kv_heads, i_kv_head);
    const uint64_t v_head = head_at(pv, push.v, e.page, n_kv_heads, i_kv_head);
    barrier();
    if (tid() < 64u) {
      float s = minus_infinity();
      if (sees(seen, int(tid()))) {
        s = finish_score(raw_score(pk, k_head, e, tid(), q), token, i_head,
                         column + tid() - e.first_cell);
      }
      scores[tid()] = s;
    }
    barrier();
    float now = largest;
    for (uint c = 0u; c < 64u; ++c) {
      if (scores[c] > now || is_nan(scores[c])) now = scores[c];
    }
    column += e.n_cells;
    if (now == minus_infinity()) continue;
    const float less = weight_of(largest, now);
    largest = now;
    barrier();
    // Hidden cells have no weight: -1, because 0 is one.
    if (tid() < 64u) {
      const float s = scores[tid()];
      scores[tid()] = s == minus_infinity() ? -1.0 : weight_of(s, now);
    }
    barrier();
    denominator *= less;
    for (uint c = 0u; c < 64u; ++c) denominator += scores[c] == -1.0 ? 0.0 : scores[c];
    for (uint d = tid(); d < kDimV; d += gl_WorkGroupSize.x) {
      float sum = sums[d] * less;
      for (uint c = 0u; c < 64u; ++c) {
        if (scores[c] != -1.0) sum += scores[c] * stored_element(pv, v_head, c, d);
      }
      sums[d] = sum;
    }
  }
  const uint64_t y = push.result + (uint64_t(token) * gl_NumWorkGroups.x + i_head) * kDimV * 4ul;
  for (uint d = tid(); d < kDimV; d += gl_WorkGroupSize.x) {
    F32P(y).v[d] = denominator == 0.0 ? 0.0 : sums[d] / denominator;
  }
}
