// What the patterns that begin with an rms_norm share.
#pragma once
#include "core/plan/fusion.h"
#include "ops/norm_args.h"

namespace mica {

// rms_norm of [n_embd, n_tokens] by a weight [n_embd].
inline bool is_norm(const FusionView& view, uint32_t node) {
  if (!view.is(node, MICA_OP_rms_norm) || !view.has_input(node, 1)) return false;
  const mica_b_value& x = view.input(node, 0);
  return x.rank <= 2 && view.input(node, 1).storage == MICA_B_WEIGHT;
}

// matmul of the whole output of `norm` by a weight of two dimensions.
inline bool is_projection(const FusionView& view, uint32_t node, uint32_t norm) {
  if (!view.is(node, MICA_OP_matmul) || view.node(node).input[1] != view.node(norm).output)
    return false;
  const mica_b_value& w = view.input(node, 0);
  return w.storage == MICA_B_WEIGHT && w.rank <= 2;
}

// The projections of `norm`, in build order. 0: there are none, or, as `near_miss` says, more than
// `most`.
inline uint32_t projections(const FusionView& view, uint32_t norm, uint32_t* out, uint32_t most,
                            const char** near_miss) {
  const uint32_t v = view.node(norm).output;
  uint32_t n = 0;
  for (uint32_t i = view.reader(v, norm + 1); i != MICA_B_NONE; i = view.reader(v, i + 1)) {
    if (!is_projection(view, i, norm)) continue;
    if (n == most) {
      *near_miss = "too many matmuls read the norm";
      return 0;
    }
    out[n++] = i;
  }
  return n;
}

}  // namespace mica
