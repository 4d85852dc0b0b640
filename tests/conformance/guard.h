// A backend that wraps another and watches it: guard bytes behind every buffer, and an arena and KV
// storage that hold NaN wherever the step has not written.
#pragma once
#include "mica/backend.h"
#include "mica/mica.h"

namespace mica::conformance {

// The table to add to a context instead of `inner`. One inner backend a process.
const mica_backend* guarded(const mica_backend* inner);
// Whether any guard byte was overwritten since the last call.
bool guards_damaged();

}  // namespace mica::conformance
