// matmul_add: a matmul and the sum of its result with a residual of the same shape.
//   members[0]  matmul: in[0] a weight [K, N], in[1] x [K, M]
//   members[1]  add: one of its inputs is the whole matmul, the other the residual, F32 [N, M]
// The matmul's own value is read nowhere else and has no memory: the residual is the add's input
// that has.
#include "core/plan/fusion.h"

namespace mica {
namespace {

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char** near_miss) {
  if (!view.is(node, MICA_OP_matmul)) return 0;
  const mica_b_value &w = view.input(node, 0), &x = view.input(node, 1);
  if (w.storage != MICA_B_WEIGHT || w.rank > 2 || x.rank > 2) return 0;
  const uint32_t add = view.only_reader(node);
  if (!view.is(add, MICA_OP_add)) return 0;
  const uint32_t mine = view.takes_whole(add, 0, node) ? 0 : 1;
  const uint32_t residual = view.node(add).input[1 - mine];
  if (!view.takes_whole(add, mine, node)) {
    *near_miss = "the sum is of a part of the product";
    return 0;
  }
  if (view.value(residual).dtype != MICA_F32 ||
      !view.same_shape(residual, view.node(node).output)) {
    *near_miss = "what is added is not F32 of the product's shape";
    return 0;
  }
  members[0] = node;
  members[1] = add;
  return 2;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(matmul_add, 20, mica::match)
