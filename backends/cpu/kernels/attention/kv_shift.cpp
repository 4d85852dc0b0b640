// Stored K of the listed cells rotated to other positions, where it is: decoded, rotated as RoPE
// does, and encoded as kv_append does. All is computed in double and rounded once, so that a cache
// holds what the reference's would. First the frequencies, to the workspace; then cells, of all
// heads, which share cosines and sines as do cells next to each other that move alike: sixteen that
// lie side by side at once, or one.
#include "backends/cpu/kernels/attention/kv_run.h"
#include "backends/cpu/kernels/rope_angle.h"
#include "mica/kv_table.h"
#include "ops/kv_shift_args.h"
#include "ops/rope.h"

MICA_CPU_BEGIN

enum ShiftInput { kState, kShifts, kFactors };

constexpr int64_t kMaxHeadDim = 4096;

static bool takes(const Call&, uint32_t operand, uint32_t layout) {
  return (operand == kState || operand == kOutputOperand) && layout == kLayoutKPage;
}

static bool state_page(const Call& call, KvPage* out) {
  const Tensor& state = call.in[kState];
  return kv_page(state.dtype, false, state.dim[0], state.dim[1], out);
}

static const char* supports(const Call& call) {
  KvPage page;
  if (call.in[kState].layout != kLayoutKPage) return "the state is not K of a cache";
  if (!state_page(call, &page)) return kPageTypes;
  return page.head_dim > kMaxHeadDim ? "heads of more than 4096 elements" : nullptr;
}

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static int64_t padded_head(const Call& call) {
  return div_up_i64(call.in[kState].dim[0], kQuantElems) * kQuantElems;
}

static int64_t count_pairs(const Call& call) {
  return static_cast<const mica_kv_shift_args*>(call.args)->angles.n_rot / 2;
}

// Radians per position of each pair.
static uint64_t workspace(const Call& call) {
  return static_cast<uint64_t>(count_pairs(call)) * sizeof(double);
}

// A thread's memory.
struct ShiftScratch {
  double* cosine;  // [n_pairs], of the angle by which cells are rotated now
  double* sine;    // [n_pairs]
  double* first;   // [n_pairs], a row's rotated pairs
  double* second;  // [n_pairs]
  RunRow* lanes;   // [padded_head], of sixteen cells
  float* row;      // [padded_head]
  char* encoded;
};

static ShiftScratch carve(const Call& call, char* base) {
  const int64_t n_pairs = count_pairs(call);
  double* const cosine = reinterpret_cast<double*>(base);
  RunRow* const lanes = reinterpret_cast<RunRow*>(cosine + 4 * n_pairs);
  float* const row = lanes[padded_head(call)];
  return {cosine,
          cosine + n_pairs,
          cosine + 2 * n_pairs,
          cosine + 3 * n_pairs,
          lanes,
          row,
          reinterpret_cast<char*>(row + padded_head(call))};
}

static uint64_t scratch_bytes(const Call& call) {
  // An encoded row takes no more than one of F32.
  return 4 * workspace(call) + (kRunCells + 2) * static_cast<uint64_t>(padded_head(call)) * 4;
}

// Each power for itself: repeated products are not exact enough for what is rounded once.
static void set_radians(const Call& call, int64_t first, int64_t end) {
  const mica_rope_angles_args& a = static_cast<const mica_kv_shift_args*>(call.args)->angles;
  const float* factors = reinterpret_cast<const float*>(call.in[kFactors].data);
  double* const radians = reinterpret_cast<double*>(call.workspace);
  const RopeScale scale = rope_scale(a);
  for (int64_t i = first; i < end; ++i) {
    const double power = rope_power(a, i);
    const double original = factors != nullptr ? power / static_cast<double>(factors[i]) : power;
    radians[i] = original * rope_slowdown(scale, i);
  }
}

// To odd: the nearest F32 towards zero, its last bit set when that is not exact. Rounding it to F16
// or BF16 gives what rounding the double once would.
static inline float to_odd(double value) {
  const float f = static_cast<float>(value);
  const double back = static_cast<double>(f);
  if (back == value || !(__builtin_fabs(back) < __builtin_inf())) return f;
  const uint32_t bits = mica::float_bits(f);
  const bool away = __builtin_fabs(back) > __builtin_fabs(value);
  return mica::bits_float((away ? bits - 1 : bits) | 1u);
}

