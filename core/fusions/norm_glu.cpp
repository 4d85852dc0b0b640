// norm_glu: an rms_norm, the gate and up projections, and the activation with their product.
//   members[0]  rms_norm of x [n_embd, n_tokens] by a weight [n_embd]
//   members[1]  matmul: gate; in[0] a weight [n_embd, n_ff], in[1] the norm
//   members[2]  matmul: up; the same with a weight of its own
//   members[3]  silu or gelu (tanh) of the whole gate
//   members[4]  mul: in[0] the activation, in[1] the whole up. Its output has gate's and up's
//   shape,
//               [n_ff, n_tokens]: kernels write it by that
// gate, up and the activation are read nowhere else and have no memory; the norm's output has
// memory only when something else reads it too.
#include "core/fusions/norm.h"

namespace mica {
namespace {

// The activation and the product behind `gate`, and the other projection; false: there are none,
// or, as `near_miss` says, they are not as the region wants them.
bool follow(const FusionView& view, uint32_t norm, uint32_t gate, uint32_t* members,
            const char** near_miss) {
  const uint32_t act = view.only_reader(gate);
  if (!view.is(act, MICA_OP_silu) && !view.is(act, MICA_OP_gelu)) return false;
  const uint32_t mul = view.only_reader(act);
  if (!view.is(mul, MICA_OP_mul) || view.maker(mul, 0) != act) return false;
  const uint32_t up = view.maker(mul, 1);
  if (up == MICA_B_NONE || up == gate || !is_projection(view, up, norm)) return false;
  const uint32_t y = view.node(mul).output;
  const uint32_t all[] = {norm, gate, up, act, mul};
  for (uint32_t k = 0; k < 5; ++k) members[k] = all[k];
  if (view.only_reader(up) != mul) {
    *near_miss = "up is used elsewhere too";
  } else if (!view.takes_whole(act, 0, gate) || !view.takes_whole(mul, 0, act) ||
             !view.takes_whole(mul, 1, up)) {
    *near_miss = "the product is of parts of gate and up";
  } else if (!view.same_shape(y, view.node(gate).output) ||
             !view.same_shape(y, view.node(up).output)) {
    *near_miss = "gate, up and their product are of different shapes";
  } else {
    return true;
  }
  return false;
}

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char** near_miss) {
  uint32_t found[8];
  if (!is_norm(view, node)) return 0;
  const uint32_t n = projections(view, node, found, 8, near_miss);
  for (uint32_t i = 0; i < n; ++i)
    if (follow(view, node, found[i], members, near_miss)) return 5;
  return 0;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(norm_glu, 40, mica::match)
