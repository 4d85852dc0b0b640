#include "tests/conformance/rounding.h"

#include <algorithm>
#include <cmath>

#include "ops/common.h"

namespace mica::conformance {
namespace {

// `rest` itself is rounded to the dtype.
constexpr double kRestError = 0x1p-8;

bool is_power_of_two(double v) {
  int exponent = 0;
  return std::fabs(std::frexp(v, &exponent)) == 0.5;
}

}  // namespace

double beyond_rounding(mica_dtype dtype, double got, double want, double rest, double sums) {
  double step = step_at(dtype, want);
  // Below a power of two steps are half as large; but not below the least normal number.
  const bool from_below = is_power_of_two(want) && rest * want < 0;
  if (from_below) step = step_at(dtype, std::nextafter(want, 0));
  const double half = 0.5 * std::max(step, step_at(dtype, got));
  const double allowed = sums + kRestError * step;
  // At the middle of two numbers either of them may have been meant.
  const bool middle = std::fabs(rest) > 0.5 - kRestError;
  const double off =
      middle ? std::fabs(got - want) - 2 * half : std::fabs(got - want - rest * step) - half;
  return std::max(0.0, off) / allowed;
}

}  // namespace mica::conformance
