// A backend that wraps another and watches it: guard bytes behind every buffer, and an arena and KV
// storage that hold NaN wherever the step has not written.
#pragma once
#include <string>

#include "mica/backend.h"
#include "mica/mica.h"

namespace mica::conformance {

// The table to add to a context instead of `inner`. One inner backend a process.
const mica_backend* guarded(const mica_backend* inner);
// What went wrong since the last call, a guard byte overwritten or a barrier missing; "": nothing.
std::string guards_complaint();
// What the matmuls, alone or in regions, of all plans since the last call round activations to: the
// coarsest mica_numerics; MICA_NUM_F32 when there were none.
uint32_t matmul_numerics();

}  // namespace mica::conformance
