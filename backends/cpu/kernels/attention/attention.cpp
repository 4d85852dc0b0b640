// Attention over KV pages: a tile of query rows goes once over its entries with an online softmax
// (Milakov and Gimelshein, arXiv 1805.02867), so K and V are read once for all query heads of a kv
// head and all tokens of the tile. Everything is summed in F32.
#include "backends/cpu/kernels/attention/attention_naive.h"
#include "backends/cpu/kernels/attention/attention_softmax.h"
#include "backends/cpu/kernels/attention/attention_task.h"
#include "backends/cpu/kernels/attention/attention_tile.h"

MICA_CPU_BEGIN

static const char* head_at(const Tensor& state, const KvPage& page, const Entry& e,
                           int64_t kv_head) {
  return state.data + e.page * page.page_bytes + kv_head * page.head_bytes;
}

// Raw scores of the rows and runs that the view has. Un-rotated keys are rotated in registers for
// few rows, and once for many.
static void score_entry(Tile& t, const Entry& e, const Entry& next, const View& w, int64_t run0,
                        int64_t run1) {
  const Shape& s = *t.shape;
  const Tensor& state = t.call->in[MICA_ATTENTION_K];
  const char* head = head_at(state, s.k, e, t.kv_head);
  const char* ahead = head_at(state, s.k, next, t.kv_head);
  const int64_t n_rows = w.row1 - w.row0;
  const float* q = query_operand(t, e) + w.row0;
  float* scores = t.scratch.scores + w.row0 * kPageCells;
  if (s.n_key_pairs == 0) {
    scores_of(key_operand(s.k, head, n_rows, run0, run1, ahead, t.scratch.k), q, t.n_rows, n_rows,
              s.dim_k, run0, run1, scores);
    return;
  }
  float* angles = t.scratch.angles;
  if (e.div != 1) divided_angles(*t.call, e, s.n_key_pairs, angles);
  if (n_rows > kDirectRows) {
    scores_of(rotated_keys(*t.call, s.k, head, angles, run0, run1, ahead, t.scratch.k), q, t.n_rows,
              n_rows, s.dim_k, run0, run1, scores);
  } else {
    const TileOperand k = key_operand(s.k, head, n_rows, run0, run1, ahead, t.scratch.k);
    const auto rotated = k.dtype == MICA_F16    ? rotated_scores<ElemF16>
                         : k.dtype == MICA_BF16 ? rotated_scores<ElemBF16>
                                                : rotated_scores<ElemF32>;
    rotated(*t.call, k, angles, q, t.n_rows, n_rows, s.dim_k, run0, run1, scores);
  }
  if (e.div != 1) key_angles(*t.call, s.n_key_pairs, angles);
}

// One entry of the cache against the tile. `next`: the entry after it.
static void add_entry(Tile& t, const Entry& e, const Entry& next, int64_t cells_before) {
  const Shape& s = *t.shape;
  View w;
  if (!view_entry(t, e, &w)) return;
  w.column = cells_before - e.first_cell;
  const Tensor& v_state = t.call->in[MICA_ATTENTION_V];
  const int64_t run0 = w.cell0 / 16;
  const int64_t run1 = div_up_i64(w.cell1, 16);
  const int64_t n_rows = w.row1 - w.row0;
  score_entry(t, e, next, w, run0, run1);
  const bool hides = softmax_rows(t, w, run0, run1);
  const char* head = head_at(v_state, s.v, e, t.kv_head);
  const char* ahead = head_at(v_state, s.v, next, t.kv_head);
  const TileOperand v =
      s.v.is_v ? value_operand(s.v, head, n_rows, w.cell0, w.cell1, s.dim_v_pad, ahead, t.scratch.v)
               : values_of_keys(s.v, head, w.cell0, w.cell1, s.dim_v_pad, ahead, t.scratch.k,
                                t.scratch.v);
  const float* weights = t.scratch.scores + w.row0 * kPageCells;
  float* sums = t.scratch.sums + w.row0 * s.dim_v_pad;
  if (hides && not_finite(v, w.cell0, w.cell1, s.dim_v_pad)) {
    add_seen_values(v, weights, t.scratch.hidden + w.row0, n_rows, w.cell0, w.cell1, s.dim_v_pad,
                    sums);
  } else {
    add_values(v, weights, n_rows, w.cell0, w.cell1, s.dim_v_pad, sums);
  }
}

