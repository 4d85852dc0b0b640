// Plans that are right when they run for the first time: what a step left behind shows in the next,
// of other inputs and another number of rows.
#pragma once
#include <map>

#include "tests/faults/run.h"

namespace mica::faults {

// What a node saw and made when its plan first ran.
struct FirstRun {
  std::vector<int64_t> live;    // of the operands and the result, four a tensor
  std::vector<double> results;  // row by row
};
inline std::map<const mica_b_node*, FirstRun>& first_runs() {
  static std::map<const mica_b_node*, FirstRun> runs;
  return runs;
}
// Behind each compile: a new plan's nodes may lie where those of an old one were.
inline void forget_first_runs() { first_runs().clear(); }

// The first run's results again.
inline mica_status results_of_first_run(Run& r) {
  const mica_status status = r.reference();
  const auto found = first_runs().try_emplace(&r.node);
  const bool is_first = found.second;
  std::vector<double>& kept = found.first->second.results;
  size_t k = 0;
  const HostTensor& y = r.call.out;
  Run::for_rows(y, [&](int64_t i1, int64_t i2, int64_t i3) {
    for (int64_t i0 = 0; i0 < y.dim[0]; ++i0, ++k) {
      if (is_first) kept.push_back(y.at(i0, i1, i2, i3));
      if (!is_first && k < kept.size()) y.set(kept[k], i0, i1, i2, i3);
    }
  });
  return status;
}
inline mica_status matmul_first_results(Run& r) { return results_of_first_run(r); }
inline mica_status attention_first_results(Run& r) { return results_of_first_run(r); }
inline mica_status mul_first_results(Run& r) { return results_of_first_run(r); }

// As many live rows as in the first run.
inline mica_status rows_of_first_run(Run& r) {
  const auto [at, is_first] = first_runs().try_emplace(&r.node);
  std::vector<int64_t>& kept = at->second.live;
  for (uint32_t k = 0; k <= r.node.n_inputs; ++k) {
    HostTensor& t = k < r.node.n_inputs ? r.in[k] : r.call.out;
    if (is_first) kept.insert(kept.end(), t.dim, t.dim + 4);
    std::copy_n(&kept[k * size_t{4}], 4, t.dim);
  }
  return r.reference();
}
inline mica_status matmul_first_rows(Run& r) { return rows_of_first_run(r); }
inline mica_status add_first_rows(Run& r) { return rows_of_first_run(r); }

// From the second run on the last byte of operand 0 is another one afterwards.
inline mica_status scribbled_later(Run& r) {
  const mica_status status = r.reference();
  const mica_b_value& v = r.partition.values[r.node.input[0]];
  if (!first_runs().try_emplace(&r.node).second && v.bytes > 0)
    static_cast<char*>(r.call.in[0].data)[v.bytes - 1] ^= 1;
  return status;
}
inline mica_status matmul_weight_scribbled_later(Run& r) { return scribbled_later(r); }
inline mica_status mul_input_scribbled_later(Run& r) { return scribbled_later(r); }

}  // namespace mica::faults
