// The ops' names, for backends that find kernels by name.
#pragma once
#include "mica/backend.h"

namespace mica {

// nullptr when the op is not known here.
inline const char* op_name(uint32_t op) {
  switch (op) {
#define MICA_OP(id, name, family) \
  case id:                        \
    return #name;
#define MICA_COMPOSITE(name, family)
#include "ops/ops.def"
#undef MICA_OP
#undef MICA_COMPOSITE
    default:
      return nullptr;
  }
}

// Ops that only look at memory: nothing runs for them.
inline bool is_view_op(uint32_t op) {
  return op == MICA_OP_view || op == MICA_OP_reshape || op == MICA_OP_permute;
}

}  // namespace mica
