// A backend that wraps another and looks at what it answers where the boundary has two answers.
#pragma once
#include <set>
#include <string>

#include "mica/backend.h"

namespace mica::conformance {

// The table to use instead of `inner`: one at a time, the last one asked for.
const mica_backend* answers_watched(const mica_backend* inner);
// A status from supports or claims since the last call that is neither OK nor UNSUPPORTED; "":
// none.
std::string answers_complaint();
// Names of the kernel rows that can run a unit of the plans made since the last call.
std::set<std::string> take_variants();

}  // namespace mica::conformance
