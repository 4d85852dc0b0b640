// sample: a token of each row of logits, by temperature, top-k, top-p, min-p and a counter-based
// random number.
#include "ops/sample.h"

#ifndef MICA_CASES
#include <algorithm>
#include <cmath>

#include "ops/common.h"
#include "ops/philox.h"

namespace mica {
namespace {

enum Input : uint32_t { kLogits, kParams, kKeys, kInputs };

mica_status check_four(const InferCall& call, const char* name, const Desc& x, mica_dtype dtype) {
  const Desc& logits = call.in[kLogits];
  if (x.dtype != dtype || x.rank > 2 || x.dim[0] != 4 || x.dim[1] != logits.dim[1] ||
      x.extent != logits.extent || !x.contiguous())
    return call.error.fail(MICA_INVALID_ARGUMENT, name, " are ", dtype_name(x.dtype), " ",
                           shape_text(x).text, ", not ", dtype_name(dtype), " [4, ", logits.dim[1],
                           "], packed, with the extent of logits");
  return MICA_OK;
}

mica_status infer(const InferCall& call) {
  const Desc& logits = call.in[kLogits];
  if (logits.dtype != MICA_F32 || logits.rank != 2 || logits.dim[0] > INT32_MAX)
    return call.error.fail(MICA_INVALID_ARGUMENT, "logits are ", dtype_name(logits.dtype), " ",
                           shape_text(logits).text, ", not f32 [n_vocab, n_rows]");
  MICA_TRY(need_contiguous_rows(call, "logits", logits));
  MICA_TRY(check_four(call, "params", call.in[kParams], MICA_F32));
  MICA_TRY(check_four(call, "keys", call.in[kKeys], MICA_I32));
  return pack_output(call, MICA_I32, 1, logits.dim + 1, logits.extent);
}

struct Candidate {
  double logit;
  int32_t id;
};

double uniform(const HostTensor& keys, int64_t i_row) {
  const auto word = [&](int64_t i) { return static_cast<uint32_t>(keys.int_at(i, i_row)); };
  const mica_philox_bits counter = {word(3), word(2), 0, 0};
  const mica_philox_bits bits = mica_philox4x32_10(counter, word(0), word(1));
  return (bits.x + 0.5) / 4294967296.0;
}

// Steps 2 to 4 of the rule: how many of the ordered candidates stay.
size_t filter(const Candidate* c, size_t n, double top_k, double top_p, double min_p) {
  if (top_k >= 1 && std::floor(top_k) < static_cast<double>(n)) n = static_cast<size_t>(top_k);
  const auto e = [&](size_t i) { return std::exp(c[i].logit - c[0].logit); };
  if (top_p < 1) {
    double all = 0;
    for (size_t i = 0; i < n; ++i) all += e(i);
    double sum = e(0);
    size_t kept = 1;
    while (kept < n && sum < top_p * all) sum += e(kept++);
    n = kept;
  }
  if (min_p > 0) {
    size_t kept = 1;
    while (kept < n && e(kept) >= min_p) ++kept;
    n = kept;
  }
  return n;
}

int32_t choose(const RefCall& call, int64_t i_row, Candidate* c, size_t n) {
  const HostTensor& params = call.in[kParams];
  if (n == 0) return 0;
  std::sort(c, c + n, [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  const double temperature = params.at(0, i_row);
  if (!(temperature > 0) || std::isinf(c[0].logit)) return c[0].id;
  n = filter(c, n, params.at(1, i_row), params.at(2, i_row), params.at(3, i_row));
  const auto w = [&](size_t i) { return std::exp((c[i].logit - c[0].logit) / temperature); };
  double all = 0;
  for (size_t i = 0; i < n; ++i) all += w(i);
  const double u = uniform(call.in[kKeys], i_row);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += w(i);
    if (sum > u * all) return c[i].id;
  }
  return c[n - 1].id;
}

mica_status reference(const RefCall& call) {
  const HostTensor& logits = call.in[kLogits];
  Vec<double> row(*call.allocator);
  Vec<Candidate> candidates(*call.allocator);
  if (!row.resize(static_cast<size_t>(logits.dim[0])) || !candidates.reserve(row.size()))
    return MICA_OUT_OF_MEMORY;
  for (int64_t i_row = 0; i_row < logits.dim[1]; ++i_row) {
    logits.read_row(row.data(), i_row);
    candidates.clear();
    for (size_t i = 0; i < row.size(); ++i) {
      if (std::isnan(row[i]) || row[i] == -HUGE_VAL) continue;
      if (!candidates.push({row[i], static_cast<int32_t>(i)})) return MICA_OUT_OF_MEMORY;
    }
    call.out.set(choose(call, i_row, candidates.data(), candidates.size()), i_row);
    if (call.magnitude != nullptr) call.magnitude[i_row] = 0;
  }
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_sample = {MICA_OP_sample, "sample", kInputs, kInputs, 0,
                         kOpPlain,       -1,       infer,   nullptr, reference};

}  // namespace mica

mica_tensor mica_sample(mica_graph* graph, mica_tensor logits, mica_tensor params,
                        mica_tensor keys) {
  const mica_tensor in[] = {logits, params, keys};
  return mica::append(graph, mica::op_sample, in, 3, nullptr, 0);
}

#else
#include <cmath>

#include "tests/conformance/case.h"

namespace mica::conformance {

// Few candidates carry the weight in all cases, so that no random number comes within rounding of a
// boundary between two tokens.
void cases_sample(CaseList& list) {
  const auto add = [&](const char* name, int64_t n_vocab, const Values& logits,
                       const std::vector<double>& params) {
    list.add("sample", name, [=](CaseBuilder& b) {
      const int64_t n_rows = 8;
      const mica_tensor x = b.input("logits", MICA_F32, {n_vocab, n_rows}, logits);
      const mica_tensor p =
          b.input("params", MICA_F32, {4, n_rows}, mica::conformance::list(params));
      const mica_tensor keys = b.input("keys", MICA_I32, {4, n_rows}, integers(-2e9, 2e9));
      b.output(mica_sample(b.graph(), x, p, keys));
    });
  };
  const auto nan = std::nan("");
  const double inf = HUGE_VAL;
  add("greedy", 1000, normal(), {0, 0, 1, 0});
  add("greedy.ties", 1000, integers(-5, 5), {-1, 40, 0.9, 0.1});
  add("temperature", 50, normal(3), {0.8, 0, 1, 0});
  add("hot", 50, normal(3), {1.7, 0, 1, 0});
  add("cold", 1000, normal(3), {0.05, 0, 1, 0});
  add("top_k", 5000, normal(2), {1, 7, 1, 0});
  add("top_k1", 5000, normal(2), {1, 1, 1, 0});
  add("top_k_beyond", 40, normal(2), {1, 1e9, 1, 0});
  add("top_p", 64, normal(2), {1, 0, 0.73, 0});
  add("top_p0", 64, normal(2), {1, 0, 0, 0});
  add("min_p", 64, normal(2), {1, 0, 1, 0.0617});
  add("min_p1", 64, normal(2), {1, 0, 1, 1});
  add("all", 49152, normal(4), {0.7, 40, 0.87, 0.051});
  add("rows_differ", 300, normal(3),
      {0.8, 0, 1, 0, 0, 5, 0.5, 0, 1, 3, 1, 0, 1.2, 0, 0.6, 0, 1, 0, 1, 0.3, 2, 9, 0.91, 0.011});
  // Equal logits: order and cuts go by id. Half of a power of two is cut exactly.
  add("ties", 1000, integers(0, 3), {1, 11, 1, 0});
  add("ties.equal", 4096, mica::conformance::list({1.5}), {1, 64, 1, 0});
  add("not_numbers", 9, mica::conformance::list({nan, 2, -inf, 3, 1, nan, -inf, 2.5}),
      {1, 0, 1, 0});
  add("plus_infinity", 9, mica::conformance::list({1, inf, 0, inf, nan, 2, 3, 4, 5}), {1, 0, 1, 0});
  add("nothing_left", 9, mica::conformance::list({nan, -inf}), {1, 0, 1, 0});
  add("params_not_numbers", 64, normal(2), {nan, 5, 1, 0, 1, nan, nan, nan, 1, -inf, inf, -inf});
  // Thousandths count: keys whose random number is 0.999997, so that the last of what stays is
  // taken. Equal logits, of which 511.75 and 512.25 of 1024 are wanted; and a weight that falls by
  // 1/2000 a token, cut between two of them.
  const auto last = [&](const char* name, const Values& logits, const std::vector<double>& params) {
    const auto n = static_cast<int64_t>(params.size() / 4);
    list.add("sample", name, [=](CaseBuilder& b) {
      b.output(mica_sample(
          b.graph(), b.input("logits", MICA_F32, {1024, n}, logits),
          b.input("params", MICA_F32, {4, n}, mica::conformance::list(params)),
          b.input("keys", MICA_I32, {4, n}, mica::conformance::list({1, 0, 0, 67799}))));
    });
  };
  last("top_p_exact", mica::conformance::list({1.5}),
       {1, 0, 511.75 / 1024, 0, 1, 0, 512.25 / 1024, 0});
  list.add("sample", "temperature_exact", [](CaseBuilder& b) {
    constexpr int64_t kRows = 64;
    const mica_tensor x = b.input("logits", MICA_F32, {1024, kRows}, iota(0, -0x1p-7));
    const mica_tensor p =
        b.input("params", MICA_F32, {4, kRows}, mica::conformance::list({1, 0, 1, 0}));
    const mica_tensor keys = b.input("keys", MICA_I32, {4, kRows}, integers(-2e9, 2e9));
    b.output(mica_sample(b.graph(), x, p, keys));
  });
  std::vector<double> falling(1024);
  for (size_t i = 0; i < falling.size(); ++i) falling[i] = -0x1p-11 * static_cast<double>(i);
  last("min_p_exact", mica::conformance::list(falling),
       {1, 0, 1, std::exp(-0x1p-11 * 500.5), 1, 0, 1, std::exp(-0x1p-11 * 501.5)});
  list.add("sample", "live2of6", [](CaseBuilder& b) {
    const mica_extent rows = b.extent("n_outputs", 6, 2);
    const mica_tensor x = b.input("logits", MICA_F32, {500, 6}, normal(3), rows);
    const mica_tensor p =
        b.input("params", MICA_F32, {4, 6}, mica::conformance::list({1, 20, 0.9, 0}), rows);
    const mica_tensor keys = b.input("keys", MICA_I32, {4, 6}, integers(0, 99), rows);
    b.output(mica_sample(b.graph(), x, p, keys));
  });
}

}  // namespace mica::conformance
#endif
