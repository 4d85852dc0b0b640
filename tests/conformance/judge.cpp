// The bounds. A kernel declares its numerics (what its products are rounded to). The reference
// computes in double with the same rounding of activations, so what is left is rounding of sums:
//   |got - want| <= c * 2^-24 * sqrt(n_terms) * sum |term|  +  half a unit of the output's dtype.
// A dropped block of 32 terms or a 2 % error of one scale is far outside. A second bound compares
// with the exact result: the declared numerics may cost no more than its kind does.
//
// A chain of ops (a region of fusions) is compared with the same chain on the reference, which
// rounds as its matmuls do. Between two ops a difference of one ulp may move what the next one
// rounds by a whole step, rarely: so single elements may differ by a step's effect, and all
// together (RMS) by far less than a scale error of 1 % or a lost term of a row would make them.
#include "tests/conformance/judge.h"

#include <algorithm>
#include <cmath>

#include "tests/conformance/guard.h"

namespace mica::conformance {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr double kC = 4;         // sums in any order, fused or not; functions within a few ulp
constexpr double kWhole = 10;    // ops in a row of a whole graph
constexpr double kTiny = 1e-37;  // denormals may be flushed

const char* numerics_name(uint32_t n) {
  const char* const names[] = {"f64", "f32", "f16", "bf16", "q8_32", "q8_256", "f64"};
  return n < 7 ? names[n] : "f64";
}

// Root-mean-square error allowed against the exact result, relative to its RMS.
double rms_limit(uint32_t numerics) {
  switch (numerics) {
    case MICA_NUM_F16:
      return 1e-3;
    case MICA_NUM_BF16:
      return 8e-3;
    case MICA_NUM_Q8_32:
      return 1e-2;
    case MICA_NUM_Q8_256:
      return 1.5e-2;
    default:
      return 1e-5;
  }
}

// Of a chain against the reference's, relative to its RMS: a step's effect on an element, and on
// all.
struct ChainLimit {
  double element, rms;
};
ChainLimit chain_limit(uint32_t numerics, bool gated) {
  switch (numerics) {
    case MICA_NUM_F16:
      // Quantized weights may be rounded too (ops/matmul), off by 2^-12.2 in the mean square, which
      // the reference's chain does not do. A product of two such values is off by 2^-11.7, and
      // large values meet: up to 4.2e-3 of the RMS in 1e5 products of sums of 256 normal values.
      return gated ? ChainLimit{5e-3, 3.5e-4} : ChainLimit{2e-3, 2.5e-4};
    case MICA_NUM_BF16:
      return {8e-3, 8e-4};
    case MICA_NUM_Q8_32:
    case MICA_NUM_Q8_256:
      return {3e-2, 3e-3};
    default:
      return {3e-5, 5e-6};
  }
}
// The RMS of few errors scatters: three standard deviations of one of `n` normal errors are
// 3 / sqrt(2 n), and twice that if they are products of two (whose fourth moment is 9, not 3).
double scatter(size_t n, bool gated) {
  return 1 + (gated ? 4.2 : 2.1) / std::sqrt(static_cast<double>(n));
}
constexpr double kFar = 2;  // on the way to a far output errors of several ops add up

double half_ulp(mica_dtype dtype) {
  switch (dtype) {
    case MICA_F16:
      return 0x1p-11;
    case MICA_BF16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

bool is_float(mica_dtype d) { return d == MICA_F32 || d == MICA_F16 || d == MICA_BF16; }

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}

struct Compared {
  double worst = 0;
  size_t at = 0;
};

Compared compare_elements(const OutputData& got, const OutputData& want, const OutputData& bound,
                          double slack) {
  Compared result;
  for (size_t i = 0; i < got.values.size(); ++i) {
    const double g = got.values[i], w = want.values[i];
    if (std::isnan(g) && std::isnan(w)) continue;
    if (g == w) continue;
    const double limit = slack * kC * kUnit * std::fabs(bound.values[i]) +
                         2 * half_ulp(got.dtype) * std::fabs(w) + kTiny;
    double ratio = std::fabs(g - w) / limit;
    if (std::isnan(ratio) || std::isinf(g) != std::isinf(w)) ratio = INFINITY;
    if (ratio > result.worst) result = {ratio, i};
  }
  return result;
}

double rms_error(const OutputData& got, const OutputData& exact) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.values.size(); ++i) {
    const double e = exact.values[i];
    if (!std::isfinite(e) || !std::isfinite(got.values[i])) continue;
    error += (got.values[i] - e) * (got.values[i] - e);
    size += e * e;
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

RunResult oracle(const Case& c, const RunOptions& options, const std::string& device) {
  RunOptions o = options;
  o.backend = mica_backend_ref();
  o.device = device;
  o.variant.clear();
  o.n_timed = 0;
  return run_case(c, o);
}

Verdict fail(std::string text) { return {Verdict::kFail, std::move(text)}; }

std::string compare_output(const OutputData& got, const OutputData& want, const OutputData& bound,
                           const OutputData& exact, double slack, bool whole, double& worst) {
  // A whole graph is as exact as its coarsest storage; the naive kernels' F32 changes nothing
  // there.
  const uint32_t numerics = whole && slack > 1 ? uint32_t{MICA_NUM_Q8_32} : got.numerics;
  if (got.is_written_input || !is_float(got.dtype) || got.numerics == MICA_NUM_EXACT) {
    for (size_t i = 0; i < got.bytes.size(); ++i)
      if (got.bytes[i] != want.bytes[i])
        return got.name + ": byte " + std::to_string(i) + " differs from the reference's";
    return "";
  }
  const Compared r = whole ? Compared{} : compare_elements(got, want, bound, slack);
  worst = std::max(worst, r.worst);
  if (r.worst > 1)
    return got.name + "[" + std::to_string(r.at) + "] is " + number(got.values[r.at]) +
           ", the reference has " + number(want.values[r.at]) + ", " + number(r.worst) +
           " times the bound (" + numerics_name(got.numerics) + ")";
  const double rms = rms_error(got, exact);
  // In a whole graph roundings of many ops add up.
  const double limit = slack * (whole ? kWhole : 1) * (rms_limit(numerics) + half_ulp(got.dtype));
  worst = std::max(worst, rms / limit);
  if (!(rms <= limit))
    return got.name + ": RMS error " + number(rms) + " against the exact result, the limit is " +
           number(limit);
  return "";
}

double rms_of(const OutputData& o) {
  double size = 0;
  for (const double v : o.values) size += v * v;
  return o.values.empty() ? 0 : std::sqrt(size / static_cast<double>(o.values.size()));
}

std::string compare_chain(const OutputData& got, const OutputData& want, const OutputData& exact,
                          const Case& c, uint32_t numerics, double& worst) {
  const auto verdict = [&](const char* what, double error, double limit) {
    worst = std::max(worst, error / limit);
    return error <= limit ? std::string()
                          : got.name + ": " + what + " " + number(error) + ", the limit is " +
                                number(limit) + " (" + numerics_name(numerics) + ")";
  };
  const double far =
      std::max(kFar * rms_limit(numerics) + 2 * half_ulp(got.dtype), got.is_far ? c.far_limit : 0);
  std::string text = verdict("RMS error against the exact result", rms_error(got, exact), far);
  if (!text.empty() || got.is_far) return text;
  const ChainLimit limit = chain_limit(numerics, c.gated);
  const double size = rms_of(want);
  double largest = 0;
  for (size_t i = 0; i < got.values.size(); ++i)
    largest =
        std::max(largest, std::isfinite(got.values[i]) ? std::fabs(got.values[i] - want.values[i])
                                                       : INFINITY);
  text = verdict("largest difference from the reference's chain", largest, limit.element * size);
  return text.empty() ? verdict("RMS difference from the reference's chain", rms_error(got, want),
                                limit.rms * scatter(got.values.size(), c.gated))
                      : text;
}

bool same_bits(const RunResult& a, const RunResult& b) {
  for (size_t s = 0; s < a.steps.size(); ++s)
    for (size_t i = 0; i < a.steps[s].size(); ++i)
      if (a.steps[s][i].bytes != b.steps[s][i].bytes) return false;
  return a.steps.size() == b.steps.size();
}

}  // namespace

bool planned_alike(const Case& c, const RunOptions& options) {
  RunOptions other = options;
  other.plan_only = true;
  const RunResult here = run_case(c, other);
  other.variant.clear();
  other.unfused = false;
  const RunResult plain = run_case(c, other);
  return here.status == plain.status && here.explain == plain.explain;
}

Verdict judge(const Case& c, const RunOptions& options) {
  (void)matmul_numerics();
  const RunResult got = run_case(c, options);
  if (got.unsupported) return {Verdict::kUnsupported, got.text};
  if (got.status != MICA_OK) return fail(got.text);
  if (got.inputs_changed) return fail("an input was changed");
  const RunResult again = run_case(c, options);
  if (again.status != MICA_OK || !same_bits(got, again)) return fail("a second run differs");
  uint32_t numerics = MICA_NUM_EXACT;
  for (const OutputData& o : got.steps.front())
    if (o.numerics != MICA_NUM_EXACT) numerics = o.numerics;
  if (c.chain) numerics = matmul_numerics();
  const std::string device = std::string("ref:") + numerics_name(numerics);
  const RunResult want = oracle(c, options, device);
  const RunResult bound = oracle(c, options, device + ",bound");
  const RunResult exact = oracle(c, options, "ref");
  for (const RunResult* r : {&want, &bound, &exact})
    if (r->status != MICA_OK) return fail("the reference failed: " + r->text);
  Verdict verdict;
  for (size_t s = 0; s < got.steps.size(); ++s)
    for (size_t i = 0; i < got.steps[s].size(); ++i) {
      const OutputData &g = got.steps[s][i], &w = want.steps[s][i], &e = exact.steps[s][i];
      const std::string text = c.chain ? compare_chain(g, w, e, c, numerics, verdict.worst)
                                       : compare_output(g, w, bound.steps[s][i], e, c.slack,
                                                        c.op == "graph", verdict.worst);
      if (!text.empty())
        return fail((got.steps.size() > 1 ? "step " + std::to_string(s) + ": " : "") + text);
    }
  if (!got.seconds.empty()) {
    std::vector<double> t = got.seconds;
    std::sort(t.begin(), t.end());
    verdict.seconds = t[t.size() / 2];
  }
  return verdict;
}

}  // namespace mica::conformance
