// How much of the ops' options (x_args.h) a file of kernels knows. It is stated by the last field
// that its kernels read or that they may ignore, never by the struct's size: a field that the
// struct gets later is then unknown to them, and a graph that sets it is refused instead of run
// without it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "mica/backend.h"

namespace mica {

struct KnownArgs {
  uint32_t op;     // mica_op_id; MICA_OP_NONE: the list's end
  uint32_t bytes;  // of its options, from the first
};
constexpr uint32_t kMostKnownArgs = 3;  // ops with options in one list, and the end

}  // namespace mica

// MICA_KNOWS(rope, magnitude): all fields of mica_rope_args up to magnitude.
#define MICA_KNOWS(op, last_field)                                               \
  {                                                                              \
    MICA_OP_##op, static_cast<uint32_t>(offsetof(mica_##op##_args, last_field) + \
                                        sizeof(mica_##op##_args::last_field))    \
  }
