// What kernels that read weights and pages in the backend's layouts say for `takes`, alone or in a
// region.
#pragma once
#include "backends/cuda/kernel.h"
#include "backends/cuda/kv.h"
#include "backends/cuda/quant/packed.h"

namespace mica::cuda {

inline bool takes_weight(const Call& node, uint32_t operand, uint32_t layout) {
  const bool reads =
      node.op == MICA_OP_matmul || node.op == MICA_OP_get_rows || node.op == MICA_OP_copy;
  return reads && operand == 0 && layout == kLayoutRows8;
}
inline bool takes_page(const Call& node, uint32_t operand, uint32_t layout) {
  if (layout != kLayoutKvPage) return false;
  return node.op == MICA_OP_attention   ? operand == 1 || operand == 2
         : node.op == MICA_OP_kv_append ? operand == 0 || operand == kOutputOperand
                                        : false;
}
inline bool takes_both(const Call& node, uint32_t operand, uint32_t layout) {
  return takes_weight(node, operand, layout) || takes_page(node, operand, layout);
}

}  // namespace mica::cuda
