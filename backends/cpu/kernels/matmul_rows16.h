// Weights in kLayoutRows16 times activations rounded into panels (quant/rows16.h).
#pragma once
#include "backends/cpu/quant/math.h"

MICA_CPU_BEGIN
namespace rows16 {

static inline const RowMath& math_of(const Call& c) {
  const Rows16& t = *find_rows16(c.in[0].dtype);
  return c.features->avx512_bf16 != 0 && t.math_bf16 != nullptr ? *t.math_bf16 : *t.math;
}

// Panels of one tile of columns stay in the second-level cache while groups of weights pass by.
constexpr int64_t kTileBytes = 384 * 1024;
constexpr int64_t kMaxTileColumns = 256;

struct Problem {
  const RowMath* math;
  int64_t n_elems;    // of a row
  int64_t n_rows;     // of a slice of w
  int64_t n_slices;   // of w
  int64_t per2;       // slices of x that meet one of w, along dim 2
  int64_t per3;       // and along dim 3
  int64_t n_columns;  // of x that meet one slice of w
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
    n_slices = w.dim[2] * w.dim[3];
    per2 = x.dim[2] / w.dim[2];
    per3 = x.dim[3] / w.dim[3];
    n_columns = x.dim[1] * per2 * per3;
    n_records = t.records(w.dim[0]);
    group_bytes = t.group_bytes(w.dim[0]);
    column_bytes = n_records * math->column_bytes;
    // A slice need not begin at a group.
    n_groups = div_up_i64(n_rows, kGroupRows) + (n_slices > 1 && n_rows % kGroupRows != 0 ? 1 : 0);
  }

  // Groups worth taking at a time for a single column. Every turn rounds the column again and
  // begins with a pause until the memory's stream is up to speed: at least 128 rows, of a large
  // weight an eighth of it or 1024 rows. A power of two of turns is shared out evenly.
  int64_t single_grain() const {
    const int64_t most = min_i64(n_groups / 8, max_i64(8, n_groups / 64));
    int64_t n_turns = n_groups >= 8 ? 2 : 1;
    while (2 * n_turns <= most) n_turns *= 2;
    return div_up_i64(n_groups, n_turns);
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

// A slice of w, and the first slice of x that meets it.
struct Slice {
  int64_t index, i2, i3;
};
static inline Slice slice_of(const Call& c, const Problem& p, int64_t index) {
  if (index == 0) return {0, 0, 0};
  return {index, index % c.in[0].dim[2] * p.per2, index / c.in[0].dim[2] * p.per3};
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
static inline Panel panel_of(const Call& c, const Problem& p, int64_t slice, int64_t i) {
  const int64_t first = i / kPanelColumns * kPanelColumns;
  return {first, min_i64(kPanelColumns, p.n_columns - first),
          c.workspace + (slice * p.n_columns + first) * p.column_bytes};
}

static inline void prepare_columns(const Call& c, const Problem& p, int64_t first, int64_t end) {
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / p.n_columns);
    const int64_t i = item % p.n_columns;
    const Panel panel = panel_of(c, p, slice.index, i);
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

static inline void run_tiles(const Call& c, const Problem& p, int64_t first, int64_t end) {
  const int64_t tile_columns = p.tile_columns();
  const int64_t n_tiles = p.column_tiles();
  float out[kPanelColumns * kGroupRows];
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / (n_tiles * p.n_groups));
    const int64_t tile = item / p.n_groups % n_tiles;
    const Group group = group_of(c, p, slice.index, item % p.n_groups);
    if (group.n == 0) continue;
    const int64_t last = min_i64(p.n_columns, (tile + 1) * tile_columns);
    for (int64_t i = tile * tile_columns; i < last;) {
      const Panel panel = panel_of(c, p, slice.index, i);
      p.math->tile[panel.width - 1](group.data, p.n_records, panel.data, out);
      for (int64_t j = 0; j < panel.width; ++j) {
        put_lanes(column_of(c, p, slice, i + j).out, group, out + j * kGroupRows);
      }
      i += panel.width;
    }
  }
}

constexpr int64_t kWarmBytes = 2048;

// One column a slice: every turn rounds it again, while the first weights are on their way.
static inline void run_single(const Call& c, const Problem& p, int64_t first, int64_t end,
                              char* panel) {
  int64_t prepared = -1;
  float out[kGroupRows];
  for (int64_t item = first; item < end; ++item) {
    const Slice slice = slice_of(c, p, item / p.n_groups);
    const Group group = group_of(c, p, slice.index, item % p.n_groups);
    if (group.n == 0) continue;
    const Column column = column_of(c, p, slice, 0);
    if (slice.index != prepared) {
      for (int64_t i = 0; i < kWarmBytes; i += 64) __builtin_prefetch(group.data + i);
      p.math->prepare(c.in[1].dtype, column.x, c.in[1].dim[0], p.n_records, 1, 0, panel);
      prepared = slice.index;
    }
    p.math->tile[0](group.data, p.n_records, panel, out);
    put_lanes(column.out, group, out);
  }
}

}  // namespace rows16
MICA_CPU_END
