// One call of a reference as a mistake sees it: copies of its operands, to be changed.
#pragma once
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/attention/attention_args.h"
#include "ops/common.h"
#include "ops/norm_args.h"
#include "ops/rope_args.h"
#include "ops/softmax_args.h"
#include "ops/unary_args.h"

namespace mica::faults {

// One call of a reference, with copies of what a mistake changes.
class Run {
 public:
  Run(const mica_b_partition& p, const mica_b_node& n, const OpDef& o, const RefCall& c)
      : partition(p), node(n), op(o), call(c) {
    for (uint32_t k = 0; k < c.n_in; ++k) in[k] = c.in[k];
    call.in = in;
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  mica_status reference() const { return op.reference(call); }
  // Input k as a packed F32 copy, to be changed.
  HostTensor& floats(uint32_t k) {
    const HostTensor x = in[k];
    HostTensor& y = in[k];
    y.dtype = MICA_F32;
    bytes_.emplace_back(static_cast<size_t>(x.elements()) * sizeof(float));
    y.data = bytes_.back().data();
    int64_t stride = sizeof(float);
    for (int i = 0; i < 4; ++i) {
      y.stride[i] = stride;
      stride *= y.dim[i];
    }
    std::vector<double> row(static_cast<size_t>(x.dim[0]));
    for_rows(x, [&](int64_t i1, int64_t i2, int64_t i3) {
      x.read_row(row.data(), i1, i2, i3);
      y.write_row(row.data(), i1, i2, i3);
    });
    return y;
  }
  // Input k, I32 of rank 1 or 2, as a packed copy.
  int32_t* ints(uint32_t k) {
    HostTensor& x = in[k];
    const auto n = static_cast<size_t>(x.dim[0] * x.dim[1]);
    bytes_.emplace_back(n * sizeof(int32_t));
    auto* y = reinterpret_cast<int32_t*>(bytes_.back().data());
    for (size_t i = 0; i < n; ++i) {
      const auto at = static_cast<int64_t>(i);
      y[i] = static_cast<int32_t>(x.int_at(at % x.dim[0], at / x.dim[0]));
    }
    x.data = y;
    x.dtype = MICA_I32;
    x.stride[0] = sizeof(int32_t);
    x.stride[1] = x.stride[0] * x.dim[0];
    return y;
  }
  template <class Args>
  Args& args() {
    bytes_.emplace_back(sizeof(Args));
    std::memcpy(bytes_.back().data(), call.args, sizeof(Args));
    call.args = bytes_.back().data();
    return *reinterpret_cast<Args*>(bytes_.back().data());
  }
  template <class F>
  static void for_rows(const HostTensor& x, const F& f) {
    for (int64_t i3 = 0; i3 < x.dim[3]; ++i3)
      for (int64_t i2 = 0; i2 < x.dim[2]; ++i2)
        for (int64_t i1 = 0; i1 < x.dim[1]; ++i1) f(i1, i2, i3);
  }

  // The node is a member of a region that the backend claimed.
  bool is_fused() const {
    for (uint32_t i = 0; i < partition.n_regions; ++i) {
      const mica_b_region& region = partition.regions[i];
      for (uint32_t k = 0; region.claimed != 0 && k < region.n_members; ++k)
        if (&partition.nodes[region.members[k]] == &node) return true;
    }
    return false;
  }

  const mica_b_partition& partition;
  const mica_b_node& node;
  const OpDef& op;
  RefCall call;
  HostTensor in[MICA_B_MAX_INPUTS];

 private:
  std::vector<std::vector<char>> bytes_;
};

// Attention's operands.
enum : uint32_t { kQ, kK, kV, kPositions, kTable, kMask, kSinks };

// Takes every extent at its maximum.
inline mica_status extent_ignored(Run& r) {
  const auto whole = [&](uint32_t value, HostTensor& t) {
    if (value == MICA_B_NONE) return;
    const mica_b_value& v = r.partition.values[value];
    for (int i = 0; i < 4; ++i) t.dim[i] = v.dim[i];
  };
  for (uint32_t k = 0; k < r.node.n_inputs; ++k) whole(r.node.input[k], r.in[k]);
  whole(r.node.output, r.call.out);
  return r.reference();
}

}  // namespace mica::faults
