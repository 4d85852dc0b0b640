/* Rotary position embedding. The builder records an error on the graph and returns the invalid
 * tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_ROPE_H_
#define MICA_OPS_ROPE_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mica_rope_pairing {
  MICA_ROPE_ADJACENT = 0,  /* elements 2i and 2i + 1 (GPT-J; Llama's own weights and GGUF files) */
  MICA_ROPE_HALF_SPLIT = 1 /* elements i and i + n_rot / 2 (GPT-NeoX, Hugging Face) */
} mica_rope_pairing;

typedef struct mica_rope_params {
  size_t struct_size;
  uint32_t n_rot;  /* rotated elements of a head, even; 0: head_dim */
  uint32_t offset; /* the first of them */
  mica_rope_pairing pairing;
  float base;
  float linear_scale;       /* multiplies positions: 0.25 for a context four times as long */
  float ext_factor;         /* YaRN: how much of its mix is used, usually 1; 0: no YaRN */
  float attn_factor;        /* multiplies the rotated elements */
  float beta_fast;          /* YaRN: rotations over n_ctx_orig above which a pair is not scaled */
  float beta_slow;          /* YaRN: and below which it is scaled in full */
  uint32_t n_ctx_orig;      /* YaRN: the context the model was trained with */
  mica_tensor freq_factors; /* or MICA_NO_TENSOR */
} mica_rope_params;
/* clang-format off */
#define MICA_ROPE_PARAMS_INIT                                                                      \
  {sizeof(mica_rope_params), 0, 0, MICA_ROPE_ADJACENT, 10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f, 0, \
   {0, 0}}
/* clang-format on */

/* Rotates each pair i of every head of token t by an angle (Su et al. 2021, arXiv 2104.09864):
 *   y0 = m * (x0 cos a - x1 sin a), y1 = m * (x0 sin a + x1 cos a)
 *   a = linear_scale * e, e = positions[t] * base^(-2i / n_rot) / freq_factors[i], m = attn_factor.
 * The other elements are copied. Cosines and sines are mica_rope_angles' result: Q and K of all
 * layers share it.
 *
 * With YaRN (Peng et al. 2023, arXiv 2309.00071, as GGUF models use it), ext_factor != 0:
 *   a = linear_scale * e * (1 - r) + e * r
 *   r = ext_factor * (1 - clamp((i - low) / max(high - low, 0.001), 0, 1))
 *   low = max(0, floor(c(beta_fast))), high = min(n_rot - 1, ceil(c(beta_slow)))
 *   c(beta) = n_rot * ln(n_ctx_orig / (2 pi beta)) / (2 ln base)
 *   m = attn_factor * (1 + 0.1 ln(1 / linear_scale)).
 *
 *   x          F32, F16 or BF16 [head_dim, n_heads, n_tokens], rows contiguous.
 *   positions  I32 [n_tokens], with x's extent; negative ones rotate backwards.
 *   params     NULL: MICA_ROPE_PARAMS_INIT. freq_factors: F32 [n_rot / 2].
 *   result     packed, with x's dtype, shape and extent.
 *
 * Angles and their sine and cosine are exact to F32 for positions from -2^20 to 2^20: they are
 * computed in double, or as well, and rounded to F32. Powers use the F32 values of base and scale.
 * m is one F32.
 *
 * Errors: shapes, dtypes, strides, extents; n_rot odd or more than fits behind offset; numbers that
 * are not finite; base or linear_scale not above 0; with YaRN base not above 1, beta_fast,
 * beta_slow or n_ctx_orig not above 0. */
MICA_API mica_tensor mica_rope(mica_graph* graph, mica_tensor x, mica_tensor positions,
                               const mica_rope_params* params);

/* The angles of such a rotation, without its magnitude m: pair i of row r is the cosine and the
 * sine of positions[r] * base^(-2i / n_rot) … as above; exact to F32 alike. Where the graph has the
 * same angles of the same positions already, the result is that tensor.
 *
 *   positions  I32 [n].
 *   params     of the RoPE; n_rot must not be 0, as there is no head to take it from. offset,
 *              pairing and attn_factor have no part in it.
 *   result     F32 [n_rot, n], packed, with positions' extent.
 *
 * Errors: as mica_rope. */
MICA_API mica_tensor mica_rope_angles(mica_graph* graph, mica_tensor positions,
                                      const mica_rope_params* params);

#ifdef __cplusplus
}
#endif
#endif
