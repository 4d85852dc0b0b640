// What the chunks of split sequences found, put together; and zeros for tokens of no sequence. A
// workgroup a query head and token.

void main() {
  const uint i_head = gl_WorkGroupID.x, n_heads = gl_NumWorkGroups.x;
  const uint token = gl_WorkGroupID.y;
  if (token >= n_tokens()) return;
  const Unit u = find_unit(true, token);
  if (u.found && !is_split(u.tokens)) return;
  const uint64_t y = push.result + (uint64_t(token) * n_heads + i_head) * kDimV * 4ul;
  const uint row = (token - u.tokens.x) * kGroup + i_head % kGroup;
  const uint first = u.first + row / kUnitRows * u.n_chunks;
  const uint n = u.found && first + u.n_chunks <= params.n_split_units ? u.n_chunks : 0u;
  const uint row_floats = kDimV + 2u;
  const uint64_t step = uint64_t(n_heads / kGroup) * (kUnitRows * row_floats * 4u);
  const uint64_t results = push.partial + partial_offset(first, n_heads / kGroup, i_head / kGroup) +
                           uint64_t(row % kUnitRows * row_floats * 4u);
  const float sink = has(kHasSinks) ? F32P(params.sinks).v[i_head] : minus_infinity();
  float largest = sink;
  for (uint i = 0u; i < n; ++i) {
    const float top = F32P(results + i * step).v[kDimV];
    if (top > largest || is_nan(top)) largest = top;
  }
  float denominator = weight_of(sink, largest);
  for (uint i = 0u; i < n; ++i) {
    F32P r = F32P(results + i * step);
    denominator += weight_of(r.v[kDimV], largest) * r.v[kDimV + 1u];
  }
  for (uint d = tid(); d < kDimV; d += gl_WorkGroupSize.x) {
    float sum = 0.0;
    for (uint i = 0u; i < n; ++i) {
      F32P r = F32P(results + i * step);
      sum += weight_of(r.v[kDimV], largest) * r.v[d];
    }
    F32P(y).v[d] = denominator == 0.0 ? 0.0 : sum / denominator;
  }
}
