// matmul_add: core/fusions/matmul_add.cpp's region: a packed weight times x, and a residual.
#include "backends/cpu/kernels/matmul/matmul_rows16.h"

MICA_CPU_BEGIN
namespace rows16 {

static const Tensor& residual(const Call& c) {
  const Call& add = c.members[1];
  return add.in[0].data != nullptr ? add.in[0] : add.in[1];
}

static const char* supports(const Call& c) {
  const Tensor& r = residual(c);
  if (c.members[0].out.data != nullptr) return "the product is used elsewhere too";
  if (r.stride[0] != 4 || c.members[1].out.stride[0] != 4)
    return "the residual's rows are not dense";
  return rows16_supports(c.members[0]);
}

// The matmul as a call of its own, with the region's workspace.
static Call product(const Call& c) {
  Call matmul = c.members[0];
  matmul.workspace = c.workspace;
  return matmul;
}

static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  const Tensor& r = residual(c);
  const Tensor& y = c.members[1].out;
  run_phase(product(c), phase, first, end, scratch,
            [&](const Slice&, int64_t i, const Group& group, const float* lanes) {
              const float* from =
                  reinterpret_cast<const float*>(r.data + i * r.stride[1]) + group.row;
              float* to = reinterpret_cast<float*>(y.data + i * y.stride[1]) + group.row;
              if (group.n == kGroupRows) {
                store(to, load(from) + load(lanes));
              } else {
                for (int64_t k = 0; k < group.n; ++k) to[k] = from[k] + lanes[group.lane + k];
              }
            });
}

static uint32_t numerics(const Call& c) { return math_of(c.members[0]).numerics; }
static uint64_t workspace(const Call& c) { return panels_workspace(c.members[0]); }
static uint64_t scratch_bytes(const Call& c) { return panel_scratch(c.members[0]); }
static int64_t items(const Call& c, uint32_t phase) { return phase_items(c.members[0], phase); }
static int64_t grain(const Call& c, uint32_t phase) { return phase_grain(c.members[0], phase); }
static uint64_t panel_bytes(const Call& c) { return rows16_panel_bytes(c.members[0]); }

static constexpr Kernel rows[] = {
    {"matmul_add", "", 2, supports, numerics, workspace, scratch_bytes, items, run, grain,
     panel_bytes, false, takes_panels},
};

}  // namespace rows16

MICA_CPU_KERNELS(matmul_add, rows16::rows)
MICA_CPU_END
