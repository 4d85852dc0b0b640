// Weights in kLayoutRows16 times activations rounded into panels (quant/rows16.h).
#pragma once
#include "backends/cpu/quant/math.h"

MICA_CPU_BEGIN
namespace rows16 {

static inline const RowMath& math_of(mica_dtype weight, const Features& features) {
  const Rows16& t = *find_rows16(weight);
  return features.avx512_bf16 != 0 && t.math_bf16 != nullptr ? *t.math_bf16 : *t.math;
}
static inline const RowMath& math_of(const Call& c) { return math_of(c.in[0].dtype, *c.features); }
// Elements of a row that a record holds.
static inline int64_t record_elems(mica_dtype weight) {
  const Rows16& t = *find_rows16(weight);
  return static_cast<int64_t>(t.block_elems) * t.blocks;
}

// Panels of one tile of columns stay in the second-level cache while groups of weights pass by.
constexpr int64_t kTileBytes = 384 * 1024;
constexpr int64_t kMaxTileColumns = 256;

struct Problem {
  const RowMath* math;
  int64_t n_elems;    // of a row
  int64_t n_rows;     // of a slice of w
  int64_t n_slices;   // of w that live ones of x meet
  int64_t per2;       // slices of x that meet one of w, along dim 2, at most
  int64_t per3;       // and along dim 3
  int64_t n_columns;  // of x that meet the first slice of w: no other meets more
  int64_t n_records;  // of a row of w
  int64_t group_bytes;
  int64_t column_bytes;
  int64_t n_groups;  // of 16 rows that a slice may touch

  explicit Problem(const Call& c) {
    const Tensor& w = c.in[0];
    const Tensor& x = c.in[1];
    const Rows16& t = *find_rows16(w.dtype);
    math = &math_of(c);
    n_elems = w.dim[0];
    n_rows = w.dim[1];
    per2 = x.max_slices[0] / w.dim[2];
    per3 = x.max_slices[1] / w.dim[3];
    n_slices = div_up_i64(x.dim[2], per2) * div_up_i64(x.dim[3], per3);
    n_columns = x.dim[1] * min_i64(per2, x.dim[2]) * min_i64(per3, x.dim[3]);
    n_records = t.records(w.dim[0]);
    group_bytes = t.group_bytes(w.dim[0]);
    column_bytes = n_records * math->column_bytes;
    // A slice need not begin at a group.
    n_groups = div_up_i64(n_rows, kGroupRows) + (n_slices > 1 && n_rows % kGroupRows != 0 ? 1 : 0);
  }

  // How many turns a single column's groups are cut into. Every turn rounds the column again and
  // begins with a pause until the memory's stream is up to speed: at least 128 rows, of a large
  // weight an eighth of it or 1024 rows. A power of two of turns is shared out evenly.
  static int64_t single_turns(int64_t all_groups) {
    const int64_t most = min_i64(all_groups / 8, max_i64(8, all_groups / 64));
    int64_t n_turns = all_groups >= 8 ? 2 : 1;
    while (2 * n_turns <= most) n_turns *= 2;
    return n_turns;
  }
  static int64_t single_grain(int64_t all_groups) {
    return div_up_i64(all_groups, single_turns(all_groups));
  }

