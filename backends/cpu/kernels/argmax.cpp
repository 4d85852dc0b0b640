// argmax: the lowest index of a row's largest element. Long rows are cut into pieces, each with its
// own winner, and the winners are compared.
#include "backends/cpu/kernels/elements.h"

MICA_CPU_BEGIN
namespace {

constexpr int64_t kPiece = 8192;

struct Winner {
  float value;
  int32_t index;  // -1: nothing but NaN
};

int64_t pieces(const Call& call) { return div_up_i64(call.in[0].dim[0], kPiece); }
int64_t items(const Call& call, uint32_t phase) {
  const int64_t rows = rows_of(call.in[0]);
  return phase == 0 ? rows * pieces(call) : rows;
}
int64_t grain(const Call& call, uint32_t phase) {
  return phase == 0 && pieces(call) == 1 ? rows_grain(call.in[0].dim[0]) : phase == 0 ? 1 : 256;
}
uint64_t workspace(const Call& call) {
  return static_cast<uint64_t>(rows_of(call.in[0]) * pieces(call)) * sizeof(Winner);
}

Winner better(Winner a, Winner b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.index < b.index ? a : b;
}

Winner win(const float* x, int64_t n) {
  f32x16 best = set1(-__builtin_inff());
  i32x16 where = set1_i32(INT32_MAX), here = iota();
  const i32x16 step = set1_i32(16);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const f32x16 v = load(x + i);
    const mask16 m = gt(v, best);
    best = select(m, v, best);
    where = select(m, here, where);
    here = here + step;
  }
  float values[16];
  int32_t indices[16];
  store(values, best);
  store_i32(indices, where);
  Winner w = {0, -1};
  for (int k = 0; k < 16; ++k) {
    if (indices[k] != INT32_MAX) w = better(w, {values[k], indices[k]});
  }
  for (; i < n; ++i) {
    if (x[i] > -__builtin_inff()) w = better(w, {x[i], static_cast<int32_t>(i)});
  }
  // Nothing above -infinity: then the first that is a number.
  for (i = 0; w.index < 0 && i < n; ++i) {
    if (x[i] == x[i]) w = {x[i], static_cast<int32_t>(i)};
  }
  return w;
}

void run_pieces(const Call& call, int64_t first, int64_t end) {
  const Tensor& x = call.in[0];
  Winner* winners = reinterpret_cast<Winner*>(call.workspace);
  const int64_t n_pieces = pieces(call);
  for (int64_t item = first; item < end; ++item) {
    const int64_t row = item / n_pieces;
    const int64_t at = (item - row * n_pieces) * kPiece;
    const float* p = reinterpret_cast<const float*>(row_at(x, row)) + at;
    winners[item] = win(p, min_i64(kPiece, x.dim[0] - at));
    if (winners[item].index >= 0) winners[item].index += static_cast<int32_t>(at);
  }
}

void run(const Call& call, uint32_t phase, int64_t first, int64_t end, char*) {
  if (phase == 0) return run_pieces(call, first, end);
  const Winner* winners = reinterpret_cast<const Winner*>(call.workspace);
  const int64_t n_pieces = pieces(call);
  int32_t* out = reinterpret_cast<int32_t*>(call.out.data);
  for (int64_t row = first; row < end; ++row) {
    Winner w = {0, -1};
    for (int64_t i = 0; i < n_pieces; ++i) w = better(w, winners[row * n_pieces + i]);
    out[row] = w.index < 0 ? 0 : w.index;
  }
}

constexpr Kernel kRows[] = {
    {"argmax", "", 2, nullptr, numerics_exact, workspace, nullptr, items, run, grain},
};

}  // namespace
MICA_CPU_KERNELS(argmax, kRows)
MICA_CPU_END
