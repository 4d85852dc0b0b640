// Results of F16 and BF16 against the value that they were rounded from.
#pragma once
#include "mica/mica.h"

namespace mica::conformance {

// `want` is the reference's result and `rest` what rounding took from it, in steps of the dtype
// (ref's ",rest"). How far `got` lies beyond a nearest rounding of that value, as a part of what
// sums may be off by.
double beyond_rounding(mica_dtype dtype, double got, double want, double rest, double sums);

}  // namespace mica::conformance
