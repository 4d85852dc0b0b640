// norm_glu: core/fusions/norm_glu.cpp's region, of packed weights. A group of gate's rows and the
// same of up's are made together, so that neither is stored.
#include "backends/cpu/kernels/norm_rows16.h"
#include "backends/cpu/kernels/unary.h"

MICA_CPU_BEGIN
namespace rows16 {

enum GluMember { kNorm, kGate, kUp, kAct, kMul };

static Normed normed(const Call& c) {
  const Call* const matmuls[] = {&c.members[kGate], &c.members[kUp]};
  return Normed(c.members[kNorm], matmuls, 2);
}

static const char* supports(const Call& c) {
  const Call* const matmuls[] = {&c.members[kGate], &c.members[kUp]};
  for (int i = kGate; i <= kAct; ++i) {
    if (c.members[i].out.data != nullptr) return "gate, up or the activation is used elsewhere too";
  }
  // Columns of the result are gate's and up's.
  const Tensor* const same[] = {&c.members[kUp].out, &c.members[kMul].out};
  for (const Tensor* t : same) {
    for (int d = 0; d < 4; ++d) {
      if (t->dim[d] != c.members[kGate].out.dim[d])
        return "gate, up and their product are of different shapes";
    }
  }
  if (c.members[kMul].out.stride[0] != 4) return "the result's rows are not dense F32";
  return normed_supports(c.members[kNorm], matmuls, 2);
}

static bool takes(const Call& c, uint32_t operand, uint32_t layout) {
  return takes_weights(c, operand, layout) ||
         (c.op == MICA_OP_mul && operand == kOutputOperand && layout >= kLayoutPanels);
}

static uint32_t numerics(const Call& c) { return math_of(c.members[kGate]).numerics; }
static uint64_t workspace(const Call& c) { return normed_workspace(normed(c)); }

// The result as rows, or rounded for the projection that reads it (kLayoutPanels): then an item
// makes as many rows as one of that weight's records holds.
struct Result {
  const Tensor& y;
  const RowMath* math = nullptr;  // of the reader
  int64_t n_records = 0;          // of the reader's rows
  int64_t granule_records = 0;
  int64_t granule = kGroupRows;  // rows of an item