// A row's result: sums / (denom + e^(sink - largest)); nothing seen and no sink: zeros. `less`
// multiplies `sums`.
static void write_row(const Call& call, const Shape& s, const float* sums, float largest,
                      float denom, int64_t token, int64_t head) {
  const Tensor& sinks = call.in[MICA_ATTENTION_SINKS];
  float less = 1.0f;
  if (sinks.data != nullptr) {
    const float sink = *reinterpret_cast<const float*>(sinks.data + head * sinks.stride[0]);
    const float top = largest > sink ? largest : sink;
    float lanes[16] = {largest - top, sink - top};
    if (top == -__builtin_inff()) lanes[0] = lanes[1] = 0.0f;
    store(lanes, exp(load(lanes)));
    less = lanes[0];
    denom = denom * less + lanes[1];
  }
  const float factor = denom == 0.0f ? 0.0f : less / denom;
  float* out = reinterpret_cast<float*>(call.out.data + token * call.out.stride[2] +
                                        head * call.out.stride[1]);
  for (int64_t i = 0; i < s.dim_v; i += 16) {
    const f32x16 x = load(sums + i) * set1(factor);
    const int64_t n = s.dim_v - i;
    if (n >= 16) {
      store(out + i, x);
    } else {
      store_n(out + i, x, n);
    }
  }
}

static void write_zeros(const Call& call, const Cut& cut, int64_t kv_head) {
  const Shape& s = cut.shape;
  const Range covered = covered_tokens(cut);
  for (int64_t token = 0; token < s.n_tokens; ++token) {
    if (token >= covered.begin && token < covered.end) continue;
    for (int64_t head = kv_head * s.group; head < (kv_head + 1) * s.group; ++head) {
      char* out = call.out.data + token * call.out.stride[2] + head * call.out.stride[1];
      __builtin_memset(out, 0, static_cast<size_t>(s.dim_v) * 4);
    }
  }
}

// A kept result of a kv head: sums [rows][dim_v_pad], then largest and denom, [rows] each.
static float* slot_at(const Call& call, const Shape& s, int64_t slot, int64_t kv_head) {
  return reinterpret_cast<float*>(call.workspace) + slot * slot_floats(s) +
         kv_head * slot_head_floats(s);
}

static void keep(const Tile& t, int64_t slot) {
  const Shape& s = *t.shape;
  float* sums = slot_at(*t.call, s, slot, t.kv_head);
  float* largest = sums + slot_rows(s) * s.dim_v_pad;
  float* denom = largest + slot_rows(s);
  for (int64_t i = 0; i < t.n_rows * s.dim_v_pad; i += 16) {
    store(sums + i, load(t.scratch.sums + i));
  }
  for (int64_t row = 0; row < t.n_rows; ++row) {
    largest[row] = t.scratch.largest[row];
    denom[row] = reduce_add(load(t.scratch.denom + row * 16));
  }
}

static void run_unit(const Call& call, const Cut& cut, const Unit& unit, int64_t kv_head,
                     char* scratch) {
  const Shape& s = cut.shape;
  Tile t;
  t.call = &call;
  t.args = static_cast<const mica_attention_args*>(call.args);
  t.shape = &s;
  carve(s, scratch, &t.scratch);
  t.kv_head = kv_head;
  t.token0 = unit.tokens.begin;
  t.n_tokens = unit.tokens.size();
  t.n_rows = t.n_tokens * s.group;
  t.turn = kNoTurn;
  for (int64_t i = 0; i < t.n_rows * s.dim_v_pad; i += 16) store(t.scratch.sums + i, zero());
  for (int64_t row = 0; row < t.n_rows; ++row) {
    t.scratch.largest[row] = -__builtin_inff();
    store(t.scratch.denom + row * 16, zero());
  }
  int64_t cells_before = 0;
  if (call.in[MICA_ATTENTION_MASK].data != nullptr) {
    for (int64_t i = unit.first_entry; i < unit.entries.begin; ++i) {
      cells_before += table_entry(cut.table, i).n_cells;
    }
  }
  if (unit.entries.size() > 0) {
    Entry e = table_entry(cut.table, unit.entries.begin);
    for (int64_t i = unit.entries.begin; i < unit.entries.end; ++i) {
      const Entry next = table_entry(cut.table, min_i64(i + 1, unit.entries.end - 1));
      add_entry(t, e, next, cells_before);
      cells_before += e.n_cells;
      e = next;
    }
  }
  if (unit.slot >= 0) {
    keep(t, unit.slot);
    return;
  }
  for (int64_t row = 0; row < t.n_rows; ++row) {
    write_row(call, s, t.scratch.sums + row * s.dim_v_pad, t.scratch.largest[row],
              reduce_add(load(t.scratch.denom + row * 16)), t.token0 + row / s.group,
              kv_head * s.group + row % s.group);
  }
}