  int64_t tile_columns() const {
    const int64_t most =
        max_i64(2 * kPanelColumns, min_i64(kMaxTileColumns, kTileBytes / column_bytes));
    const int64_t n_tiles = max_i64(1, div_up_i64(n_columns, most));
    return div_up_i64(div_up_i64(n_columns, n_tiles), kPanelColumns) * kPanelColumns;
  }
  int64_t column_tiles() const {
    return n_columns == 0 ? 0 : div_up_i64(n_columns, tile_columns());
  }
  // About a million multiplications a turn.
  int64_t tile_grain() const {
    const int64_t work = kGroupRows * n_elems * min_i64(n_columns, tile_columns());
    return max_i64(1, min_i64(n_groups / 8, (1 << 20) / max_i64(work, 1)));
  }
};

// A slice of w, the first slice of x that meets it, and how many live columns do.
struct Slice {
  int64_t index, i2, i3, n_columns;
};
static inline Slice slice_of(const Call& c, const Problem& p, int64_t index) {
  if (index == 0) return {0, 0, 0, p.n_columns};
  // With an extent on x's dim[2] there is no dim[3], and one on dim[3] leaves dim[2] whole: live
  // columns are the first ones of a slice.
  const Tensor& x = c.in[1];
  const int64_t i2 = index % c.in[0].dim[2] * p.per2, i3 = index / c.in[0].dim[2] * p.per3;
  return {index, i2, i3,
          x.dim[1] * min_i64(p.per2, x.dim[2] - i2) * min_i64(p.per3, x.dim[3] - i3)};
}

// Column `i` of those that meet a slice of w: where it is in x and out.
struct Column {
  const char* x;
  char* out;
};
static inline Column column_of(const Call& c, const Problem& p, const Slice& slice, int64_t i) {
  const Tensor& x = c.in[1];
  int64_t i1 = i;
  int64_t i2 = slice.i2;
  int64_t i3 = slice.i3;
  if (i >= x.dim[1]) {
    i1 = i % x.dim[1];
    i2 += i / x.dim[1] % p.per2;
    i3 += i / x.dim[1] / p.per2;
  }
  return {x.data + i1 * x.stride[1] + i2 * x.stride[2] + i3 * x.stride[3],
          c.out.data + i1 * c.out.stride[1] + i2 * c.out.stride[2] + i3 * c.out.stride[3]};
}

// The panel that column i of a slice lies in: full ones first, then one as wide as what is left.
struct Panel {
  int64_t first;
  int64_t width;
  char* data;
};
static inline Panel panel_in(char* panels, int64_t n_columns, int64_t column_bytes, int64_t i) {
  const int64_t first = i / kPanelColumns * kPanelColumns;
  return {first, min_i64(kPanelColumns, n_columns - first), panels + first * column_bytes};
}
// Packed weights alone, and with them x rounded for weights of their type.
static inline bool takes_weights(const Call& c, uint32_t operand, uint32_t layout) {
  return c.op == MICA_OP_matmul && operand == 0 && layout == kLayoutRows16;
}
static inline bool takes_panels(const Call& c, uint32_t operand, uint32_t layout) {
  return takes_weights(c, operand, layout) ||
         (c.op == MICA_OP_matmul && operand == 1 && layout == kLayoutPanels + c.in[0].dtype);
}

static inline bool in_panels(const Call& c) { return c.in[1].layout != kLayoutPlain; }
static inline Panel panel_of(const Call& c, const Problem& p, const Slice& slice, int64_t i) {
  char* const panels = in_panels(c) ? c.in[1].data : c.workspace;
  return panel_in(panels + slice.index * p.n_columns * p.column_bytes, slice.n_columns,
                  p.column_bytes, i);
}

static inline void prepare_columns(const Call& c, const Problem& p, int64_t first, int64_t end) {
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / p.n_columns);
    const int64_t i = item % p.n_columns;
    if (i >= slice.n_columns) continue;
    const Panel panel = panel_of(c, p, slice, i);
    p.math->prepare(c.in[1].dtype, column_of(c, p, slice, i).x, c.in[1].dim[0], p.n_records,
                    panel.width, i - panel.first, panel.data);
  }
}

// Group `i` of a slice: its weights and which of its 16 rows belong to the slice.
struct Group {
  const uint8_t* data;
  int64_t row;   // of the slice, of the first lane that belongs to it
  int64_t lane;  // that lane
  int64_t n;     // lanes; may be 0
};
static inline Group group_of(const Call& c, const Problem& p, int64_t slice, int64_t i) {
  const int64_t begin = slice * p.n_rows;
  const int64_t index = begin / kGroupRows + i;
  const int64_t low = max_i64(begin, index * kGroupRows);
  const int64_t high = min_i64(begin + p.n_rows, (index + 1) * kGroupRows);
  return {reinterpret_cast<const uint8_t*>(c.in[0].data) + index * p.group_bytes, low - begin,
          low - index * kGroupRows, max_i64(high - low, 0)};
}

MICA_INLINE void put_lanes(char* out, const Group& group, const float* lanes) {
  float* y = reinterpret_cast<float*>(out) + group.row;
  if (group.n == kGroupRows) {
    store(y, load(lanes));
  } else {
    for (int64_t r = 0; r < group.n; ++r) y[r] = lanes[group.lane + r];
  }
}

