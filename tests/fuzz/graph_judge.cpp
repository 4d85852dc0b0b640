// The limits are those of a row of ops in tests/conformance/judge.cpp: the reference computes with
// the numerics that the device declared, node by node, so that what is left are roundings of sums.
// Where the limits are passed, because such a difference moved what is rounded later by a whole
// step, an element may be off by what small changes of the reference's results make of it.
#include "tests/fuzz/graph_judge.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace mica::fuzz {
namespace {

using conformance::NodeNumerics;
using conformance::Role;

constexpr double kElement = 3e-5, kRms = 5e-6;  // of the output's root mean square
constexpr double kJitterElement = 4, kJitterRms = 2;
constexpr double kTiny = 1e-37;
constexpr double kMostBorderCells = 0.02;  // of a cache's cells that may be off by a step
constexpr size_t kMostJitters = 24;

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }
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

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", v);
  return text;
}

std::string element(const Seen& s, size_t i) {
  std::string text = s.name + "[";
  auto rest = static_cast<int64_t>(i);
  for (int k = 0; k < 4; ++k) {
    text += (k > 0 ? ", " : "") + std::to_string(rest % s.dim[k]);
    rest /= s.dim[k];
  }
  return text + "]";
}
std::string differs(const Seen& got, const Seen& want, size_t i, const char* other) {
  return element(got, i) + " of " + mica_dtype_get(got.dtype)->name + " " +
         text_of(Dims(got.dim, got.dim + 4)) + " is " + number(got.values[i]) + ", " + other +
         " has " + number(want.values[i]);
}

std::string compare_bits(const Seen& got, const Seen& want, const char* other) {
  if (got.values.size() != want.values.size()) return got.name + ": another number of values";
  for (size_t i = 0; i < got.values.size(); ++i)
    if (!same(got.values[i], want.values[i])) return differs(got, want, i, other);
  return "";
}

// How far the reference's values moved: each element's farthest, and the largest RMS of all.
struct Spread {
  std::vector<double> element;
  double rms = 0;
  void add(const Seen& moved, const Seen& want) {
    element.resize(want.values.size());
    double squares = 0;
    for (size_t i = 0; i < element.size(); ++i) {
      const double d = distance(moved.values[i], want.values[i]);
      element[i] = std::max(element[i], d);
      squares += d * d;
    }
    rms = std::max(rms,
                   std::sqrt(squares / static_cast<double>(std::max<size_t>(1, element.size()))));
  }
  double of_row(size_t i, size_t n) const {
    double squares = 0;
    for (size_t k = i / n * n; k < i / n * n + n; ++k) squares += element[k] * element[k];
    return std::sqrt(squares / static_cast<double>(n));
  }
};

std::string compare_values(const Seen& got, const Seen& want, const Spread& spread) {
  if (got.values.size() != want.values.size()) return got.name + ": another number of values";
  const double size = rms_of(want.values), base = kElement * size + kTiny;
  const auto n = static_cast<size_t>(want.dim[0]);
  double worst = 1, squares = 0;
  size_t at = 0, n_off = 0, n_moved = 0;
  for (size_t i = 0; i < got.values.size(); ++i) {
    const double d = distance(got.values[i], want.values[i]);
    squares += d * d;
    double limit = base + (want.is_cells ? 1.01 * want.steps[i] : 0);
    if (!spread.element.empty()) {
      limit += kJitterElement * std::max(spread.element[i], d > limit ? spread.of_row(i, n) : 0);
      n_moved += spread.element[i] > base ? 1 : 0;
    }
    n_off += d > base ? 1 : 0;
    if (d > 0 && !(d / limit <= worst)) worst = d / limit, at = i;
  }
  if (worst > 1)
    return differs(got, want, at, "the reference") + ", " + number(worst) + " times the limit";
  const auto all = static_cast<double>(std::max<size_t>(got.values.size(), 1));
  if (want.is_cells) {
    const double most = kMostBorderCells * all + 2 + 2 * static_cast<double>(n_moved);
    if (static_cast<double>(n_off) <= most) return "";
    return got.name + ": " + std::to_string(n_off) + " elements are not the reference's";
  }
  const double error = std::sqrt(squares / all);
  if (error <= kRms * size + kTiny + kJitterRms * spread.rms) return "";
  return got.name + ": an RMS difference from the reference of " + number(error / size) +
         " of its RMS";
}

