// Matrix times matrix: w [K, N, c2, c3], x [K, M, b2, b3] -> F32 [N, M, b2, b3], slice j of x with
// slice j / (b / c) of w. Three rows: weights in kLayoutRows16, plain tensors, and plain loops.
#include "backends/cpu/kernels/matmul/matmul_plain.h"
#include "backends/cpu/kernels/matmul/matmul_rows16.h"

MICA_CPU_BEGIN

static const char* activations(const Call& c) {
  const mica_dtype x = c.in[1].dtype;
  return x == MICA_F32 || x == MICA_F16 || x == MICA_BF16 ? nullptr : "x is not F32, F16 or BF16";
}

namespace rows16 {

static uint32_t numerics(const Call& c) { return math_of(c).numerics; }

static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  const Problem p(c);
  run_phase(c, phase, first, end, scratch,
            [&](const Slice& slice, int64_t i, const Group& group, const float* lanes) {
              put_lanes(column_of(c, p, slice, i).out, group, lanes);
            });
}

}  // namespace rows16

static constexpr Kernel rows[] = {
    {"matmul", "packed", 2, rows16::rows16_supports, rows16::numerics, rows16::panels_workspace,
     rows16::panel_scratch, rows16::phase_items, rows16::run, rows16::phase_grain,
     rows16::rows16_panel_bytes, false, rows16::takes_panels},
    {"matmul", "strided", 1, plain_rows::supports, plain_rows::numerics, nullptr,
     plain_rows::scratch, plain_rows::items, plain_rows::run, nullptr},
    {"matmul", "naive", 1, activations, plain_rows::numerics, nullptr, plain_rows::naive_scratch,
     plain_rows::naive_items, plain_rows::naive_run, nullptr, nullptr, false,
     rows16::takes_weights},
};

MICA_CPU_KERNELS(matmul, rows)
MICA_CPU_END