  explicit Result(const Call& c) : y(c.members[kMul].out) {
    if (y.layout == kLayoutPlain) return;
    const mica_dtype reader = static_cast<mica_dtype>(y.layout - kLayoutPanels);
    const int64_t elems = record_elems(reader);
    math = &math_of(reader, *c.members[kMul].features);
    n_records = div_up_i64(y.dim[0], elems);
    granule = max_i64(granule, elems);
    granule_records = granule / elems;
  }
  bool in_panels() const { return math != nullptr; }
  int64_t groups() const { return granule / kGroupRows; }
  // Column i, rows [granule * g, …): rounded from `rows`.
  void round(int64_t n_columns, int64_t i, int64_t g, const float* rows) const {
    const int64_t column_bytes = math->column_bytes;
    const Panel panel = panel_in(y.data, n_columns, n_records * column_bytes, i);
    const int64_t first = g * granule_records;
    math->prepare(MICA_F32, reinterpret_cast<const char*>(rows),
                  min_i64(granule, y.dim[0] - g * granule),
                  min_i64(granule_records, n_records - first), panel.width, i - panel.first,
                  panel.data + first * panel.width * column_bytes);
  }
};

static int64_t granules(const Call& c, const Result& r) {
  return div_up_i64(single_groups(c.members[kGate]), r.groups());
}
// Columns of an item. Where its rows are many, columns are fewer, so that there are enough items to
// be shared out evenly.
static int64_t tile_columns(const Problem& p, int64_t n_granules) {
  int64_t n = p.tile_columns();
  while (n > 8 * kPanelColumns && n_granules * div_up_i64(p.n_columns, n) < 64) {
    n = div_up_i64(n, 2 * kPanelColumns) * kPanelColumns;
  }
  return n;
}
static int64_t items(const Call& c, uint32_t phase) {
  if (phase == 0) return column_items(c.members[kNorm]);
  const int64_t n = granules(c, Result(c));
  if (is_single(c.members[kGate])) return n;
  const Problem p(c.members[kGate]);
  return p.n_columns == 0 ? 0 : n * div_up_i64(p.n_columns, tile_columns(p, n));
}
static int64_t grain(const Call& c, uint32_t phase) {
  if (phase == 0) return column_grain(c.members[kNorm]);
  if (is_single(c.members[kGate])) {
    return div_up_i64(granules(c, Result(c)),
                      Problem::single_turns(2 * single_groups(c.members[kGate])));
  }
  return max_i64(1, Problem(c.members[kGate]).tile_grain() / (2 * Result(c).groups()));
}

// Behind the column's part: of one column a turn's rows, of several an item's before they are
// rounded.
static uint64_t scratch_bytes(const Call& c) {
  const Normed w = normed(c);
  const Result r(c);
  const int64_t one = granules(c, r) * r.granule;
  // Fewer live columns may make fewer, wider tiles.
  const int64_t columns = div_up_i64(w.n_columns(), kPanelColumns) * kPanelColumns;
  const int64_t several = r.in_panels() ? r.granule * min_i64(columns, kMaxTileColumns) : 0;
  return normed_scratch(w) + static_cast<uint64_t>(max_i64(one, several)) * 4;
}

// act(gate) * up of one column and group, to y[0 … group.n).
template <class Act>
MICA_INLINE void put_gated(float* y, const Group& group, const float* gate, const float* up,
                           Act act) {
  float lanes[kGroupRows];
  Group at = group;
  at.row = 0;
  store(lanes, act(load(gate)) * load(up));
  put_lanes(reinterpret_cast<char*>(y), at, lanes);
}

// All of a turn's gate rows before its up rows: memory is read as one stream, then another.
template <class Act>
static void run_one_column(const Normed& w, const Result& r, int64_t first, int64_t end,
                           char* scratch, Act act) {
  const int64_t begin = first * r.groups(), last = min_i64(end * r.groups(), w.p[0].n_groups);
  const Group at = group_of(*w.matmul[0], w.p[0], 0, begin);
  const SingleColumn column(w, at.data, first == 0, scratch);
  float* const gate = reinterpret_cast<float*>(scratch + normed_scratch(w));
  float up[kGroupRows];
  for (int64_t i = begin; i < last; ++i) column.times(0, i, gate + (i - begin) * kGroupRows);
  for (int64_t i = begin; i < last; ++i) {
    const Group group = column.times(1, i, up);
    float* const rows = gate + (i - begin) * kGroupRows;
    float* const y = r.in_panels() ? rows : reinterpret_cast<float*>(r.y.data) + i * kGroupRows;
    put_gated(y, group, rows, up, act);
  }
  for (int64_t g = first; r.in_panels() && g < end; ++g) {
    r.round(1, 0, g, gate + (g - first) * r.granule);
  }
}

template <class Act>
static void run_columns(const Call& c, const Normed& w, const Result& r, int64_t first, int64_t end,
                        char* scratch, Act act) {
  const Problem &p = w.p[0], &q = w.p[1];
  const int64_t n_granules = granules(c, r), n_tile = tile_columns(p, n_granules);
  float* const rows = reinterpret_cast<float*>(scratch + normed_scratch(w));
  float gate[kPanelColumns * kGroupRows], up[kPanelColumns * kGroupRows];
  for (int64_t item = first; item < end; ++item) {
    const int64_t g = item % n_granules, tile = item / n_granules;
    const int64_t begin = tile * n_tile, last = min_i64(p.n_columns, begin + n_tile);
    for (int64_t k = g * r.groups(); k < min_i64((g + 1) * r.groups(), p.n_groups); ++k) {
      const Group group = group_of(*w.matmul[0], p, 0, k);
      const Group other = group_of(*w.matmul[1], q, 0, k);
      for (int64_t i = begin; i < last;) {
        const Panel a = panel_in(w.panels(c.workspace, 0), p.n_columns, p.column_bytes, i);
        const Panel b = panel_in(w.panels(c.workspace, 1), p.n_columns, q.column_bytes, i);
        p.math->tile[a.width - 1](group.data, p.n_records, a.data, gate);
        q.math->tile[a.width - 1](other.data, q.n_records, b.data, up);
        for (int64_t j = 0; j < a.width; ++j, ++i) {
          float* const y = r.in_panels()
                               ? rows + (i - begin) * r.granule + (k - g * r.groups()) * kGroupRows
                               : reinterpret_cast<float*>(r.y.data + i * r.y.stride[1]) + group.row;
          put_gated(y, group, gate + j * kGroupRows, up + j * kGroupRows, act);
        }
      }
    }
    if (!r.in_panels()) continue;
    for (int64_t i = begin; i < last; ++i) {
      r.round(p.n_columns, i, g, rows + (i - begin) * r.granule);
    }
  }
}

template <class Act>
static void run_with(const Call& c, int64_t first, int64_t end, char* scratch, Act act) {
  const Normed w = normed(c);
  const Result r(c);
  if (w.n_columns() == 1) return run_one_column(w, r, first, end, scratch, act);
  run_columns(c, w, r, first, end, scratch, act);
}

static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  if (phase == 0) return round_columns(normed(c), c.workspace, first, end, scratch);
  if (c.members[kAct].op == MICA_OP_silu) {
    return run_with(c, first, end, scratch, [](f32x16 x) { return silu(x); });
  }
  run_with(c, first, end, scratch, [](f32x16 x) { return gelu(x); });
}

static constexpr Kernel rows[] = {
    {"norm_glu", "", 2, supports, numerics, workspace, scratch_bytes, items, run, grain, nullptr,
     true, takes},
};

}  // namespace rows16

MICA_CPU_KERNELS(norm_glu, rows16::rows, MICA_KNOWS(rms_norm, eps))
MICA_CPU_END