// emit(slice, i, group, lanes): column i of those that meet the slice, times the group.
template <class Emit>
static void run_tiles(const Call& c, const Problem& p, int64_t first, int64_t end, Emit emit) {
  const int64_t tile_columns = p.tile_columns();
  const int64_t n_tiles = p.column_tiles();
  float out[kPanelColumns * kGroupRows];
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / (n_tiles * p.n_groups));
    const int64_t tile = item / p.n_groups % n_tiles;
    const Group group = group_of(c, p, slice.index, item % p.n_groups);
    if (group.n == 0) continue;
    const int64_t last = min_i64(slice.n_columns, (tile + 1) * tile_columns);
    for (int64_t i = tile * tile_columns; i < last;) {
      const Panel panel = panel_of(c, p, slice, i);
      p.math->tile[panel.width - 1](group.data, p.n_records, panel.data, out);
      for (int64_t j = 0; j < panel.width; ++j) {
        emit(slice, i + j, group, out + j * kGroupRows);
      }
      i += panel.width;
    }
  }
}

constexpr int64_t kWarmBytes = 2048;

// While the first weights are on their way, a turn rounds its column.
MICA_INLINE void warm(const uint8_t* weights) {
  for (int64_t i = 0; i < kWarmBytes; i += 64) __builtin_prefetch(weights + i);
}

// One column a slice: every turn rounds it again, unless it came rounded.
template <class Emit>
static void run_single(const Call& c, const Problem& p, int64_t first, int64_t end, char* panel,
                       Emit emit) {
  int64_t prepared = -1;
  float out[kGroupRows];
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / p.n_groups);
    const Group group = group_of(c, p, slice.index, item % p.n_groups);
    if (group.n == 0) continue;
    if (in_panels(c)) {
      panel = panel_of(c, p, slice, 0).data;
    } else if (slice.index != prepared) {
      warm(group.data);
      p.math->prepare(c.in[1].dtype, column_of(c, p, slice, 0).x, c.in[1].dim[0], p.n_records, 1, 0,
                      panel);
      prepared = slice.index;
    }
    p.math->tile[0](group.data, p.n_records, panel, out);
    emit(slice, 0, group, out);
  }
}

// The phases of a matmul: rounding the columns, unless there is one (each thread that needs it
// rounds it: cheaper than a barrier) or they came rounded; then groups times columns.
static inline uint64_t panels_workspace(const Call& c) {
  const Problem p(c);
  return p.n_columns == 1 || in_panels(c)
             ? 0
             : static_cast<uint64_t>(p.n_slices * p.n_columns * p.column_bytes);
}
static inline uint64_t panel_scratch(const Call& c) {
  return static_cast<uint64_t>(Problem(c).column_bytes);
}
// Asked at every step: one column of one slice, without the divisions of a Problem.
MICA_INLINE bool is_single(const Call& c) {
  return c.in[1].dim[1] == 1 && c.in[1].dim[2] == 1 && c.in[1].dim[3] == 1;
}
MICA_INLINE int64_t single_groups(const Call& c) { return div_up_i64(c.in[0].dim[1], kGroupRows); }
static inline int64_t phase_items(const Call& c, uint32_t phase) {
  if (is_single(c)) return phase == 0 ? 0 : single_groups(c);
  const Problem p(c);
  if (phase == 0) return p.n_columns == 1 || in_panels(c) ? 0 : p.n_slices * p.n_columns;
  return p.n_slices * p.n_groups * (p.n_columns == 1 ? 1 : p.column_tiles());
}
static inline int64_t phase_grain(const Call& c, uint32_t phase) {
  if (is_single(c)) return Problem::single_grain(single_groups(c));
  const Problem p(c);
  if (phase == 0) return p.n_columns >= 4 * kPanelColumns ? kPanelColumns : 1;
  return p.n_columns == 1 ? Problem::single_grain(p.n_groups) : p.tile_grain();
}
template <class Emit>
static void run_phase(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch,
                      Emit emit) {
  const Problem p(c);
  if (phase == 0) {
    prepare_columns(c, p, first, end);
  } else if (p.n_columns == 1) {
    run_single(c, p, first, end, scratch, emit);
  } else {
    run_tiles(c, p, first, end, emit);
  }
}

// nullptr: the weight is packed, and x floats, plain or rounded as the weight wants it.
static inline const char* rows16_supports(const Call& c) {
  if (c.in[0].layout != kLayoutRows16) return "w is not a packed weight";
  const Tensor& x = c.in[1];
  const bool floats = x.dtype == MICA_F32 || x.dtype == MICA_F16 || x.dtype == MICA_BF16;
  return floats ? nullptr : "x is not F32, F16 or BF16";
}
// Of x, if it comes rounded.
static inline uint64_t rows16_panel_bytes(const Call& c) {
  const Problem p(c);
  return p.n_slices == 1 ? static_cast<uint64_t>(p.n_columns * p.column_bytes) : 0;
}

}  // namespace rows16
MICA_CPU_END
