// norm_matmul: an rms_norm and all matmuls that read it.
//   members[0]      rms_norm of x [n_embd, n_tokens] by a weight [n_embd]
//   members[1 …]    1 to 4 matmuls, in build order: in[0] a weight [n_embd, N], in[1] the norm
// The norm's output has memory only when something else reads it too; the matmuls' outputs always.
#include "core/fusions/norm.h"

namespace mica {
namespace {

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char** near_miss) {
  if (!is_norm(view, node)) return 0;
  const uint32_t n = projections(view, node, members + 1, 4, near_miss);
  members[0] = node;
  return n == 0 ? 0 : n + 1;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(norm_matmul, 30, mica::match)
