/* Attention over a paged, shared KV cache: the one attention op. The builder records an error on
 * the graph and returns the invalid tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_ATTENTION_H_
#define MICA_OPS_ATTENTION_H_
#include "../rope.h"
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mica_attention_params {
  size_t struct_size;
  float scale;        /* 0: 1 / sqrt(head_dim_k) */
  float softcap;      /* c > 0: scores become c * tanh(score / c); 0: none */
  int32_t non_causal; /* non-zero: cells after the query are seen too */
  mica_tensor mask;   /* or MICA_NO_TENSOR */
  mica_tensor sinks;  /* or MICA_NO_TENSOR */
  /* The RoPE that rotated this layer's K. It takes part where the cache's keys are
   * MICA_KV_KEYS_RELATIVE or _UNROTATED (mica/kv_cache.h), and there must be given, unless no_rope
   * says that K of this layer has none. */
  const mica_rope_params* rope;
  int32_t no_rope;
} mica_attention_params;
#define MICA_ATTENTION_PARAMS_INIT \
  { sizeof(mica_attention_params), 0.0f, 0.0f, 0, {0, 0}, {0, 0}, NULL, 0 }

/* y[:, h, t] = sum over cells i of w[i] * V[:, g, i], where g = h / (n_heads / n_kv_heads),
 *   s[i] = softcap(scale * sum over d of q[d, h, t] * K[d, g, i]) + mask[i, t, h]
 *   w[i] = exp(s[i]) / (sum over j of exp(s[j]) + exp(sinks[h])).
 * (Vaswani et al. 2017; query heads sharing K and V: Ainslie et al. 2023; sinks: a learned logit
 * that takes part in the sum only.)
 *
 * The cells are those of the sequence of token t, in the order of the cache's table, with position
 * p, that the query at position p_t sees:
 *   p <= p_t, unless non_causal, and, in a layer with window w, p > p_t - w or p < n_first.
 * Cells that no table entry names are never read. A query that sees no cell gives zeros.
 *
 *   q       F32, F16 or BF16 [head_dim_k, n_heads, n_tokens], rows contiguous, with the cache's
 *           extent of tokens: the tokens of a step, grouped by sequence as its spans were reserved.
 *   kv      of mica_graph_kv. K and V: float or quantized types, any mix; n_heads is a multiple of
 *           n_kv_heads. Append the step's own K and V before (mica_kv_append).
 *   params  NULL: MICA_ATTENTION_PARAMS_INIT.
 *     mask  F32 or F16 [n_kv_max, n_tokens, n_heads or 1], rows contiguous; n_tokens is q's
 *           maximum. It may have q's extent if its rank is 2. Column i belongs to the i-th cell of
 *           the token's own sequence, seen or not, in table order. Cells from n_kv_max on are not
 *           seen. -infinity hides a cell, whatever K holds there.
 *     sinks F32 [n_heads].
 *     rope  of RELATIVE keys, q is rotated by the position of its row of mica_kv.turns before it
 *           meets the cells of a table entry; of UNROTATED keys K of each cell is rotated to the
 *           cell's position (mica/kv_table.h). Angles come from mica_rope_angles, without a
 *           magnitude: K has it already.
 *   result  F32 [head_dim_v, n_heads, n_tokens], packed, with q's extent.
 *
 * What a query does not see has no part in its row, not even when K or V are infinite or
 * not-a-number there: the row is as if those cells held zeros. A score of a seen cell that is
 * not-a-number or +infinity gives not-a-number; an infinite or not-a-number element of V in a seen
 * cell makes the row's element infinite or not-a-number.
 *
 * Errors: shapes, dtypes, strides, extents; scale or softcap not finite, softcap below 0; rope as
 * mica_rope says, or missing. */
MICA_API mica_tensor mica_attention(mica_graph* graph, mica_tensor q, const mica_kv* kv,
                                    const mica_attention_params* params);

#ifdef __cplusplus
}
#endif
#endif
