// The limits are those of a row of ops in tests/conformance/judge.cpp: the reference computes with
// the numerics that the device declared, node by node, so that what is left are roundings of sums.
// Where the limits are passed, because such a difference moved what is rounded later by a whole
// step, an element may be off by what small changes of the reference's results make of it. Cells of
// a cache that are at the border of two steps, and stand in both within their own limits, are taken
// from the device first: how far they moved what attention reads is then no difference.
#include "tests/fuzz/graph_judge.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace mica::fuzz {
namespace {

using conformance::NodeNumerics;
using conformance::Role;

constexpr double kElement = 3e-5, kRms = 5e-6;  // of the output's root mean square
constexpr double kShakeElement = 4, kShakeRms = 2;
constexpr double kTiny = 1e-37;
constexpr double kMostBorderCells = 0.02;  // of a cache's cells that may be off by a step
constexpr size_t kMostShakes = 24;

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
      limit += kShakeElement * std::max(spread.element[i], d > limit ? spread.of_row(i, n) : 0);
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
  if (error <= kRms * size + kTiny + kShakeRms * spread.rms) return "";
  return got.name + ": an RMS difference from the reference of " + number(error / size) +
         " of its RMS";
}

bool rounds(const NodeNumerics& numerics) {
  for (const auto& plan : numerics)
    for (const uint32_t n : plan)
      if (n != MICA_NUM_EXACT && n != MICA_NUM_F32 && n != MICA_NUM_F64) return true;
  return false;
}

RunSettings on(uint64_t seed, const std::set<int>& skip, const Device& device, bool unfused) {
  RunSettings s;
  s.seed = seed;
  s.skip = skip;
  s.device = device.name;
  s.backend = device.backend;
  s.unfused = unfused;
  return s;
}

RunResult reference(uint64_t seed, const std::set<int>& skip, const std::string& how,
                    const NodeNumerics& numerics, const Cells* cells = nullptr) {
  RunSettings s = on(seed, skip, {"ref:f64" + how, mica_backend_ref()}, how != ",fused");
  s.role = Role::kOracle;
  s.imposed = numerics;
  s.cells = cells;
  return run(s);
}

