// What an op's conformance cases are written in: a case builds a small graph through the public API
// and says what its inputs hold; the runner does the rest (two devices, bounds, determinism).
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "mica/mica.h"

namespace mica::conformance {

// How an input or a weight is filled, from the case's seed.
struct Values {
  enum Kind { kNormal, kUniform, kIntegers, kIota, kList, kBits, kRows } kind = kNormal;
  // Normal: mean, sigma; uniform and integers: [a, b]; iota: start, step; rows: elements of a row.
  double a = 0, b = 1;
  std::vector<double> list;  // repeated: values; of bits each element's; of rows each one's sigma
};
inline Values normal(double sigma = 1, double mean = 0) {
  return {Values::kNormal, mean, sigma, {}};
}
inline Values uniform(double a, double b) { return {Values::kUniform, a, b, {}}; }
inline Values integers(int64_t a, int64_t b) {
  return {Values::kIntegers, static_cast<double>(a), static_cast<double>(b), {}};
}
inline Values iota(double start = 0, double step = 1) { return {Values::kIota, start, step, {}}; }
inline Values list(std::vector<double> values) { return {Values::kList, 0, 0, std::move(values)}; }
// Not what mica_dtype_encode() makes of a value, but the bits of 16- and 32-bit elements, as
// numbers that F32 holds.
inline Values bits(std::vector<double> values) { return {Values::kBits, 0, 0, std::move(values)}; }
// Rows of k normal elements, whose sigmas repeat. By turns huge and tiny for F16, ordinary and
// zeros: what scales rows must do it row by row.
inline Values sized_rows(int64_t k, std::vector<double> sigmas = {1e6, 1, 1e-6, 0, 3e-3}) {
  return {Values::kRows, static_cast<double>(k), static_cast<double>(k), std::move(sigmas)};
}

// One step of a case with a cache: edits, then spans to append. Tokens in all = the live value of
// the extent "n_tokens".
struct Step {
  std::vector<mica_kv_span> spans;
  std::function<mica_status(mica_kv_cache*)> edit;  // before the reserve; may be empty
  bool shift = false;  // no tokens: moved cells are rotated (mica_kv_reserve_shift)
  size_t plan = 0;     // that runs, in the order of the graphs
};

// When the graphs of a case are compiled.
enum class Compiled { kAtOnce, kLater };

// Given to a case's build function; the same function is run once a device.
class CaseBuilder {
 public:
  virtual ~CaseBuilder() = default;
  virtual mica_graph* graph() = 0;
  // Another graph of the session, which graph() is from here on. Weights, the cache and inputs are
  // shared by their names; in each graph an input may have another number of rows. Without a cache
  // the plans run in turn, and the first once more. kLater: it is compiled when its first step
  // comes, behind steps of the plans before it.
  virtual mica_graph* next_graph(Compiled when) = 0;
  // An extent whose value in the step is `live` (<= max); rows beyond it must not matter.
  virtual mica_extent extent(const char* name, int64_t max, int64_t live) = 0;
  // Fresh values each step. Quantized inputs are filled by encoding.
  virtual mica_tensor input(const char* name, mica_dtype dtype, std::vector<int64_t> dim,
                            Values values = normal(), mica_extent extent = {}) = 0;
  virtual mica_tensor weight(const char* name, mica_dtype dtype, std::vector<int64_t> dim,
                             Values values = normal()) = 0;
  // At most one cache a case. `steps` run in order on one session; every step is compared. The
  // extent "n_tokens" is made by the builder with max = params.max_step_tokens, in a later graph
  // also with a smaller one.
  virtual mica_kv_cache* cache(const mica_kv_params& params, std::vector<Step> steps) = 0;
  virtual mica_extent n_tokens(int64_t max = 0) = 0;  // only after cache(); 0: the largest
  // Compared with the oracle. A case may have several.
  virtual void output(mica_tensor tensor) = 0;
  // Of a chain: behind ops that are no part of the region, so with limits as of a whole graph.
  virtual void far_output(mica_tensor tensor) = 0;
  // An input that the graph writes (set_rows): compared too, whole.
  virtual void written(const char* input) = 0;
};

struct Case {
  std::string op;    // name in ops.def; of composites and whole graphs their own
  std::string name;  // unique within op: "q4_0.k576.m7"; lower case, dots
  std::function<void(CaseBuilder&)> build;
  double slack = 1;    // multiplies the bound; a reason stands beside every value but 1
  bool chain = false;  // ops in a row: what one rounds, the next one rounds again (judge.cpp)
  // Sums and what is rounded are exact, whatever the order: the bits must be the reference's, or,
  // behind a function such as silu, within what sums may be off by.
  bool exact = false;
  // An operand in a place where a device may be without a kernel for it: "unsupported" with a
  // reason is as right as the reference's numbers, and wants no line in a list.
  bool may_refuse = false;
  // The device has run the case with other weights before, which are gone: those of the case lie
  // where they lay, if the device asks the host for memory.
  bool other_weights_before = false;
};

class CaseList {
 public:
  void add(std::string op, std::string name, std::function<void(CaseBuilder&)> build,
           double slack = 1) {
    cases.push_back({std::move(op), std::move(name), std::move(build), slack, false});
  }
  std::vector<Case> cases;
};

}  // namespace mica::conformance
