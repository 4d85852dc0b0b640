// norm_matmul: core/fusions/norm_matmul.cpp's region, of packed weights.
#include "backends/cpu/kernels/norm_rows16.h"

MICA_CPU_BEGIN
namespace rows16 {

static Normed normed(const Call& c) {
  const Call* matmuls[kMaxWeights];
  const int n = static_cast<int>(c.n_members) - 1;
  for (int i = 0; i < n; ++i) matmuls[i] = &c.members[1 + i];
  return Normed(c.members[0], matmuls, n);
}

static const char* supports(const Call& c) {
  const Call* matmuls[kMaxWeights];
  const int n = static_cast<int>(c.n_members) - 1;
  if (n > kMaxWeights) return "more than four weights";
  for (int i = 0; i < n; ++i) matmuls[i] = &c.members[1 + i];
  return normed_supports(c.members[0], matmuls, n);
}

static uint32_t numerics(const Call& c) { return math_of(c.members[1]).numerics; }
static uint64_t workspace(const Call& c) { return normed_workspace(normed(c)); }
static uint64_t scratch_bytes(const Call& c) { return normed_scratch(normed(c)); }

static int64_t items_of(const Problem& p) { return p.n_groups * p.column_tiles(); }
static int64_t all_groups(const Call& c) {
  int64_t n = 0;
  for (uint32_t i = 1; i < c.n_members; ++i) n += single_groups(c.members[i]);
  return n;
}
static int64_t items(const Call& c, uint32_t phase) {
  if (phase == 0) return column_items(c.members[0]);
  if (is_single(c.members[1])) return all_groups(c);
  int64_t n = 0;
  for (uint32_t i = 1; i < c.n_members; ++i) n += items_of(Problem(c.members[i]));
  return n;
}
static int64_t grain(const Call& c, uint32_t phase) {
  if (phase == 0) return column_grain(c.members[0]);
  if (is_single(c.members[1])) return Problem::single_grain(all_groups(c));
  return Problem(c.members[1]).tile_grain();
}

// The part of [first, end) that is one weight's n items, counted from its first; `before` it are
// those of the weights before it.
struct Range {
  int64_t first, end;
};
static Range range_of(int64_t n, int64_t first, int64_t end, int64_t& before) {
  const Range r = {max_i64(first - before, 0), min_i64(end - before, n)};
  before += n;
  return r;
}

static void run_one_column(const Normed& w, int64_t first, int64_t end, char* scratch) {
  int64_t before = 0;
  int k = 0;
  while (first - before >= w.p[k].n_groups) before += w.p[k++].n_groups;
  const Group at = group_of(*w.matmul[k], w.p[k], 0, first - before);
  const SingleColumn column(w, at.data, first == 0, scratch);
  float lanes[kGroupRows];
  before = 0;
  for (k = 0; k < w.n; ++k) {
    const Range r = range_of(w.p[k].n_groups, first, end, before);
    for (int64_t i = r.first; i < r.end; ++i) {
      put_lanes(w.matmul[k]->out.data, column.times(k, i, lanes), lanes);
    }
  }
}

static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  const Normed w = normed(c);
  if (phase == 0) return round_columns(w, c.workspace, first, end, scratch);
  if (w.n_columns() == 1) return run_one_column(w, first, end, scratch);
  int64_t before = 0;
  for (int k = 0; k < w.n; ++k) {
    const Range r = range_of(items_of(w.p[k]), first, end, before);
    if (r.first >= r.end) continue;
    Call matmul = *w.matmul[k];
    matmul.workspace = w.panels(c.workspace, k);
    run_tiles(matmul, w.p[k], r.first, r.end,
              [&](const Slice&, int64_t i, const Group& group, const float* lanes) {
                put_lanes(matmul.out.data + i * matmul.out.stride[1], group, lanes);
              });
  }
}

static constexpr Kernel rows[] = {
    {"norm_matmul", "", 2, supports, numerics, workspace, scratch_bytes, items, run, grain, nullptr,
     false, takes_weights},
};

}  // namespace rows16

MICA_CPU_KERNELS(norm_matmul, rows16::rows, MICA_KNOWS(rms_norm, eps))
MICA_CPU_END
