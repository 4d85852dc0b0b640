// The bounds. A kernel declares its numerics (what the factors of its products are rounded to). The
// reference computes in double with the same roundings, so what is left is rounding of sums:
//   |got - want| <= c * 2^-24 * sqrt(n_terms) * sum |term|  +  half a unit of the output's dtype,
// where want is not rounded to that dtype (rounding.h).
// A second bound compares with the exact result: the declared numerics may cost no more than its
// kind does. Finite and not finite never agree.
//
// In a row of ops (a region of fusions, a whole graph) a difference of a sum's last bit may move
// what the next op rounds by a whole step, rarely, and everything behind it. So a row of ops may
// differ from the reference's by what sums differ by, or, where that is not enough, by what becomes
// of such differences: the reference is run again with its results moved a little, in several ways,
// and an element may be off by a few times the farthest that it moved. A kernel that computes
// something else is off where nothing moved.
#include "tests/conformance/judge.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/conformance/guard.h"
#include "tests/conformance/oracle.h"
#include "tests/conformance/rounding.h"

namespace mica::conformance {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr double kC = 4;         // sums in any order, fused or not; functions within a few ulp
constexpr double kTiny = 1e-37;  // denormals may be flushed

const char* numerics_name(uint32_t n) {
  const char* const names[] = {"exact", "f32", "f16", "bf16", "q8_32", "q8_256", "f64", "f16_w"};
  return n < 8 ? names[n] : "unknown numerics";
}

// Root-mean-square error allowed against the exact result, relative to its RMS.
double rms_limit(uint32_t numerics) {
  switch (numerics) {
    case MICA_NUM_F16:
    case MICA_NUM_F16_W:
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

// A row of ops against the reference's with the same numerics, relative to the RMS of the output:
// the largest difference of an element, and the RMS of all. Of sums in F32 alone.
struct ChainLimit {
  double element, rms;
};
constexpr ChainLimit kRegion = {3e-5, 5e-6};
constexpr ChainLimit kWholeGraph = {1e-4, 2e-5};
constexpr double kManyRoundings = 2;  // a row of ops against the exact result: errors add up
// The reference is moved so many ways; from the first of the latter on, activations that lie at the
// border of two steps may go either way too.
constexpr size_t kMostJitters = 16, kFirstOfBorders = 8;
constexpr double kJitterElement = 4, kJitterRms = 2;  // times what the jitter moved

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

// "out0[3, 0, 1]": the element at `i` of the live values.
std::string element(const OutputData& o, size_t i) {
  int rank = 4;
  while (rank > 1 && o.dim[rank - 1] == 1) --rank;
  std::string text = o.name + "[";
  auto rest = static_cast<int64_t>(i);
  for (int k = 0; k < rank; ++k) {
    text += (k > 0 ? ", " : "") + std::to_string(rest % o.dim[k]);
    rest /= o.dim[k];
  }
  return text + "]";
}

// Both not a number, or infinite alike, or equal.
bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Of two values that differ: infinity where one is finite and the other is not.
double distance(double a, double b) {
  if (same(a, b)) return 0;
  return std::isfinite(a) && std::isfinite(b) ? std::fabs(a - b) : INFINITY;
}

double rms_of(const std::vector<double>& values) {
  double squares = 0;
  size_t n = 0;
  for (const double v : values)
    if (std::isfinite(v)) squares += v * v, ++n;
  return n > 0 ? std::sqrt(squares / static_cast<double>(n)) : 0;
}

std::vector<double> distances(const OutputData& a, const OutputData& b) {
  std::vector<double> d(a.values.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = distance(a.values[i], b.values[i]);
  return d;
}
double rms_with_infinity(const std::vector<double>& d) {
  for (const double v : d)
    if (!std::isfinite(v)) return INFINITY;
  return rms_of(d);
}

// A comparison: why it failed ("": it did not), and how near its limits it came.
struct Outcome {
  std::string text;
  double worst = 0;
  void take(double ratio) { worst = std::max(worst, ratio); }
};

Outcome compare_bytes(const OutputData& got, const OutputData& want) {
  for (size_t i = 0; i < got.bytes.size(); ++i)
    if (got.bytes[i] != want.bytes[i])
      return {got.name + ": byte " + std::to_string(i) + " is " + std::to_string(got.bytes[i]) +
                  ", the reference has " + std::to_string(want.bytes[i]),
              INFINITY};
  return {};
}

std::string differs(const OutputData& got, const OutputData& want, size_t i) {
  return element(got, i) + " is " + number(got.values[i]) + ", the reference has " +
         number(want.values[i]);
}

// A single op: each element within its bound, and all of it near the exact result. With `rest`,
// of F16 and BF16, the value is known that both were rounded from; without it each may be half a
// unit off.
Outcome compare_op(const OutputData& got, const OutputData& want, const OutputData& bound,
                   const OutputData& exact, const OutputData* rest, double slack) {
  Outcome out;
  size_t at = 0;
  for (size_t i = 0; i < got.values.size(); ++i) {
    const double w = want.values[i];
    const double sums = slack * kC * kUnit * std::fabs(bound.values[i]) + kTiny;
    double ratio = distance(got.values[i], w) / (sums + 2 * half_ulp(got.dtype) * std::fabs(w));
    if (rest != nullptr && got.dtype != MICA_F32 && std::isfinite(ratio))
      ratio = beyond_rounding(got.dtype, got.values[i], w, rest->values[i], sums);
    if (std::isnan(ratio)) ratio = same(got.values[i], w) ? 0 : INFINITY;
    if (ratio > out.worst) out.worst = ratio, at = i;
  }
  if (out.worst > 1) {
    out.text = differs(got, want, at) + ", " + number(out.worst) + " times the bound (" +
               numerics_name(got.numerics) + ")";
    return out;
  }
  const double size = rms_of(exact.values);
  const double error = rms_with_infinity(distances(got, exact)) / (size > 0 ? size : 1);
  const double limit = slack * (rms_limit(got.numerics) + half_ulp(got.dtype));
  out.take(error / limit);
  if (!(error <= limit))
    out.text = got.name + ": RMS error " + number(error) +
               " against the exact result, the limit is " + number(limit);
  return out;
}

// Cells of a single op hold the same values as the reference's: encoders round alike everywhere.
Outcome compare_cells(const OutputData& got, const OutputData& want) {
  for (size_t i = 0; i < got.values.size(); ++i)
    if (!same(got.values[i], want.values[i])) return {differs(got, want, i), INFINITY};
  return {};
}

// --- Rows of ops
// ----------------------------------------------------------------------------------

// How far the reference moves when the results of its ops are moved a little: of each element the
// farthest of all so far, and the RMS of the farthest of them. Finite against not finite is nothing
// that a device may differ by.
struct Spread {
  std::vector<double> element;
  double rms = 0;
  void add(const OutputData& moved, const OutputData& want) {
    std::vector<double> d = distances(moved, want);
    for (double& v : d)
      if (!std::isfinite(v)) v = 0;
    element.resize(d.size());
    for (size_t i = 0; i < d.size(); ++i) element[i] = std::max(element[i], d[i]);
    rms = std::max(rms, rms_of(d));
  }
};

// What an element may be off by: sums, one step of a cache's dtype, and a few times what it, or its
// row in the root mean square, moved by.
double element_limit(const OutputData& want, const Spread& spread, double base, size_t i) {
  double limit = base;
  if (want.is_cells) limit += want.steps[i] * 1.01;
  if (spread.element.empty()) return limit;
  const auto n = static_cast<size_t>(want.dim[0]);
  const std::vector<double> row(spread.element.begin() + static_cast<int64_t>(i / n * n),
                                spread.element.begin() + static_cast<int64_t>(i / n * n + n));
  return limit + kJitterElement * std::max(spread.element[i], rms_of(row));
}

// Of a cache's cells few may be off by a step: those that lie at the border of two.
constexpr double kMostBorderCells = 0.02;

Outcome compare_chain(const OutputData& got, const OutputData& want, const ChainLimit& limits,
                      const Spread& spread) {
  Outcome out;
  const double size = rms_of(want.values), base = limits.element * size + kTiny;
  const std::vector<double> d = distances(got, want);
  double sum = 0;
  size_t at = 0, n_off = 0, n_moved = 0;
  for (size_t i = 0; i < d.size(); ++i) {
    const double ratio = d[i] == 0 ? 0 : d[i] / element_limit(want, spread, base, i);
    if (ratio > out.worst) out.worst = ratio, at = i;
    sum += d[i] * d[i];
    n_off += d[i] > base ? 1 : 0;
    n_moved += !spread.element.empty() && spread.element[i] > base ? 1 : 0;
  }
  if (out.worst > 1) {
    out.text = differs(got, want, at) + ", " + number(out.worst) + " times the limit";
    return out;
  }
  const auto n = static_cast<double>(std::max<size_t>(d.size(), 1));
  if (got.is_cells) {
    const double most = kMostBorderCells * n + 2 + 2 * static_cast<double>(n_moved);
    out.take(static_cast<double>(n_off) / most);
    if (static_cast<double>(n_off) > most)
      out.text = got.name + ": " + std::to_string(n_off) + " of " + std::to_string(d.size()) +
                 " elements are not the reference's, " + number(most) + " may be";
    return out;
  }
  const double error = std::sqrt(sum / n);
  const double limit = limits.rms * size + kTiny + kJitterRms * spread.rms;
  out.take(error / limit);
  if (!(error <= limit))
    out.text = got.name + ": RMS difference from the reference " + number(error / size) +
               " of its RMS, the limit is " + number(limit / size);
  return out;
}

// The declared numerics of a region cost no more than their kind does.
Outcome compare_exact(const OutputData& got, const OutputData& exact, uint32_t numerics) {
  const double size = rms_of(exact.values);
  const double error = rms_with_infinity(distances(got, exact)) / (size > 0 ? size : 1);
  const double limit = kManyRoundings * rms_limit(numerics) + 2 * half_ulp(got.dtype);
  Outcome out{"", error / limit};
  if (!(error <= limit))
    out.text = got.name + ": RMS error " + number(error) +
               " against the exact result, the limit is " + number(limit) + " (" +
               numerics_name(numerics) + ")";
  return out;
}

// --- Cases
// ----------------------------------------------------------------------------------------

// All nodes in F64.
NodeNumerics exact_of(const NodeNumerics& numerics) {
  NodeNumerics exact = numerics;
  for (std::vector<uint32_t>& plan : exact) std::fill(plan.begin(), plan.end(), MICA_NUM_F64);
  return exact;
}
bool rounds(const NodeNumerics& numerics) {
  for (const std::vector<uint32_t>& plan : numerics)
    for (const uint32_t n : plan)
      if (n != MICA_NUM_EXACT && n != MICA_NUM_F32 && n != MICA_NUM_F64) return true;
  return false;
}
// The coarsest of all nodes: what the region's error against the exact result may be like.
uint32_t coarsest(const NodeNumerics& numerics) {
  uint32_t most = MICA_NUM_F32;
  for (const std::vector<uint32_t>& plan : numerics)
    for (const uint32_t n : plan)
      if (rms_limit(n) > rms_limit(most)) most = n;
  return most;
}

struct Judged {
  const Case& c;
  const RunOptions& options;
  const RunResult& got;
  const RunResult &want, &exact;
  const RunResult* bound;  // of single ops
  const RunResult* rest;   // of those with results of F16 and BF16
  std::vector<const RunResult*> jitters;

  bool whole() const { return c.op == "graph"; }
  bool row_of_ops() const { return c.chain || whole(); }

  // Another jitter of the reference; false: there are enough, or it failed.
  bool more_jitter() {
    if (jitters.size() == kMostJitters) return false;
    const char* const kind = jitters.size() < kFirstOfBorders ? "f64,jitter" : "f64,border";
    const std::string how = kind + std::to_string(jitters.size() + 1);
    jitters.push_back(&oracle(c, options, how, got.numerics));
    return jitters.back()->status == MICA_OK;
  }

  Outcome compare(size_t s, size_t i) {
    const OutputData &g = got.steps[s][i], &w = want.steps[s][i], &e = exact.steps[s][i];
    if (g.values.size() != w.values.size())
      return {g.name + " has " + std::to_string(g.values.size()) + " values, the reference " +
                  std::to_string(w.values.size()),
              INFINITY};
    if (g.is_written_input || (!g.is_cells && !is_float(g.dtype))) return compare_bytes(g, w);
    if (c.exact && c.op != "norm_glu")
      return g.is_cells ? compare_cells(g, w) : compare_bytes(g, w);
    if (!row_of_ops()) {
      if (g.is_cells) return compare_cells(g, w);
      if (g.numerics == MICA_NUM_EXACT) return compare_bytes(g, w);
      return compare_op(g, w, bound->steps[s][i], e, rest == nullptr ? nullptr : &rest->steps[s][i],
                        c.slack);
    }
    Outcome out = compare_row_of_ops(g, w, s, i);
    if (!out.text.empty() || c.exact || whole() || g.is_far || g.is_cells) return out;
    const Outcome second = compare_exact(g, e, coarsest(got.numerics));
    out.take(second.worst);
    out.text = second.text;
    return out;
  }

  Outcome compare_row_of_ops(const OutputData& g, const OutputData& w, size_t s, size_t i) {
    const ChainLimit& limits = whole() || g.is_far ? kWholeGraph : kRegion;
    Spread spread;
    size_t n = 0;
    for (;;) {
      Outcome out = compare_chain(g, w, limits, spread);
      if (out.text.empty()) return out;
      if (c.exact || (n == jitters.size() && !more_jitter())) return out;
      spread.add(jitters[n++]->steps[s][i], w);
    }
  }
};

bool same_bits(const std::vector<OutputData>& a, const std::vector<OutputData>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].bytes != b[i].bytes || a[i].values.size() != b[i].values.size()) return false;
    for (size_t k = 0; k < a[i].values.size(); ++k)
      if (!same(a[i].values[k], b[i].values[k])) return false;
  }
  return true;
}

// What is wrong if the same was run in another session, the other step before instead of behind.
std::string difference(const RunResult& a, const RunResult& b) {
  for (size_t s = 0; s < a.steps.size(); ++s)
    if (s >= b.steps.size() || !same_bits(a.steps[s], b.steps[s]))
      return "a second run, after a step with other inputs and with large dead rows, differs";
  return same_bits(a.other, b.other) ? ""
                                     : "a step with other inputs differs after the case's steps";
}

bool has_narrow_results(const RunResult& r) {
  for (const std::vector<OutputData>& step : r.steps)
    for (const OutputData& o : step)
      if (o.dtype == MICA_F16 || o.dtype == MICA_BF16) return true;
  return false;
}

Verdict fail(std::string text) { return {Verdict::kFail, std::move(text)}; }

}  // namespace

