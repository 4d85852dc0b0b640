// Options that kernels have not heard of: every backend refuses a node that sets one, and a region
// whose kernel knows less of a member's options than the member's own kernels.
#include "backends/known_args.h"

#include "core/base/device.h"
#include "core/plan/plan.h"
#include "ops/norm_args.h"
#include "ops/rope_args.h"
#include "tests/unit/world.h"

namespace mica::test {
namespace {

struct LongerRope {
  mica_rope_args known;
  uint32_t later;
};
struct LongerNorm {
  mica_rms_norm_args known;
  uint32_t later;
};

// Devices of all backends that this build and this machine have.
class KnownArgs : public testing::Test {
 protected:
  void SetUp() override {
    for (const mica_backend* b : {mica_backend_cuda(), mica_backend_vulkan()})
      ASSERT_EQ(mica_context_add_backend(context_.get(), b), MICA_OK);
    for (const char* name : {"ref", "ref:f32,fused", "cpu:plain", "cpu:avx2", "cpu:avx512", "cuda",
                             "vulkan:llvmpipe"}) {
      mica_device* d = nullptr;
      if (mica_device_open(context_.get(), name, &d) == MICA_OK) devices_.emplace_back(d);
    }
    ASSERT_GE(devices_.size(), 3u);
  }
  Context context_ = make_context();
  std::vector<Device> devices_;
};

mica_b_value floats(const Dims& dim, uint32_t storage) {
  mica_b_value v{};
  v.dtype = MICA_F32;
  v.rank = static_cast<uint32_t>(dim.size());
  v.extent = MICA_B_NONE;
  v.storage = storage;
  int64_t stride = 4;
  for (size_t i = 0; i < 4; ++i) {
    v.dim[i] = i < dim.size() ? dim[i] : 1;
    v.stride[i] = stride;
    stride *= v.dim[i];
  }
  v.bytes = static_cast<uint64_t>(stride);
  return v;
}

mica_b_node node(uint32_t op, const std::vector<uint32_t>& in, uint32_t out) {
  mica_b_node n{};
  n.op = op;
  n.n_inputs = static_cast<uint32_t>(in.size());
  for (size_t i = 0; i < in.size(); ++i) n.input[i] = in[i];
  n.output = out;
  n.name = "";
  return n;
}

TEST_F(KnownArgs, CoverTheOptionsOfEveryOp) {
  for (const Device& d : devices_) {
    const mica_backend& b = *d->backend;
    ASSERT_NE(b.args_bytes, nullptr) << b.name;
    for (uint32_t op = 1; op < 1000; ++op) {
      const OpDef* def = find_op(op);
      if (def == nullptr || (def->flags & kOpView) != 0) continue;
      EXPECT_EQ(b.args_bytes(d->handle, op), def->args_size) << b.name << ", " << def->name;
    }
  }
}

TEST_F(KnownArgs, ABackendWithoutADeviceSaysTheSame) {
  for (const mica_backend* b : {mica_backend_cuda(), mica_backend_vulkan()}) {
    if (b->reserve == nullptr) continue;  // left out of this build
    ASSERT_NE(b->args_bytes, nullptr) << b->name;
    EXPECT_EQ(b->args_bytes(nullptr, MICA_OP_rope), sizeof(mica_rope_args)) << b->name;
    EXPECT_EQ(b->args_bytes(nullptr, MICA_OP_matmul), 0u) << b->name;
  }
}

// Of kernels that no device of this machine may run.
TEST_F(KnownArgs, CudaCoversTheOptionsOfEveryOpWithoutADevice) {
  const mica_backend* b = mica_backend_cuda();
  if (b->reserve == nullptr) GTEST_SKIP() << "left out of this build";
  for (uint32_t op = 1; op < 1000; ++op) {
    const OpDef* def = find_op(op);
    if (def == nullptr || (def->flags & kOpView) != 0) continue;
    EXPECT_EQ(b->args_bytes(nullptr, op), def->args_size) << def->name;
  }
}

TEST_F(KnownArgs, ALaterOptionOfANodeIsRefused) {
  LongerRope args = {{8, 0, 0, 1}, 0};
  const mica_b_value values[] = {{},
                                 floats({8, 2, 4}, MICA_B_STEP),
                                 floats({8, 4}, MICA_B_STEP),
                                 floats({8, 2, 4}, MICA_B_TEMP)};
  mica_b_node rope = node(MICA_OP_rope, {1, 2}, 3);
  rope.args = &args;
  rope.args_size = sizeof args;
  mica_b_partition p{};
  p.struct_size = sizeof p;
  p.n_values = 4, p.values = values;
  p.n_nodes = 1, p.nodes = &rope;
  for (const Device& d : devices_) {
    char reason[256] = "";
    args.later = 0;
    EXPECT_EQ(node_supported(d.get(), p, 0, reason, sizeof reason), MICA_OK)
        << d->backend->name << ": " << reason;
    args.later = 0x1000000;
    EXPECT_EQ(node_supported(d.get(), p, 0, reason, sizeof reason), MICA_UNSUPPORTED)
        << d->backend->name;
    EXPECT_TRUE(has(reason, "16 bytes of the options") && has(reason, "byte 19 is set")) << reason;
  }
}

TEST_F(KnownArgs, ALaterOptionOfAMemberIsRefused) {
  LongerNorm args = {{1e-5f}, 0};
  for (const Device& d : devices_) {
    const mica_backend& b = *d->backend;
    if (std::string(b.name) == "ref") continue;  // runs the members
    mica_b_value values[] = {{},
                             floats({64, 4}, MICA_B_STEP),
                             floats({64}, MICA_B_WEIGHT),
                             floats({64, 64}, MICA_B_WEIGHT),
                             floats({64, 4}, MICA_B_UNPLACED),
                             floats({64, 4}, MICA_B_TEMP)};
    uint64_t bytes = 0;
    uint32_t granule = 0;
    for (const int i : {2, 3})
      ASSERT_EQ(b.weight_layout(d->handle, &values[i], &values[i].layout, &bytes, &granule),
                MICA_OK);
    mica_b_node nodes[] = {node(MICA_OP_rms_norm, {1, 2}, 4), node(MICA_OP_matmul, {3, 4}, 5)};
    nodes[0].args = &args;
    nodes[0].args_size = sizeof args;
    const uint32_t members[] = {0, 1};
    const mica_b_region region = {"norm_matmul", 2, members, 0};
    mica_b_partition p{};
    p.struct_size = sizeof p;
    p.n_values = 6, p.values = values;
    p.n_nodes = 2, p.nodes = nodes;
    p.n_regions = 1, p.regions = &region;
    char reason[256] = "";
    args.later = 0;
    EXPECT_EQ(b.claims(d->handle, &p, 0, reason, sizeof reason), MICA_OK) << b.name << reason;
    args.later = 1;
    EXPECT_EQ(b.claims(d->handle, &p, 0, reason, sizeof reason), MICA_UNSUPPORTED) << b.name;
    EXPECT_TRUE(has(reason, "the first 4 bytes of the options of rms_norm, and byte 4 is set"))
        << reason;
  }
}

}  // namespace
}  // namespace mica::test
