// What the fusions that begin with a norm share: its rows, rounded for the packed weights that read
// them. Weights whose rounding is the same share the panels.
#pragma once
#include "backends/cpu/kernels/matmul/matmul_rows16.h"
#include "backends/cpu/kernels/rms_norm.h"

MICA_CPU_BEGIN
namespace rows16 {

constexpr int kMaxWeights = 4;

namespace {  // no symbol that a linker may take from another instruction set
struct Normed {
  const Call& norm;
  const Call* matmul[kMaxWeights];
  int n;
  Problem p[kMaxWeights];
  int set[kMaxWeights];         // the first weight of the same rounding
  int64_t before[kMaxWeights];  // bytes of a column in the sets before this one's
  int64_t column_bytes = 0;     // in all sets

  Normed(const Call& norm_call, const Call* const* matmuls, int n_matmuls)
      : norm(norm_call), matmul{},
        n(n_matmuls), p{Problem(*matmuls[0]), Problem(*matmuls[n > 1 ? 1 : 0]),
                        Problem(*matmuls[n > 2 ? 2 : 0]), Problem(*matmuls[n > 3 ? 3 : 0])} {
    for (int i = 0; i < n; ++i) {
      matmul[i] = matmuls[i];
      set[i] = 0;
      while (set[i] < i && (p[set[i]].math->prepare != p[i].math->prepare ||
                            p[set[i]].column_bytes != p[i].column_bytes)) {
        ++set[i];
      }
      before[i] = set[i] < i ? before[set[i]] : column_bytes;
      if (set[i] == i) column_bytes += p[i].column_bytes;
    }
  }
  int64_t n_columns() const { return p[0].n_columns; }
  int64_t n_elems() const { return p[0].n_elems; }
  int64_t float_bytes() const { return div_up_i64(n_elems(), 16) * 64; }
  // The panels of weight i's set.
  char* panels(char* base, int i) const { return base + before[i] * n_columns(); }
};
}  // namespace

static inline const char* normed_supports(const Call& norm, const Call* const* matmuls, int n) {
  if (norm.in[0].dtype != MICA_F32 || norm.in[0].stride[0] != 4)
    return "x is not dense rows of F32";
  if (!is_float(norm.in[1].dtype)) return "the norm's weight is not floats";
  for (int i = 0; i < n; ++i) {
    if (const char* no = rows16_supports(*matmuls[i])) return no;
    if (math_of(*matmuls[i]).numerics != math_of(*matmuls[0]).numerics) {
      return "the weights round activations differently";
    }
  }
  return nullptr;
}

// Row i normed: where the norm's output lies if it has memory, else in `buffer`.
static inline const char* normed_row(const Normed& w, int64_t i, char* buffer) {
  Tensor floats{};
  floats.dtype = MICA_F32;
  if (w.norm.out.data != nullptr) buffer = row_at(w.norm.out, i);
  rms_norm_row(w.norm, i, floats, buffer);
  return buffer;
}

// Several columns: each normed and rounded once, into all sets of panels.
static inline uint64_t normed_workspace(const Normed& w) {
  return w.n_columns() == 1 ? 0 : static_cast<uint64_t>(w.n_columns() * w.column_bytes);
}
static inline int64_t column_items(const Call& norm) {
  return norm.in[0].dim[1] == 1 ? 0 : norm.in[0].dim[1];
}
static inline int64_t column_grain(const Call& norm) {
  return norm.in[0].dim[1] >= 4 * kPanelColumns ? kPanelColumns : 1;
}
static inline void round_columns(const Normed& w, char* workspace, int64_t first, int64_t end,
                                 char* scratch) {
  for (int64_t i = first; i < end; ++i) {
    const char* x = normed_row(w, i, scratch);
    for (int k = 0; k < w.n; ++k) {
      if (w.set[k] != k) continue;
      const Problem& p = w.p[k];
      const Panel panel = panel_in(w.panels(workspace, k), w.n_columns(), p.column_bytes, i);
      p.math->prepare(MICA_F32, x, w.n_elems(), p.n_records, panel.width, i - panel.first,
                      panel.data);
    }
  }
}

// A single column: every turn norms and rounds it again, in its scratch.
static inline uint64_t normed_scratch(const Normed& w) {
  return static_cast<uint64_t>(w.float_bytes() + div_up_i64(w.column_bytes, 64) * 64);
}
namespace {
struct SingleColumn {
  const Normed& w;
  char* scratch;
  // `first`: this turn has the first item, and writes the norm's output if that has memory.
  SingleColumn(const Normed& normed, const uint8_t* weights, bool first, char* s)
      : w(normed), scratch(s) {
    warm(weights);
    Call norm = w.norm;
    if (!first) norm.out.data = nullptr;
    const Normed& all = w;
    Tensor floats{};
    floats.dtype = MICA_F32;
    char* x = norm.out.data != nullptr ? norm.out.data : scratch;
    rms_norm_row(norm, 0, floats, x);
    for (int k = 0; k < all.n; ++k) {
      if (all.set[k] != k) continue;
      all.p[k].math->prepare(MICA_F32, x, all.n_elems(), all.p[k].n_records, 1, 0, panel(k));
    }
  }
  char* panel(int k) const { return scratch + w.float_bytes() + w.before[k]; }
  // Group i of weight k.
  Group times(int k, int64_t i, float* lanes) const {
    const Group group = group_of(*w.matmul[k], w.p[k], 0, i);
    w.p[k].math->tile[0](group.data, w.p[k].n_records, panel(k), lanes);
    return group;
  }
};
}  // namespace

}  // namespace rows16
MICA_CPU_END