bool rounds(const NodeNumerics& numerics) {
  for (const auto& plan : numerics)
    for (const uint32_t n : plan)
      if (n != MICA_NUM_EXACT && n != MICA_NUM_F32 && n != MICA_NUM_F64) return true;
  return false;
}

const mica_backend* backend_of(const std::string& device) {
  const std::string name = device.substr(0, device.find(':'));
  if (name == "ref") return mica_backend_ref();
  if (name == "cuda") return mica_backend_cuda();
  if (name == "vulkan") return mica_backend_vulkan();
  return mica_backend_cpu();
}

RunSettings on(uint64_t seed, const std::set<int>& skip, const std::string& device, bool unfused) {
  RunSettings s;
  s.seed = seed;
  s.skip = skip;
  s.device = device;
  s.backend = backend_of(device);
  s.unfused = unfused;
  return s;
}

RunResult reference(uint64_t seed, const std::set<int>& skip, const std::string& how,
                    const NodeNumerics& numerics) {
  RunSettings s = on(seed, skip, "ref:f64" + how, how.empty());
  s.role = Role::kOracle;
  s.imposed = numerics;
  return run(s);
}

// Builds on ref, and leaves out what the builders refuse.
RunResult find_refused(uint64_t seed, std::set<int>& skip, Counts& counts) {
  for (;;) {
    RunSettings s = on(seed, skip, "ref", false);
    s.build_only = true;
    RunResult r = run(s);
    if (r.stage != RunResult::kBuild || r.status == MICA_OK || r.piece < 0) return r;
    if (!skip.insert(r.piece).second) return r;
    ++counts.refused;
  }
}

class Judge {
 public:
  Judge(uint64_t seed, std::set<int> skip, Counts& counts)
      : seed_(seed), skip_(std::move(skip)), counts_(counts) {}

  Verdict of(const std::vector<std::string>& devices) {
    Verdict v;
    const std::set<int> asked = skip_;
    const RunResult built = find_refused(seed_, skip_, counts_);
    v.log = built.log;
    if (built.status != MICA_OK) return fail(v, "building", built);
    ++counts_.graphs;
    if (skip_ != asked)
      for (const std::string& device : devices) same_refusal(v, device, asked);
    for (const std::string& device : devices)
      if (!v.fails()) compare(v, device);
    v.log.insert(v.log.end(), unsupported_.begin(), unsupported_.end());
    return v;
  }

 private:
  static Verdict fail(Verdict& v, const std::string& what, const RunResult& r) {
    v.text = what + ": " + mica_status_name(r.status) + ", " + r.text;
    if (!r.log.empty()) v.log = r.log;
    return v;
  }

  // What a builder refuses is refused with the same sentence on every device.
  void same_refusal(Verdict& v, const std::string& device, const std::set<int>& asked) {
    RunSettings here = on(seed_, asked, device, false), there = on(seed_, asked, "ref", false);
    here.build_only = there.build_only = true;
    const RunResult a = run(here), b = run(there);
    if (!v.fails() && (a.status != b.status || a.text != b.text))
      v.text = device + " says '" + a.text + "' while building, ref says '" + b.text + "'";
  }

  // Fused and unfused references have the same bits.
  bool references(Verdict& v) {
    if (plain_skip_ == skip_ && plain_.stage == RunResult::kDone) return true;
    plain_skip_ = skip_;
    plain_ = reference(seed_, skip_, "", {});
    jitters_.clear();
    v.log = plain_.log;
    if (done(v, "ref, unfused", plain_)) return false;
    const RunResult fused = reference(seed_, skip_, ",fused", {});
    if (done(v, "ref, fused", fused)) return false;
    same_bits(v, "ref, fused", fused, plain_, "ref, unfused,");
    bool finite = true;
    for (const auto& r : plain_.runs)
      for (const Seen& s : r) {
        counts_.values += s.values.size();
        for (const double x : s.values) finite = finite && std::isfinite(x);
      }
    counts_.runs += plain_.runs.size();
    counts_.infinite += finite ? 0 : 1;
    return !v.fails();
  }

  static bool done(Verdict& v, const std::string& what, const RunResult& r) {
    if (r.stage != RunResult::kDone || r.status != MICA_OK)
      fail(v, what, r);
    else if (!r.complaint.empty())
      v.text = what + ": " + r.complaint;
    return v.fails();
  }

  static void same_bits(Verdict& v, const std::string& what, const RunResult& a, const RunResult& b,
                        const char* other) {
    if (a.events != b.events) v.text = what + ": the cache answers otherwise";
    for (size_t i = 0; i < a.runs.size() && !v.fails(); ++i)
      for (size_t k = 0; k < a.runs[i].size() && !v.fails(); ++k) {
        const std::string why = compare_bits(a.runs[i][k], b.runs[i][k], other);
        if (!why.empty()) v.text = what + ", " + b.labels[i] + ": " + why;
      }
  }