// The same without a branch, but for what is less than F32's normal numbers: then `small` is not 0.
static inline float to_odd_of_normal(double value, uint64_t* small) {
  constexpr uint64_t kBehind = (uint64_t{1} << 29) - 1;  // bits that F32 does not have
  constexpr uint64_t kLeastNormal = uint64_t{1023 - 126} << 52;
  uint64_t bits;
  __builtin_memcpy(&bits, &value, 8);
  *small |= ((bits & ~(uint64_t{1} << 63)) - 1 < kLeastNormal - 1) ? 1 : 0;
  bits = (bits | ((bits & kBehind) + kBehind)) & ~kBehind;
  __builtin_memcpy(&value, &bits, 8);
  return static_cast<float>(value);
}

template <int64_t kStep>
static void put_rounded(int64_t n, const double* y, bool odd, float* x) {
  uint64_t small = 0;
  if (!odd) {
    for (int64_t i = 0; i < n; ++i) x[kStep * i] = static_cast<float>(y[i]);
    return;
  }
  for (int64_t i = 0; i < n; ++i) x[kStep * i] = to_odd_of_normal(y[i], &small);
  if (small == 0) return;
  for (int64_t i = 0; i < n; ++i) x[kStep * i] = to_odd(y[i]);
}

template <bool kAdjacent>
static void rotate_pairs(int64_t n_pairs, bool odd, const ShiftScratch& s, float* x) {
  constexpr int64_t kStep = kAdjacent ? 2 : 1;
  const int64_t apart = kAdjacent ? 1 : n_pairs;
  for (int64_t i = 0; i < n_pairs; ++i) {
    const double x0 = static_cast<double>(x[kStep * i]);
    const double x1 = static_cast<double>(x[kStep * i + apart]);
    s.first[i] = x0 * s.cosine[i] - x1 * s.sine[i];
    s.second[i] = x0 * s.sine[i] + x1 * s.cosine[i];
  }
  put_rounded<kStep>(n_pairs, s.first, odd, x);
  put_rounded<kStep>(n_pairs, s.second, odd, x + apart);
}

// The pair (x0, x1) of sixteen cells.
static inline void rotate_lanes(double cosine, double sine, bool odd, float* x0, float* x1) {
  double first[kRunCells], second[kRunCells];
  for (int64_t c = 0; c < kRunCells; ++c) {
    const double a = static_cast<double>(x0[c]), b = static_cast<double>(x1[c]);
    first[c] = a * cosine - b * sine;
    second[c] = a * sine + b * cosine;
  }
  put_rounded<1>(kRunCells, first, odd, x0);
  put_rounded<1>(kRunCells, second, odd, x1);
}

static void rotate_run(const mica_kv_shift_args& a, const KvPage& page, const ShiftScratch& s) {
  const int64_t n_pairs = a.angles.n_rot / 2;
  const bool adjacent = a.pairing == MICA_ROPE_ADJACENT;
  for (int64_t i = 0; i < n_pairs; ++i) {
    RunRow* const x0 = s.lanes + a.offset + (adjacent ? 2 * i : i);
    rotate_lanes(s.cosine[i], s.sine[i], page.elem_bytes == 2, *x0, x0[adjacent ? 1 : n_pairs]);
  }
}

static void rotate(const mica_kv_shift_args& a, const KvPage& page, const ShiftScratch& s) {
  const int64_t n_pairs = a.angles.n_rot / 2;
  const bool odd = page.elem_bytes == 2;
  if (a.pairing == MICA_ROPE_ADJACENT) return rotate_pairs<true>(n_pairs, odd, s, s.row + a.offset);
  rotate_pairs<false>(n_pairs, odd, s, s.row + a.offset);
}

// Step data, never trusted: numbers out of range are cut, never followed.
struct ShiftEntry {
  int64_t first;       // cell of the state
  int64_t begin, end;  // of the cells from `first` on those that there are
  int64_t from, from_div, to, to_div;
  // By how many positions cell i moves.
  int64_t difference(int64_t i) const { return (to + i) / to_div - (from + i) / from_div; }
  // Are cells [i, i + 16) side by side, and do they all move by as much as cell i?
  bool is_run(int64_t i) const {
    bool alike = (first + i) % kRunCells == 0;
    const bool plain = from_div == 1 && to_div == 1;
    for (int64_t c = 1; alike && !plain && c < kRunCells; ++c)
      alike = difference(i + c) == difference(i);
    return alike;
  }
};

static int64_t count_entries(const Call& call) {
  const Tensor& shifts = call.in[kShifts];
  const int64_t listed = *reinterpret_cast<const int32_t*>(shifts.data);
  return max_i64(0, min_i64(listed, (shifts.dim[0] - 1) / MICA_KV_SHIFT_WORDS));
}

