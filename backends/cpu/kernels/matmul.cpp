// Matrix times matrix: w [K, N, c2, c3], x [K, M, b2, b3] -> F32 [N, M, b2, b3], slice j of x with
// slice j / (b / c) of w. Three rows: weights in kLayoutRows16, plain tensors, and plain loops.
#include "backends/cpu/kernels/matmul_plain.h"
#include "backends/cpu/kernels/matmul_rows16.h"

MICA_CPU_BEGIN

static const char* activations(const Call& c) {
  const mica_dtype x = c.in[1].dtype;
  return x == MICA_F32 || x == MICA_F16 || x == MICA_BF16 ? nullptr : "x is not F32, F16 or BF16";
}

namespace rows16 {

static const char* supports(const Call& c) {
  if (c.in[0].layout != kLayoutRows16) return "w is not a packed weight";
  return activations(c);
}
static uint32_t numerics(const Call& c) { return math_of(c).numerics; }

static uint64_t workspace(const Call& c) {
  const Problem p(c);
  return p.n_columns == 1 ? 0 : static_cast<uint64_t>(p.n_slices * p.n_columns * p.column_bytes);
}
static uint64_t scratch(const Call& c) { return static_cast<uint64_t>(Problem(c).column_bytes); }

static int64_t items(const Call& c, uint32_t phase) {
  const Problem p(c);
  // A single column is rounded by every thread that needs it: cheaper than a barrier.
  if (phase == 0) return p.n_columns == 1 ? 0 : p.n_slices * p.n_columns;
  return p.n_slices * p.n_groups * (p.n_columns == 1 ? 1 : p.column_tiles());
}
static int64_t grain(const Call& c, uint32_t phase) {
  const Problem p(c);
  if (phase == 0) return p.n_columns >= 4 * kPanelColumns ? kPanelColumns : 1;
  return p.n_columns == 1 ? p.single_grain() : p.tile_grain();
}
static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* thread_scratch) {
  const Problem p(c);
  if (phase == 0) {
    prepare_columns(c, p, first, end);
  } else if (p.n_columns == 1) {
    run_single(c, p, first, end, thread_scratch);
  } else {
    run_tiles(c, p, first, end);
  }
}

}  // namespace rows16

static const Kernel rows[] = {
    {"matmul", "", 2, rows16::supports, rows16::numerics, rows16::workspace, rows16::scratch,
     rows16::items, rows16::run, rows16::grain},
    {"matmul", "", 1, plain_rows::supports, plain_rows::numerics, nullptr, plain_rows::scratch,
     plain_rows::items, plain_rows::run, nullptr},
    {"matmul", "naive", 1, activations, plain_rows::numerics, nullptr, plain_rows::naive_scratch,
     plain_rows::naive_items, plain_rows::naive_run, nullptr},
};

MICA_CPU_KERNELS(matmul, rows)
MICA_CPU_END
