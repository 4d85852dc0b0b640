// The estimate that long steps are cut by: what counts, and what a decode step comes to.
#include <gtest/gtest.h>

#include <vector>

#include "backends/gpu/work.h"
#include "ops/attention/attention_args.h"

namespace {

mica_b_value value(std::vector<int64_t> dim, uint32_t storage) {
  mica_b_value v{};
  v.dtype = MICA_F32;
  v.rank = static_cast<uint32_t>(dim.size());
  v.storage = storage;
  v.extent = MICA_B_NONE;
  dim.resize(4, 1);
  for (size_t i = 0; i < 4; ++i) v.dim[i] = dim[i];
  return v;
}

// One node on its values, the last of them its output.
double work(uint32_t op, std::vector<mica_b_value> values, const void* args = nullptr) {
  mica_b_node node{};
  node.op = op;
  node.args = args;
  node.n_inputs = static_cast<uint32_t>(values.size()) - 1;
  for (uint32_t i = 0; i < node.n_inputs; ++i) node.input[i] = i;
  node.output = node.n_inputs;
  mica_b_partition p{};
  p.nodes = &node;
  p.values = values.data();
  mica_b_unit unit{};
  unit.region = MICA_B_NONE;
  return mica::gpu::work_of(p, unit);
}

TEST(GpuWork, CountsProductsAndWhatIsMoved) {
  const mica_b_value w = value({4096, 1024}, MICA_B_WEIGHT);
  const auto matmul = [&](int64_t n) {
    return work(MICA_OP_matmul, {w, value({4096, n}, MICA_B_TEMP), value({1024, n}, MICA_B_TEMP)});
  };
  EXPECT_DOUBLE_EQ(matmul(1), 4096.0 * 1024 + 200 * 4096);  // a weight is in the products
  EXPECT_DOUBLE_EQ(matmul(512), 512 * matmul(1));
  EXPECT_DOUBLE_EQ(work(MICA_OP_add, {value({64, 3}, MICA_B_TEMP), value({64}, MICA_B_WEIGHT),
                                      value({64, 3}, MICA_B_TEMP)}),
                   200.0 * 64 * 3);
  // A cache is not gone through by an append.
  const mica_b_value state = value({128, 8, 65536}, MICA_B_STATE);
  EXPECT_DOUBLE_EQ(work(MICA_OP_kv_append,
                        {state, value({128, 8, 2}, MICA_B_TEMP), value({2}, MICA_B_STEP), state}),
                   200.0 * 128 * 8 * 2);
}

TEST(GpuWork, CountsTheCellsThatAreSeen) {
  mica_attention_args args{};
  args.max_seqs = 16;
  const auto attention = [&](int64_t n) {
    const mica_b_value q = value({128, 32, n}, MICA_B_TEMP);
    const mica_b_value cells = value({128, 8, 65536}, MICA_B_STATE);
    const double all = work(MICA_OP_attention, {q, cells, cells, q}, &args);
    return all / static_cast<double>(128 * 32 * n) - 200;  // of an element of the result
  };
  EXPECT_DOUBLE_EQ(attention(16), 2 * 4096);   // a token a sequence, which share the cells
  EXPECT_DOUBLE_EQ(attention(17), 2 * 65536);  // one sequence may have them all
  args.window = 1000, args.n_first = 4;
  EXPECT_DOUBLE_EQ(attention(512), 2 * 1004);
  args.window = 100000;
  EXPECT_DOUBLE_EQ(attention(512), 2 * 65536);
}

// Members count each.
TEST(GpuWork, CountsRegions) {
  const mica_b_value v[] = {value({32, 4}, MICA_B_TEMP), value({32, 4}, MICA_B_UNPLACED),
                            value({32, 4}, MICA_B_TEMP)};
  mica_b_node nodes[2] = {};
  for (uint32_t i = 0; i < 2; ++i) {
    nodes[i].op = MICA_OP_silu;
    nodes[i].n_inputs = 1;
    nodes[i].input[0] = i;
    nodes[i].output = i + 1;
  }
  const uint32_t members[] = {0, 1};
  const mica_b_region region = {"pair", 2, members, 1};
  mica_b_partition p{};
  p.values = v, p.nodes = nodes, p.regions = &region;
  mica_b_unit unit{};
  unit.region = 0;
  EXPECT_DOUBLE_EQ(mica::gpu::work_of(p, unit), 2 * 200.0 * 32 * 4);
}

}  // namespace