// Builds on ref, and leaves out what the builders refuse.
RunResult find_refused(uint64_t seed, std::set<int>& skip, Counts& counts) {
  for (;;) {
    RunSettings s = on(seed, skip, {"ref", mica_backend_ref()}, false);
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

  Verdict of(const std::vector<Device>& devices) {
    Verdict v;
    const std::set<int> asked = skip_;
    const RunResult built = find_refused(seed_, skip_, counts_);
    v.log = built.log;
    if (built.status != MICA_OK) return fail(v, "building", built);
    ++counts_.graphs;
    if (skip_ != asked)
      for (const Device& device : devices) same_refusal(v, device, asked);
    for (const Device& device : devices)
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
  void same_refusal(Verdict& v, const Device& device, const std::set<int>& asked) {
    RunSettings here = on(seed_, asked, device, false);
    RunSettings there = on(seed_, asked, {"ref", mica_backend_ref()}, false);
    here.build_only = there.build_only = true;
    const RunResult a = run(here), b = run(there);
    if (!v.fails() && (a.status != b.status || a.text != b.text))
      v.text = device.name + " says '" + a.text + "' while building, ref says '" + b.text + "'";
  }

  // Fused and unfused references have the same bits.
  bool references(Verdict& v) {
    if (plain_skip_ == skip_ && plain_.stage == RunResult::kDone) return true;
    plain_skip_ = skip_;
    plain_ = reference(seed_, skip_, "", {});
    shakes_ = imposed_ = {};
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

  void compare(Verdict& v, const Device& device) {
    RunResult fused, unfused;
    bool unsupported = false;
    for (;;) {
      fused = run(on(seed_, skip_, device, false));
      if (fused.stage != RunResult::kCompile) break;
      unfused = run(on(seed_, skip_, device, true));
      unsupported = true;
      if (fused.status != MICA_UNSUPPORTED || fused.text.empty() || fused.piece < 0) break;
      if (unfused.status != fused.status) {
        v.text = device.name + ", unfused: " + mica_status_name(unfused.status) +
                 ", fused: " + mica_status_name(fused.status) + ", " + fused.text + unfused.text;
        return;
      }
      unsupported_.push_back(device.name + " cannot run: " + fused.text);
      if (!skip_.insert(fused.piece).second) break;
      // Without it other operands are there, and a later piece may be refused.
      if (find_refused(seed_, skip_, counts_).status != MICA_OK) break;
    }
    counts_.unsupported += unsupported ? 1 : 0;
    if (!references(v) || done(v, device.name + ", fused", fused)) return;
    const RunResult again = run(on(seed_, skip_, device, false));
    if (done(v, device.name + ", the second time", again)) return;
    same_bits(v, device.name + ", the second time", again, fused, "the first run");
    unfused = run(on(seed_, skip_, device, true));
    if (v.fails() || done(v, device.name + ", unfused", unfused)) return;
    near(v, device.name + ", fused", fused);
    if (!v.fails()) near(v, device.name + ", unfused", unfused);
  }

  void near(Verdict& v, const std::string& what, const RunResult& got) {
    const bool plain = !rounds(got.numerics);
    if (!plain && (!rounded_.has || rounded_.numerics != got.numerics || rounded_.skip != skip_))
      rounded_ = {true, got.numerics, skip_, reference(seed_, skip_, "", got.numerics)};
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
    const std::string why = compare_values(g, w, {});
    if (why.empty()) return why;
    if (!std::exchange(is_shaken_, true)) ++counts_.shaken;
    const NodeNumerics numerics = plain ? NodeNumerics{} : got.numerics;
    Cells cells = g.is_cells ? Cells{} : cells_of(got);
    if (cells == cells_of(want)) cells.clear();
    if (cells.empty()) {
      if (!shakes_.are_of(numerics, {})) shakes_ = {numerics, {}, {}};
      return compare_shaken(g, w, i, k, shakes_);
    }
    if (!imposed_.are_of(numerics, cells)) {
      imposed_ = {numerics, std::move(cells), {}};
      imposed_base_ = reference(seed_, skip_, "", numerics, &imposed_.cells);
    }
    if (imposed_base_.stage != RunResult::kDone) return why;
    return compare_shaken(g, imposed_base_.runs[i][k], i, k, imposed_);
  }

  // Runs of the reference whose results were moved a little, with the cells of a device or its own.
  struct Shakes {
    NodeNumerics numerics;
    Cells cells;
    std::vector<RunResult> runs;
    bool are_of(const NodeNumerics& n, const Cells& c) const { return numerics == n && cells == c; }
  };

  std::string compare_shaken(const Seen& g, const Seen& w, size_t i, size_t k, Shakes& shakes) {
    Spread spread;
    for (size_t n = 0;; ++n) {
      const std::string why = compare_values(g, w, spread);
      if (why.empty() || n == kMostShakes) return why;
      if (n == shakes.runs.size())
        shakes.runs.push_back(reference(seed_, skip_, ",shake" + std::to_string(n + 1),
                                        shakes.numerics,
                                        shakes.cells.empty() ? nullptr : &shakes.cells));
      if (shakes.runs[n].stage != RunResult::kDone) return why;
      spread.add(shakes.runs[n].runs[i][k], w);
    }
  }

  static Cells cells_of(const RunResult& r) {
    Cells cells;
    for (const auto& run : r.runs)
      for (const Seen& s : run)
        if (s.is_cells) cells.push_back(s.bytes);
    return cells;
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
  Shakes shakes_, imposed_;
  RunResult imposed_base_;
  bool is_shaken_ = false;
};

}  // namespace

Verdict judge(uint64_t seed, const std::set<int>& skip, const std::vector<Device>& devices,
              Counts& counts) {
  return Judge(seed, skip, counts).of(devices);
}

RunResult built(uint64_t seed, const std::set<int>& skip) {
  Counts none;
  std::set<int> all = skip;
  return find_refused(seed, all, none);
}

}  // namespace mica::fuzz
