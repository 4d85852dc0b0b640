// The reference's results of one case, computed once and shared by every device, variant and run
// that are compared with them: reference arithmetic is most of the suite's time.
#pragma once
#include <string>

#include "tests/conformance/instance.h"

namespace mica::conformance {

// `how`: options of ref's, "", "f64,bound", "f64,jitter1". `numerics`: what the nodes are computed
// with. Results are kept for one case and one seed; of `options` only the seed matters. The answer
// is valid until a call for another case or seed.
const RunResult& oracle(const Case& c, const RunOptions& options, const std::string& how,
                        const NodeNumerics& numerics);

}  // namespace mica::conformance
