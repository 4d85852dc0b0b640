// What the leaves of a case hold.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tests/conformance/case.h"

namespace mica::conformance {

// Of a weight in step 0, of an input from step 1 on: the same bytes for the same name, seed and
// step. Empty where the dtype cannot hold them.
std::vector<unsigned char> leaf_bytes(const std::string& name, mica_dtype dtype,
                                      const std::vector<int64_t>& dim, const Values& values,
                                      uint64_t seed, uint64_t step);

}  // namespace mica::conformance