  void compare(Verdict& v, const std::string& device) {
    RunResult fused, unfused;
    bool unsupported = false;
    for (;;) {
      fused = run(on(seed_, skip_, device, false));
      if (fused.stage != RunResult::kCompile) break;
      unfused = run(on(seed_, skip_, device, true));
      unsupported = true;
      if (fused.status != MICA_UNSUPPORTED || fused.text.empty() || fused.piece < 0) break;
      if (unfused.status != fused.status) {
        v.text = device + ", unfused: " + mica_status_name(unfused.status) +
                 ", fused: " + mica_status_name(fused.status) + ", " + fused.text + unfused.text;
        return;
      }
      unsupported_.push_back(device + " cannot run: " + fused.text);
      if (!skip_.insert(fused.piece).second) break;
      // Without it other operands are there, and a later piece may be refused.
      if (find_refused(seed_, skip_, counts_).status != MICA_OK) break;
    }
    counts_.unsupported += unsupported ? 1 : 0;
    if (!references(v) || done(v, device + ", fused", fused)) return;
    const RunResult again = run(on(seed_, skip_, device, false));
    if (done(v, device + ", the second time", again)) return;
    same_bits(v, device + ", the second time", again, fused, "the first run");
    unfused = run(on(seed_, skip_, device, true));
    if (v.fails() || done(v, device + ", unfused", unfused)) return;
    near(v, device + ", fused", fused);
    if (!v.fails()) near(v, device + ", unfused", unfused);
  }

  void near(Verdict& v, const std::string& what, const RunResult& got) {
    const bool plain = !rounds(got.numerics);
    if (!plain && (!rounded_.has || rounded_.numerics != got.numerics || rounded_.skip != skip_))
      rounded_ = {true, got.numerics, skip_, reference(seed_, skip_, "", got.numerics)},
      jitters_.clear();
    if (plain != jitters_plain_) jitters_.clear(), jitters_plain_ = plain;
    const RunResult& want = plain ? plain_ : rounded_.result;
    if (done(v, "ref with the numerics of " + what, want)) return;
    if (got.events != want.events || got.runs.size() != want.runs.size()) {
      v.text = what + ": the cache answers otherwise";
      return;
    }
    for (size_t i = 0; i < got.runs.size(); ++i)
      for (size_t k = 0; k < got.runs[i].size(); ++k) {
        const std::string why = compare_seen(got, want, i, k, plain);
        if (why.empty()) continue;
        v.text = what + ", " + got.labels[i] + ": " + why;
        return;
      }
  }

  std::string compare_seen(const RunResult& got, const RunResult& want, size_t i, size_t k,
                           bool plain) {
    const Seen &g = got.runs[i][k], &w = want.runs[i][k];
    const bool integers = g.dtype == MICA_I32 || g.dtype == MICA_I64;
    if (g.exact || integers) return compare_bits(g, w, "the reference");
    Spread spread;
    for (size_t n = 0;; ++n) {
      const std::string why = compare_values(g, w, spread);
      if (why.empty() || n == kMostJitters) return why;
      if (n == jitters_.size()) {
        counts_.jittered += n == 0 ? 1 : 0;
        jitters_.push_back(reference(seed_, skip_, ",shake" + std::to_string(n + 1),
                                     plain ? NodeNumerics{} : got.numerics));
      }
      if (jitters_[n].stage != RunResult::kDone) return why;
      spread.add(jitters_[n].runs[i][k], w);
    }
  }

  uint64_t seed_;
  std::set<int> skip_, plain_skip_;
  Counts& counts_;
  std::vector<std::string> unsupported_;
  RunResult plain_;
  struct {
    bool has = false;
    NodeNumerics numerics;
    std::set<int> skip;
    RunResult result;
  } rounded_;
  std::vector<RunResult> jitters_;
  bool jitters_plain_ = true;
};

}  // namespace

Verdict judge(uint64_t seed, const std::set<int>& skip, const std::vector<std::string>& devices,
              Counts& counts) {
  return Judge(seed, skip, counts).of(devices);
}

RunResult built(uint64_t seed, const std::set<int>& skip) {
  Counts none;
  std::set<int> all = skip;
  return find_refused(seed, all, none);
}

}  // namespace mica::fuzz