Verdict judge(const Case& c, const RunOptions& options) {
  RunOptions order = options;
  order.other = RunOptions::kAfter;
  const RunResult got = run_case(c, order);
  if (got.unsupported) return {Verdict::kUnsupported, got.text};
  if (got.status != MICA_OK) return fail(got.text);
  if (!got.changed.empty()) return fail(got.changed);
  order.other = RunOptions::kBefore;
  order.n_timed = 0;
  order.large_dead_rows = true;
  const RunResult again = run_case(c, order);
  if (again.status != MICA_OK) return fail("a second run failed: " + again.text);
  if (!again.changed.empty()) return fail(again.changed);
  if (const std::string text = difference(got, again); !text.empty()) return fail(text);
  const RunResult& want = oracle(c, options, "", got.numerics);
  Judged judged{c,
                options,
                got,
                want,
                rounds(got.numerics) ? oracle(c, options, "", exact_of(got.numerics)) : want,
                nullptr,
                nullptr,
                {}};
  if (!judged.row_of_ops()) judged.bound = &oracle(c, options, "f64,bound", got.numerics);
  // Where two results are rounded, one behind the other, slack stands for that.
  if (!judged.row_of_ops() && c.slack == 1 && has_narrow_results(got))
    judged.rest = &oracle(c, options, "f64,rest", got.numerics);
  for (const RunResult* r : {&judged.want, &judged.exact, judged.bound, judged.rest})
    if (r != nullptr && r->status != MICA_OK) return fail("the reference failed: " + r->text);
  Verdict verdict;
  for (size_t s = 0; s < got.steps.size(); ++s)
    for (size_t i = 0; i < got.steps[s].size(); ++i) {
      const Outcome out = judged.compare(s, i);
      verdict.worst = std::max(verdict.worst, out.worst);
      if (!out.text.empty())
        return fail((got.steps.size() > 1 ? "step " + std::to_string(s) + ": " : "") + out.text);
    }
  if (!got.seconds.empty()) {
    std::vector<double> t = got.seconds;
    std::sort(t.begin(), t.end());
    verdict.seconds = t[t.size() / 2];
  }
  return verdict;
}

}  // namespace mica::conformance
