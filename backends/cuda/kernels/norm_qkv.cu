// norm_qkv: core/fusions/norm_qkv.cpp's region, of a few rows, packed weights and a cache of plain
// elements, in one kernel. The two rows of w whose sums RoPE turns into one another are always of
// one block: groups come in pairs.
#include "backends/cuda/kernels/matmul_fused.cuh"
#include "backends/cuda/kernels/rope_angle.cuh"
#include "backends/cuda/kv.h"
#include "ops/rope.h"

namespace mica::cuda {
namespace {

constexpr int kMaxPairs = 128;  // that RoPE turns in a head
enum { kQ, kK, kV, kProjections };

struct Cells {
  char* state;
  int64_t n_cells;
  KvPage page;
};

struct QkvArgs : FusedArgs {
  const float* bias[kProjections];  // nullptr: none
  const int32_t* slots;
  const int32_t* positions;
  const float* factors;       // nullptr: none
  Cells cells[kProjections];  // of K and V
  int32_t head_dim[kProjections];
  int32_t n_pairs;  // 0: no RoPE
  int32_t adjacent;
  double magnitude;
  double turn[kMaxPairs];  // angle per position, before the frequency factor
};

// Pairs (i, i + n_pairs) of a head lie in two groups: these follow one another in the flat order.
__device__ inline bool is_split(const QkvArgs& a, int segment) {
  return a.n_pairs != 0 && a.adjacent == 0 && segment != kV;
}

__device__ inline FlatGroup flat_group(const QkvArgs& a, int flat) {
  const int segment = flat >= a.segment[kV].first ? kV : flat >= a.segment[kK].first ? kK : kQ;
  const int i = flat - a.segment[segment].first;
  if (!is_split(a, segment)) return {segment, i};
  const int head_groups = a.head_dim[segment] / 8, half_groups = a.n_pairs / 8;
  const int head = i / head_groups, j = i - head * head_groups;
  const int place = j < 2 * half_groups ? j / 2 + (j & 1) * half_groups : j;
  return {segment, head * head_groups + place};
}

__device__ inline void put_value(const QkvArgs& a, int segment, int m, int n, float v) {
  if (segment == kQ) {
    a.segment[kQ].out[m * a.segment[kQ].n + n] = v;
    return;
  }
  const Cells& c = a.cells[segment];
  const int32_t slot = a.slots[m];
  if (slot < 0 || slot >= c.n_cells) return;
  const int head = n / a.head_dim[segment], i = n - head * a.head_dim[segment];
  char* to = c.state +
             static_cast<uint64_t>(slot / static_cast<int32_t>(kPageCells)) * c.page.page_bytes +
             static_cast<uint64_t>(head) * c.page.head_bytes +
             kv_elem_at(c.page, static_cast<uint32_t>(slot) % kPageCells, static_cast<uint32_t>(i));
  store_float(c.page.dtype, v, to);
}

// Two rows of w and their sums: biases, RoPE if they are a pair of it, and to their places.
__device__ inline void end_pair(const QkvArgs& a, int segment, int m, int n0, int n1, float v0,
                                float v1) {
  if (a.bias[segment] != nullptr) v0 += a.bias[segment][n0], v1 += a.bias[segment][n1];
  const int i = n0 % a.head_dim[segment];
  const int pair = a.adjacent != 0 ? i / 2 : i;
  if (segment != kV && pair < a.n_pairs) {
    double turn = a.turn[pair];
    if (a.factors != nullptr) turn /= static_cast<double>(a.factors[pair]);
    float cosine, sine;
    cos_sin(static_cast<double>(a.positions[m]) * turn, a.magnitude, cosine, sine);
    const float x0 = v0, x1 = v1;
    v0 = x0 * cosine - x1 * sine;
    v1 = x0 * sine + x1 * cosine;
  }
  put_value(a, segment, m, n0, v0);
  put_value(a, segment, m, n1, v1);
}

template <int kRows>
__device__ inline void end_round(const QkvArgs& a, const Parts<kRows>& parts, int turn,
                                 const StreamPlace& here, int n_rows) {
  const int n_groups = here.round_groups(kRoundGroups<kRows>);
  const int first = here.first + here.round;
  for (int i = threadIdx.x; i < n_groups / 2 * 8 * n_rows; i += kStreamThreads) {
    const int item = i % 8, couple = i / 8 % (n_groups / 2), m = i / 8 / (n_groups / 2);
    const FlatGroup even = flat_group(a, first + 2 * couple),
                    odd = flat_group(a, first + 2 * couple + 1);
    const int half_groups = a.n_pairs / 8, head_groups = a.head_dim[even.segment] / 8;
    const bool crossed = is_split(a, even.segment) && even.group % head_groups < 2 * half_groups;
    const int g0 = crossed ? 0 : item / 4, row0 = crossed ? item : 2 * (item % 4);
    const int g1 = crossed ? 1 : g0, row1 = crossed ? item : row0 + 1;
    const float v0 = round_sum<kRows>(parts, turn, n_groups, here.units, 2 * couple + g0, row0, m);
    const float v1 = round_sum<kRows>(parts, turn, n_groups, here.units, 2 * couple + g1, row1, m);
    const int n0 = (g0 == 0 ? even.group : odd.group) * 8 + row0;
    const int n1 = (g1 == 0 ? even.group : odd.group) * 8 + row1;
    end_pair(a, even.segment, m, n0, n1, v0, v1);
  }
}

// The members by their roles.
struct Members {
  const Call* norm;
  const Call* matmul[kProjections] = {};
  const Call* bias[kProjections] = {};  // nullptr: none
  const Call* rope[kProjections] = {};  // of Q and K, or nullptr
  const Call* append[kProjections] = {};

