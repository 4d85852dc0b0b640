// Which plans may be stopped half-way.
#pragma once
#include "backends/op_name.h"
#include "mica/backend.h"

namespace mica {

// Not one that rotates stored keys in place: which cells it had come to would not be known.
inline bool is_cancellable(const mica_b_partition& p) {
  for (uint32_t i = 0; i < p.n_nodes; ++i)
    if (p.nodes[i].op == MICA_OP_kv_shift) return false;
  return true;
}

}  // namespace mica
