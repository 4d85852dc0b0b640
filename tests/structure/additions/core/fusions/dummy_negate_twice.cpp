// A dummy fusion: two negations in a row.
#include "core/plan/fusion.h"

namespace mica {
namespace {

uint32_t match(const FusionView& view, uint32_t node, uint32_t* members, const char**) {
  if (view.node(node).op != MICA_OP_dummy_negate) return 0;
  const uint32_t before = view.maker(node, 0);
  if (before == MICA_B_NONE || view.node(before).op != MICA_OP_dummy_negate) return 0;
  members[0] = before;
  members[1] = node;
  return 2;
}

}  // namespace
}  // namespace mica

MICA_DEFINE_FUSION(dummy_negate_twice, 5, mica::match)