  explicit Members(const Call& c) : norm(c.members) {
    uint32_t at = 1;
    for (int i = kQ; i <= kV; ++i) {
      matmul[i] = &c.members[at++];
      if (c.members[at].op == MICA_OP_add) bias[i] = &c.members[at++];
    }
    if (c.members[at].op == MICA_OP_rope) {
      rope[kQ] = &c.members[at++];
      rope[kK] = &c.members[at++];
    }
    append[kK] = &c.members[at++];
    append[kV] = &c.members[at];
  }
  const Tensor& q() const {
    return rope[kQ] != nullptr   ? rope[kQ]->out
           : bias[kQ] != nullptr ? bias[kQ]->out
                                 : matmul[kQ]->out;
  }
  // Without RoPE it does not matter what a head of Q is.
  int64_t head_dim(int i) const {
    return i == kQ && rope[kQ] != nullptr ? rope[kQ]->in[0].dim[0]
                                          : append[i == kQ ? kK : i]->in[1].dim[0];
  }
};

bool page_of(const Call& append, KvPage& page) {
  const Tensor& state = append.out;
  return state.layout == kLayoutKvPage &&
         kv_page(state.dtype, static_cast<uint32_t>(state.dim[0]),
                 static_cast<uint32_t>(state.dim[1]), page) &&
         page.elem_bytes != 0;
}

const char* rope_supports(const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  if (rope.in[0].dtype != MICA_F32) return "RoPE is not of F32";
  if (args.offset != 0) return "RoPE does not begin at a head's first element";
  if (args.n_rot > 2 * kMaxPairs) return "RoPE turns more than 256 elements of a head";
  if (args.n_rot % 16 != 0) return "RoPE does not turn whole groups of 16";
  return nullptr;
}

const char* supports(const Call& c) {
  const Members m(c);
  if (const char* why = norm_supports(*m.norm); why != nullptr) return why;
  for (int i = kQ; i <= kV; ++i) {
    if (const char* why = segment_supports(*m.matmul[i]); why != nullptr) return why;
    if (m.head_dim(i) % 16 != 0) return "heads are not multiples of 16";
    if (m.matmul[i]->in[0].dim[1] % 16 != 0) return "a projection is not a multiple of 16";
    if (m.bias[i] != nullptr && m.bias[i]->in[1].dtype != MICA_F32) return "a bias is not F32";
  }
  for (int i = kK; i <= kV; ++i) {
    KvPage page;
    if (!page_of(*m.append[i], page)) return "the cache is not of F32, F16 or BF16";
    if (m.append[i]->in[1].dtype != MICA_F32) return "what is appended is not F32";
  }
  if (m.rope[kQ] != nullptr)
    if (const char* why = rope_supports(*m.rope[kQ]); why != nullptr) return why;
  if (m.q().dtype != MICA_F32) return "Q is not F32";
  const Tensor& x = m.norm->in[0];
  return fits(c, x.dim[0], x.dim[1]) ? nullptr : "x does not fit beside weights";
}
uint32_t numerics(const Call&) { return MICA_NUM_Q8_32; }

void set_rope(QkvArgs& a, const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  a.positions = reinterpret_cast<const int32_t*>(rope.in[1].address);
  a.factors = rope.n_in > 2 && !rope.in[2].absent()
                  ? reinterpret_cast<const float*>(rope.in[2].address)
                  : nullptr;
  a.n_pairs = static_cast<int32_t>(args.n_rot / 2);
  a.adjacent = args.pairing == MICA_ROPE_ADJACENT ? 1 : 0;
  a.magnitude = magnitude_of(args);
  for (int i = 0; i < a.n_pairs; ++i) a.turn[i] = angle_per_position(args, i);
}

mica_status record(const Call& c, Recorder& r) {
  const Members m(c);
  QkvArgs a = {};
  set_norm(a, *m.norm);
  a.together = 2;
  a.ending = Ending::kStore;
  auto* q = reinterpret_cast<float*>(m.q().address);
  for (int i = kQ; i <= kV; ++i) {
    if (!add_segment(a, *m.matmul[i], i == kQ ? q : nullptr)) return MICA_INTERNAL;
    a.head_dim[i] = static_cast<int32_t>(m.head_dim(i));
    if (m.bias[i] != nullptr) a.bias[i] = reinterpret_cast<const float*>(m.bias[i]->in[1].address);
    if (i == kQ) continue;
    const Call& append = *m.append[i];
    page_of(append, a.cells[i].page);
    a.cells[i].state = reinterpret_cast<char*>(append.out.address);
    a.cells[i].n_cells = append.out.dim[2];
    a.slots = reinterpret_cast<const int32_t*>(append.in[2].address);
  }
  if (m.rope[kQ] != nullptr) set_rope(a, *m.rope[kQ]);
  return launch_args(r, a);
}

const Kernel rows[] = {{"norm_qkv", "", supports, numerics, nullptr, record}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(norm_qkv, mica::cuda::rows)