static ShiftEntry shift_entry(const Call& call, int64_t i) {
  const int32_t* w =
      reinterpret_cast<const int32_t*>(call.in[kShifts].data) + 1 + i * MICA_KV_SHIFT_WORDS;
  ShiftEntry e;
  e.first = w[MICA_KV_SHIFT_PAGE] * kPageCells + w[MICA_KV_SHIFT_FIRST_CELL];
  e.begin = max_i64(0, -e.first);
  e.end = min_i64(w[MICA_KV_SHIFT_N_CELLS], call.in[kState].dim[2] - e.first);
  e.from = w[MICA_KV_SHIFT_FROM], e.from_div = w[MICA_KV_SHIFT_FROM_DIV];
  e.to = w[MICA_KV_SHIFT_TO], e.to_div = w[MICA_KV_SHIFT_TO_DIV];
  if (e.from_div < 1 || e.to_div < 1) e.end = e.begin;
  return e;
}

// Phase 0: pairs. Phase 1: an entry's cells, those of one run of its page at a time.
constexpr int64_t kEntryItems = kPageRuns;

static int64_t items(const Call& call, uint32_t phase) {
  if (count_entries(call) == 0) return 0;
  return phase == 0 ? count_pairs(call) : count_entries(call) * kEntryItems;
}
static int64_t grain(const Call&, uint32_t phase) { return phase == 0 ? 16 : 1; }

static void shift_cell(const Call& call, const KvPage& page, int64_t cell, const ShiftScratch& s) {
  const Tensor& state = call.in[kState];
  const mica_kv_shift_args& args = *static_cast<const mica_kv_shift_args*>(call.args);
  const int64_t n_pad = padded_head(call), i = cell % kPageCells;
  char* head = state.data + cell / kPageCells * page.page_bytes;
  for (int64_t i_head = 0; i_head < state.dim[1]; ++i_head, head += page.head_bytes) {
    get_row(page, head, i, s.row, n_pad, s.encoded);
    rotate(args, page, s);
    put_row(page, head, i, s.row, n_pad, s.encoded);
  }
}

static void shift_run(const Call& call, const KvPage& page, int64_t cell, const ShiftScratch& s) {
  const Tensor& state = call.in[kState];
  const mica_kv_shift_args& args = *static_cast<const mica_kv_shift_args*>(call.args);
  char* head = state.data + cell / kPageCells * page.page_bytes;
  for (int64_t i_head = 0; i_head < state.dim[1]; ++i_head, head += page.head_bytes) {
    decode_run(page, head, cell % kPageCells / kRunCells, s.lanes);
    rotate_run(args, page, s);
    encode_run(page, s.lanes, head, cell % kPageCells / kRunCells);
  }
}

static void run(const Call& call, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  if (phase == 0) return set_radians(call, first, end);
  KvPage page;
  if (!state_page(call, &page)) return;
  const double* radians = reinterpret_cast<const double*>(call.workspace);
  const ShiftScratch s = carve(call, scratch);
  int64_t angles_of = 0;  // cells next to each other mostly move alike
  for (int64_t item = first; item < end; ++item) {
    const ShiftEntry e = shift_entry(call, item / kEntryItems);
    // Step data may give an entry more cells than a page has: the last item takes them all.
    const int64_t k = item % kEntryItems, skipped = (e.first + e.begin) % kRunCells;
    const int64_t from = k == 0 ? e.begin : e.begin - skipped + k * kRunCells;
    const int64_t to =
        k + 1 == kEntryItems ? e.end : min_i64(e.end, e.begin - skipped + (k + 1) * kRunCells);
    for (int64_t i = from; i < to; ++i) {
      const int64_t by = e.difference(i);
      if (by == 0) continue;
      if (by != angles_of)
        cos_sin<true>(radians, static_cast<double>(by), count_pairs(call), s.cosine, s.sine);
      angles_of = by;
      if (to - i >= kRunCells && e.is_run(i)) {
        shift_run(call, page, e.first + i, s);
        i += kRunCells - 1;
      } else {
        shift_cell(call, page, e.first + i, s);
      }
    }
  }
}

static constexpr Kernel kRows[] = {
    {"kv_shift", "", 2, supports, numerics, workspace, scratch_bytes, items, run, grain, nullptr,
     false, takes},
};

MICA_CPU_KERNELS(kv_shift, kRows, MICA_KNOWS(kv_shift, pairing))

MICA_CPU_END
