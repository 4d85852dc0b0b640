// What a kernel sees of addresses before there are any: how they will be aligned.
#include <gtest/gtest.h>

#include "backends/gpu/call.h"

namespace {

using namespace mica;

TEST(GpuBind, AlignmentIsKnownBeforeThereAreAddresses) {
  mica_b_value values[4] = {};
  for (mica_b_value& v : values) {
    v.dtype = MICA_F32;
    v.rank = 1;
    v.extent = MICA_B_NONE;
    v.storage = MICA_B_STEP;
    v.buffer = 1;
  }
  values[1].offset = 256 + 4;  // a view that starts at its value's second element
  values[2].offset = 512;
  values[3].storage = MICA_B_UNPLACED;
  mica_b_node node = {};
  node.op = MICA_OP_add;
  node.n_inputs = 2;
  node.input[0] = 1, node.input[1] = 2;
  node.output = 3;
  node.name = "";
  mica_b_partition p = {};
  p.n_values = 4, p.values = values;
  p.n_nodes = 1, p.nodes = &node;
  const uint64_t bases[] = {0x10000, 0x20010};  // of a guarded buffer: a multiple of 16
  gpu::Bound before, after;
  Writer none(nullptr, 0);
  ASSERT_EQ(gpu::bind(p, {0, MICA_B_NONE}, nullptr, nullptr, before, none), MICA_OK);
  ASSERT_EQ(gpu::bind(p, {0, MICA_B_NONE}, bases, nullptr, after, none), MICA_OK);
  for (int i = 0; i < 2; ++i) {
    EXPECT_NE(before.call.in[i].address, 0u);
    EXPECT_EQ(before.call.in[i].address % 16, after.call.in[i].address % 16) << i;
  }
  EXPECT_EQ(after.call.in[0].address, 0x20010u + 260);
  EXPECT_EQ(before.call.out.address, 0u);
}

}  // namespace
