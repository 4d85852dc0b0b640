/* Choosing a token from logits, on the device. The builder records an error on the graph and
 * returns the invalid tensor when an argument is wrong (mica/graph.h). */
#ifndef MICA_OPS_SAMPLE_H_
#define MICA_OPS_SAMPLE_H_
#include "mica/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One token a row, by temperature, top-k, top-p and min-p, with no state: the random number depends
 * on the keys alone.
 *
 *   logits  F32 [n_vocab, n_rows], rows contiguous.
 *   params  F32 [4, n_rows], packed: temperature, top_k, top_p, min_p of each row.
 *   keys    I32 [4, n_rows], packed: seed_lo, seed_hi, sequence, position (their 32 bits).
 *   result  I32 [n_rows], with the extent of logits (params and keys have the same).
 *
 * The rule, step by step, so that every backend chooses the same token:
 *   1. Order the tokens by (logit falling, id rising); not-a-number and -infinity are left out. If
 *      none is left, the answer is 0. If the first is +infinity, or temperature is not above 0, the
 *      answer is the first.
 *   2. top_k >= 1: keep the first floor(top_k).
 *   3. e[i] = exp(logit[i] - logit[0]). top_p < 1: keep the shortest beginning whose sum of e is at
 *      least top_p * (the sum of e of all that step 2 kept); one token at least.
 *   4. min_p > 0: keep the tokens with e[i] >= min_p; one token at least.
 *   5. w[i] = exp((logit[i] - logit[0]) / temperature), u = (bits + 0.5) / 2^32: the answer is the
 *      first token at which the running sum of w is above u * (the sum of w of all kept).
 * Sums run in that order. `bits` is the first word of Philox4x32-10 (Salmon et al. 2011,
 * ops/philox.h) with key {seed_lo, seed_hi} and counter {position, sequence, 0, 0}. A top_k or
 * top_p that is not-a-number, like any that its step does not name, keeps all.
 *
 * The reference computes exp and sums in double. A backend may choose another token only where a
 * comparison of steps 3 to 5 is within rounding of equality.
 *
 * Errors: shapes, dtypes, strides, extents. */
MICA_API mica_tensor mica_sample(mica_graph* graph, mica_tensor logits, mica_tensor params,
                                 mica_tensor keys);

#ifdef __cplusplus
}
#endif
#endif
