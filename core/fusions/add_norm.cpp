// add_norm: the sum of two tensors of one shape, and its rms_norm.
//   members[0]  add: both inputs [n_embd, n_tokens]
//   members[1]  rms_norm of the whole sum by a weight [n_embd]
// The sum has memory when something else reads it too (a residual stream), the norm's output
// always.
#include "core/fusions/norm.h"

namespace mica {
namespace {

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char** near_miss) {
  if (!is_norm(view, node)) return 0;
  const uint32_t add = view.maker(node, 0);
  if (!view.is(add, MICA_OP_add)) return 0;
  if (view.node(node).input[0] != view.node(add).output) {
    *near_miss = "the norm reads a view of the sum";
    return 0;
  }
  if (!view.same_shape(view.node(add).input[0], view.node(add).input[1])) {
    *near_miss = "what is added is of another shape";
    return 0;
  }
  members[0] = add;
  members[1] = node;
  return 2;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(add_norm, 10, mica::match)
