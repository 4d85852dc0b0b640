// Estimating the work of a unit.
#include "backends/gpu/work.h"

#include "ops/attention/attention_args.h"

namespace mica::gpu {
namespace {

constexpr double kElementWork = 200;

double elements(const mica_b_value& v) {
  double n = 1;
  for (const int64_t dim : v.dim) n *= static_cast<double>(dim);
  return n;
}

// What a unit goes through of weights and caches is in the terms of products and attention.
double moved(const mica_b_partition& p, uint32_t value) {
  if (value == MICA_B_NONE) return 0;
  const mica_b_value& v = p.values[value];
  return v.storage == MICA_B_WEIGHT || v.storage == MICA_B_STATE ? 0 : elements(v);
}

// The cells that a query can see at most. Of a decode step each sequence has one query, and they
// share the cache; in other steps one sequence may have all.
double visible_cells(const mica_attention_args& args, int64_t n_tokens, int64_t n_cells) {
  const int64_t max_seqs = args.max_seqs > 0 ? args.max_seqs : 1;
  int64_t n = n_tokens <= max_seqs ? n_cells / max_seqs : n_cells;
  const int64_t in_window = int64_t{args.window} + args.n_first;
  if (args.window > 0 && in_window < n) n = in_window;
  return static_cast<double>(n);
}

double node_work(const mica_b_partition& p, const mica_b_node& node) {
  const mica_b_value& out = p.values[node.output];
  double most = moved(p, node.output);
  for (uint32_t i = 0; i < node.n_inputs; ++i) {
    const double n = moved(p, node.input[i]);
    most = n > most ? n : most;
  }
  double products = 0;
  if (node.op == MICA_OP_matmul) {
    products = elements(out) * static_cast<double>(p.values[node.input[0]].dim[0]);
  } else if (node.op == MICA_OP_attention) {
    const auto& args = *static_cast<const mica_attention_args*>(node.args);
    const int64_t n_cells = p.values[node.input[1]].dim[2];
    products = 2 * elements(out) * visible_cells(args, out.dim[2], n_cells);
  }
  return kElementWork * most + products;
}

}  // namespace

double work_of(const mica_b_partition& partition, const mica_b_unit& unit) {
  if (unit.region == MICA_B_NONE) return node_work(partition, partition.nodes[unit.node]);
  const mica_b_region& region = partition.regions[unit.region];
  double work = 0;
  for (uint32_t i = 0; i < region.n_members; ++i)
    work += node_work(partition, partition.nodes[region.members[i]]);
  return work;
}

}  // namespace mica::gpu