// A row's chunks, in order, to its result.
static void merge_row(const Call& call, const Cut& cut, const SeqCut& seq, int64_t kv_head,
                      int64_t row, float* sums) {
  const Shape& s = cut.shape;
  const int64_t rows = slot_rows(s);
  float top = -__builtin_inff();
  for (int64_t i = 0; i < seq.n_chunks; ++i) {
    const float m = slot_at(call, s, seq.slot + i, kv_head)[rows * s.dim_v_pad + row];
    if (m > top) top = m;
  }
  float denom = 0.0f;
  for (int64_t j = 0; j < s.dim_v_pad; j += 16) store(sums + j, zero());
  for (int64_t i = 0; i < seq.n_chunks; ++i) {
    const float* part = slot_at(call, s, seq.slot + i, kv_head);
    const float m = part[rows * s.dim_v_pad + row];
    // A chunk that saw nothing; but one of not-a-numbers alone has no maximum either.
    if (m == -__builtin_inff() && top != m && part[rows * (s.dim_v_pad + 1) + row] == 0) continue;
    float lanes[16];
    store(lanes, exp(set1(m == top ? 0.0f : m - top)));
    const f32x16 weight = set1(lanes[0]);
    denom += lanes[0] * part[rows * (s.dim_v_pad + 1) + row];
    for (int64_t j = 0; j < s.dim_v_pad; j += 16) {
      store(sums + j, fma(load(part + row * s.dim_v_pad + j), weight, load(sums + j)));
    }
  }
  write_row(call, s, sums, top, denom, seq.tokens.begin + row / s.group,
            kv_head * s.group + row % s.group);
}

static const char* supports(const Call& call) {
  Shape s;
  const Tensor& q = call.in[MICA_ATTENTION_Q];
  const Tensor& mask = call.in[MICA_ATTENTION_MASK];
  if (call.in[MICA_ATTENTION_K].layout != kLayoutKPage ||
      (call.in[MICA_ATTENTION_V].layout != kLayoutVPage &&
       call.in[MICA_ATTENTION_V].layout != kLayoutKPage)) {
    return "K or V is not of a cache";
  }
  if (!attention_shape(call, &s)) return kPageTypes;
  if (q.dtype != MICA_F32 && q.dtype != MICA_F16 && q.dtype != MICA_BF16) {
    return "q must be F32, F16 or BF16";
  }
  if (q.stride[0] != (q.dtype == MICA_F32 ? 4 : 2)) return "the elements of q are not adjacent";
  if (mask.data != nullptr && mask.dtype != MICA_F32 && mask.dtype != MICA_F16) {
    return "the mask must be F32 or F16";
  }
  return nullptr;
}

static bool takes(const Call&, uint32_t operand, uint32_t layout) {
  return (operand == MICA_ATTENTION_K && layout == kLayoutKPage) ||
         (operand == MICA_ATTENTION_V && (layout == kLayoutVPage || layout == kLayoutKPage));
}

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static uint64_t workspace(const Call& call) {
  Shape s;
  if (!attention_shape(call, &s)) return 0;
  return static_cast<uint64_t>(s.max_slots * slot_floats(s)) * 4;
}

static uint64_t scratch_bytes(const Call& call) {
  Shape s;
  Scratch unused;
  return attention_shape(call, &s) ? carve(s, nullptr, &unused) : 0;
}

static int64_t items(const Call& call, uint32_t phase) {
  const Cut cut = attention_cut(call);
  return cut.shape.n_kv_heads * (phase == 0 ? count_units(cut) : count_merges(cut));
}

static void run(const Call& call, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  const Cut cut = attention_cut(call);
  const int64_t heads = cut.shape.n_kv_heads;
  Scratch room;
  carve(cut.shape, scratch, &room);
  if (phase == 0 && cut.shape.n_key_pairs != 0)
    key_angles(call, cut.shape.n_key_pairs, room.angles);
  for (int64_t i = first; i < end; ++i) {
    Unit unit;
    SeqCut seq;
    if (phase == 0) {
      if (find_unit(cut, i / heads, &unit)) {
        run_unit(call, cut, unit, i % heads, scratch);
      } else {
        write_zeros(call, cut, i % heads);
      }
    } else if (find_merge(cut, i / heads, &seq)) {
      const int64_t n_rows = seq.tokens.size() * cut.shape.group;
      for (int64_t row = 0; row < n_rows; ++row) {
        merge_row(call, cut, seq, i % heads, row, room.sums);
      }
    }
  }
}

static constexpr Kernel kRows[] = {
    {"attention", "tile", 2, supports, numerics, workspace, scratch_bytes, items, run, nullptr,
     nullptr, false, takes},
    {"attention", "naive", 1, supports, numerics, nullptr, naive_scratch, naive_items, naive_run,
     nullptr, nullptr, false, takes},
};

MICA_CPU_KERNELS(attention, kRows, MICA_KNOWS(attention, rope_keys))

MICA_CPU_END
