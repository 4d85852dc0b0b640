// Stored K of the listed cells rotated to other positions, where it is: decoded, rotated as RoPE
// does, and encoded as kv_append does. All is computed in double and rounded once, so that a cache
// holds what the reference's would.
#include "backends/cpu/kernels/attention/kv_row.h"
#include "mica/kv_table.h"
#include "ops/rope.h"
#include "ops/rope_angles.h"

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
  if (!state_page(call, &page)) return "K and V pages are F32, F16, BF16, Q8_0 or Q4_0";
  return page.head_dim > kMaxHeadDim ? "heads of more than 4096 elements" : nullptr;
}

static uint32_t numerics(const Call&) { return MICA_NUM_F32; }

static int64_t padded_head(const Call& call) {
  return div_up_i64(call.in[kState].dim[0], kQuantElems) * kQuantElems;
}

// A thread's memory.
struct ShiftScratch {
  double* radians;  // [n_pairs], per position
  double* cosine;   // [n_pairs], of the angle by which cells are rotated now
  double* sine;     // [n_pairs]
  float* row;       // [padded_head]
  char* encoded;
};

static ShiftScratch carve(const Call& call, char* base) {
  const int64_t n_pairs = static_cast<const mica_rope_args*>(call.args)->n_rot / 2;
  double* const radians = reinterpret_cast<double*>(base);
  float* const row = reinterpret_cast<float*>(radians + 3 * n_pairs);
  return {radians, radians + n_pairs, radians + 2 * n_pairs, row,
          reinterpret_cast<char*>(row + padded_head(call))};
}

static uint64_t scratch_bytes(const Call& call) {
  const uint64_t n_pairs = static_cast<const mica_rope_args*>(call.args)->n_rot / 2;
  // An encoded row takes no more than one of F32.
  return 3 * n_pairs * sizeof(double) + 2 * static_cast<uint64_t>(padded_head(call)) * 4;
}

static void set_radians(const Call& call, const ShiftScratch& s) {
  const mica_rope_args& a = *static_cast<const mica_rope_args*>(call.args);
  const float* factors = reinterpret_cast<const float*>(call.in[kFactors].data);
  const RopeScale scale = rope_scale(a);
  for (int64_t i = 0; i < a.n_rot / 2; ++i) {
    const double power = rope_power(a, i);
    const double original = factors != nullptr ? power / static_cast<double>(factors[i]) : power;
    s.radians[i] = original * rope_slowdown(scale, i);
  }
}

static void set_angles(const mica_rope_args& a, int64_t by, const ShiftScratch& s) {
  for (int64_t i = 0; i < a.n_rot / 2; ++i) {
    const double angle = static_cast<double>(by) * s.radians[i];
    s.cosine[i] = __builtin_cos(angle);
    s.sine[i] = __builtin_sin(angle);
  }
}

// To odd: the nearest F32 towards zero, its last bit set when that is not exact. Rounding it to F16
// or BF16 gives what rounding the double once would.
static float to_odd(double value) {
  const float f = static_cast<float>(value);
  const double back = static_cast<double>(f);
  if (back == value || !(__builtin_fabs(back) < __builtin_inf())) return f;
  const uint32_t bits = mica::float_bits(f);
  const bool away = __builtin_fabs(back) > __builtin_fabs(value);
  return mica::bits_float((away ? bits - 1 : bits) | 1u);
}

static void rotate(const mica_rope_args& a, const KvPage& page, const ShiftScratch& s) {
  const int64_t n_pairs = a.n_rot / 2;
  const bool adjacent = a.pairing == MICA_ROPE_ADJACENT;
  const int64_t apart = adjacent ? 1 : n_pairs;
  for (int64_t i = 0; i < n_pairs; ++i) {
    float* const at = s.row + a.offset + (adjacent ? 2 * i : i);
    const double x0 = static_cast<double>(at[0]), x1 = static_cast<double>(at[apart]);
    const double y0 = x0 * s.cosine[i] - x1 * s.sine[i];
    const double y1 = x0 * s.sine[i] + x1 * s.cosine[i];
    at[0] = page.elem_bytes == 2 ? to_odd(y0) : static_cast<float>(y0);
    at[apart] = page.elem_bytes == 2 ? to_odd(y1) : static_cast<float>(y1);
  }
}

// Step data, never trusted: numbers out of range are cut, never followed.
struct ShiftEntry {
  int64_t first;       // cell of the state
  int64_t begin, end;  // of the cells from `first` on those that there are
  int64_t from, from_div, to, to_div;
  // By how many positions cell i moves.
  int64_t difference(int64_t i) const { return (to + i) / to_div - (from + i) / from_div; }
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

// An entry and a kv head.
static int64_t items(const Call& call, uint32_t) {
  return count_entries(call) * call.in[kState].dim[1];
}

static void run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  const Tensor& state = call.in[kState];
  KvPage page;
  if (!state_page(call, &page)) return;
  const mica_rope_args& args = *static_cast<const mica_rope_args*>(call.args);
  const ShiftScratch s = carve(call, scratch);
  const int64_t n_pad = padded_head(call);
  set_radians(call, s);
  int64_t angles_of = 0;  // cells next to each other mostly move alike
  for (int64_t item = first; item < end; ++item) {
    const ShiftEntry e = shift_entry(call, item / state.dim[1]);
    const int64_t i_head = item % state.dim[1];
    for (int64_t i = e.begin; i < e.end; ++i) {
      const int64_t by = e.difference(i);
      if (by == 0) continue;
      if (by != angles_of) set_angles(args, angles_of = by, s);
      const int64_t cell = e.first + i;
      char* head = state.data + cell / kPageCells * page.page_bytes + i_head * page.head_bytes;
      get_row(page, head, cell % kPageCells, s.row, n_pad, s.encoded);
      rotate(args, page, s);
      put_row(page, head, cell % kPageCells, s.row, n_pad, s.encoded);
    }
  }
}

static constexpr Kernel kRows[] = {
    {"kv_shift", "", 1, supports, numerics, nullptr, scratch_bytes, items, run, nullptr, nullptr,
     false, takes},
};

MICA_CPU_KERNELS(kv_shift, kRows, MICA_KNOWS_AS(kv_shift, rope, beta_slow))

MICA_CPU_END
