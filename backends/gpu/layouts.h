// What rows of the two GPU backends say for `takes`, alone or in a region: which operands their
// kernels read or write in the backend's own layouts of weights and of cache pages.
#pragma once
#include "backends/gpu/call.h"
#include "ops/attention/attention_args.h"

namespace mica::gpu {

template <uint32_t kWeightLayout>
bool takes_weight(const Call& node, uint32_t operand, uint32_t layout) {
  const bool reads =
      node.op == MICA_OP_matmul || node.op == MICA_OP_get_rows || node.op == MICA_OP_copy;
  return reads && operand == 0 && layout == kWeightLayout;
}

template <uint32_t kPageLayout>
bool takes_page(const Call& node, uint32_t operand, uint32_t layout) {
  if (layout != kPageLayout) return false;
  if (node.op == MICA_OP_attention)
    return operand == MICA_ATTENTION_K || operand == MICA_ATTENTION_V;
  const bool writes = node.op == MICA_OP_kv_append || node.op == MICA_OP_kv_shift;
  return writes && (operand == 0 || operand == kOutputOperand);
}

template <uint32_t kWeightLayout, uint32_t kPageLayout>
bool takes_both(const Call& node, uint32_t operand, uint32_t layout) {
  return takes_weight<kWeightLayout>(node, operand, layout) ||
         takes_page<kPageLayout>(node, operand, layout);
}

}  // namespace mica::gpu
