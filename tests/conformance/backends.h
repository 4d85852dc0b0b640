// Backends by name: those of this library, and one of a plug-in.
#pragma once
#include <string>

#include "mica/backend.h"
#include "mica/mica.h"

namespace mica::conformance {

// NULL where this library has none of the name.
const mica_backend* builtin_backend(const std::string& name);
// `plugin`: a shared object, in the current folder where it names none. Throws std::runtime_error.
const mica_backend* load_plugin(const std::string& plugin);

}  // namespace mica::conformance
