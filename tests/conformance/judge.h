// Compares a device with the oracle: a bound per element, and a bound on the whole.
#pragma once
#include <functional>
#include <string>

#include "mica/backend.h"
#include "tests/conformance/instance.h"

namespace mica::conformance {

struct Verdict {
  enum Kind { kPass, kFail, kUnsupported } kind = kPass;
  std::string text;    // why it failed, or the device's reason for "unsupported"
  double worst = 0;    // largest error / bound over all elements
  double seconds = 0;  // median of --perf
};

// `options` names the device under test. Runs the case there twice and on the oracle.
Verdict judge(const Case& c, const RunOptions& options);

}  // namespace mica::conformance
