// Matrices of 16 x 16 that a subgroup multiplies: frag_multiply(a, b, c) adds a * b to c, where a
// and b are F16 and c is F32. With COOP they are VK_KHR_cooperative_matrix's. With PLAIN_FRAGMENTS
// a fragment is an array and a "subgroup" one invocation: so a driver without such matrices runs
// the very kernels, for tests.
//
// `load_…(fragment, array, first, pitch)` reads a shared array of uvec4 (8 halves) whose rows are
// `pitch` apart; _rows: array rows are the matrix's rows, _columns: its columns. store_rows writes
// to a shared array of float, store_floats to one of uvec4. load_repeated: 16 floats, each a row.
//
// FRAG_UNROLL is for loops over arrays of fragments, which must not be indexed by variables; plain
// ones may, and are too large for it.
//
// Where a row of 16 goes to single invocations, kFragFolds share one, and each has kFragRows.
#if defined(COOP)
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#define FRAG_UNROLL [[unroll]]
#define FragA coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define FragB coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define FragC coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define frag_clear(c) c = FragC(0.0)
#define frag_multiply(a, b, c) c = coopMatMulAdd(a, b, c)
#define frag_times(c, d) c = c * d
#define load_rows(f, array, first, pitch) \
  coopMatLoad(f, array, first, pitch, gl_CooperativeMatrixLayoutRowMajor)
#define load_columns(f, array, first, pitch) \
  coopMatLoad(f, array, first, pitch, gl_CooperativeMatrixLayoutColumnMajor)
#define store_rows(f, array, first, pitch) \
  coopMatStore(f, array, first, pitch, gl_CooperativeMatrixLayoutRowMajor)
#define store_floats(f, array, first, pitch) \
  coopMatStore(f, array, first, pitch, gl_CooperativeMatrixLayoutRowMajor)
#define load_repeated(f, array, first) \
  coopMatLoad(f, array, first, 0u, gl_CooperativeMatrixLayoutColumnMajor)
const uint kFragFolds = 2u;
const uint kFragRows = 1u;
void frag_barrier() { subgroupBarrier(); }
uint frag_team() { return gl_SubgroupID; }
uint frag_lane() { return gl_SubgroupInvocationID; }
uint frag_lanes() { return gl_SubgroupSize; }

#elif defined(PLAIN_FRAGMENTS)
#define FRAG_UNROLL [[dont_unroll]]
struct FragC {
  vec4 e[64];  // four a row
};
#define FragA FragC
#define FragB FragC
vec4 frag_four(uvec2 halves) { return vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y)); }
float frag_half(uvec4 eight, uint i) { return unpackHalf2x16(eight[i / 2u])[i % 2u]; }
// In place, as a fragment that is copied becomes 64 loads and stores; and with few iterations, as
// llvmpipe ends all loops of a shader after 65535 of them together.
#define frag_rows(i) for (uint i = 0u; i < 64u; i += 4u)
#define frag_clear(c) \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) c.e[i_ + m_] = vec4(0.0)
#define frag_multiply(a, b, c)                                                                  \
  for (uint i_ = 0u; i_ < 64u; i_ += 2u)                                                        \
    [[unroll]] for (uint j_ = 0u; j_ < 2u; ++j_) [[unroll]] for (uint k_ = 0u; k_ < 4u; ++k_) { \
      const vec4 a_ = a.e[i_ / 4u * 4u + k_];                                                   \
      const uint b_ = 16u * k_ + i_ % 4u + j_;                                                  \
      c.e[i_ + j_] +=                                                                           \
          a_.x * b.e[b_] + a_.y * b.e[b_ + 4u] + a_.z * b.e[b_ + 8u] + a_.w * b.e[b_ + 12u];    \
    }
#define frag_times(c, d) \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) c.e[i_ + m_] *= d.e[i_ + m_]
#define load_rows(f, array, first, pitch)                   \
  for (uint i_ = 0u; i_ < 16u; ++i_) {                      \
    const uvec4 low_ = array[(first) + i_ * (pitch)];       \
    const uvec4 high_ = array[(first) + i_ * (pitch) + 1u]; \
    f.e[4u * i_] = frag_four(low_.xy);                      \
    f.e[4u * i_ + 1u] = frag_four(low_.zw);                 \
    f.e[4u * i_ + 2u] = frag_four(high_.xy);                \
    f.e[4u * i_ + 3u] = frag_four(high_.zw);                \
  }
#define load_columns(f, array, first, pitch)                          \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_)          \
      [[unroll]] for (uint j_ = 0u; j_ < 4u; ++j_) f.e[i_ + m_][j_] = \
      frag_half(array[(first) + (m_ * 4u + j_) * (pitch) + i_ / 32u], i_ / 4u % 8u)
#define store_rows(f, array, first, pitch)     \
  for (uint i_ = 0u; i_ < 64u; ++i_)           \
  [[unroll]] for (uint j_ = 0u; j_ < 4u; ++j_) \
      array[(first) + i_ / 4u * (pitch) + i_ % 4u * 4u + j_] = f.e[i_][j_]
#define store_floats(f, array, first, pitch)                 \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) \
      array[(first) + i_ / 4u * (pitch) + m_] = floatBitsToUint(f.e[i_ + m_])
#define load_repeated(f, array, first)                                      \
  frag_rows(i_) [[unroll]] for (uint m_ = 0u; m_ < 4u; ++m_) f.e[i_ + m_] = \
      vec4(array[(first) + i_ / 4u])
const uint kFragFolds = 1u;
const uint kFragRows = 16u;
void frag_barrier() {}
uint frag_team() { return gl_LocalInvocationIndex; }
uint frag_lane() { return 0u; }
uint frag_lanes() { return 1u; }
#endif
