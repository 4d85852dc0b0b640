// norm_qkv: core/fusions/norm_qkv.cpp's region, of a few rows, in one kernel; where the cache is
// quantized, blocks of 32 are encoded by a second one. The two rows of w whose sums RoPE turns into
// one another are always of one block: groups come in pairs.
#include <algorithm>

#include "backends/cuda/kernels/attention/kv_block.cuh"
#include "backends/cuda/kernels/matmul/matmul_fused_plain.cuh"
#include "backends/gpu/layouts.h"
#include "backends/norm_qkv.h"
#include "ops/rope.h"
#include "ops/rope_args.h"

namespace mica::cuda {
namespace {

using Members = QkvMembers<Call>;

struct Cells {
  char* state;
  int64_t n_cells;
  KvPage page;
  __device__ char* head(uint32_t slot, uint32_t i_head) const {
    return state + static_cast<uint64_t>(slot / kPageCells) * page.page_bytes +
           static_cast<uint64_t>(i_head) * page.head_bytes;
  }
};

// RoPE of Q or of K.
struct Turns {
  const float* angles;  // [2 * n_pairs, n_tokens]
  float magnitude;
};

struct QkvArgs : FusedArgs {
  const float* bias[kProjections];  // nullptr: none
  const int32_t* slots;
  Cells cells[kProjections];  // of K and V; where the segment has no `out`
  int32_t head_dim[kProjections];
  int32_t n_pairs[kProjections];  // 0: no RoPE
  int32_t adjacent[kProjections];
  Turns turns[kV];  // of Q and K
};

// Pairs (i, i + n_pairs) of a head lie in two groups: these follow one another in the flat order.
__device__ inline bool is_split(const QkvArgs& a, int segment) {
  return a.n_pairs[segment] != 0 && a.adjacent[segment] == 0;
}

__device__ inline FlatGroup flat_group(const QkvArgs& a, int flat) {
  const int segment = flat >= a.segment[kV].first ? kV : flat >= a.segment[kK].first ? kK : kQ;
  const int i = flat - a.segment[segment].first;
  if (!is_split(a, segment)) return {segment, i};
  const int head_groups = a.head_dim[segment] / 8, half_groups = a.n_pairs[segment] / 8;
  const int head = i / head_groups, j = i - head * head_groups;
  const int place = j < 2 * half_groups ? j / 2 + (j & 1) * half_groups : j;
  return {segment, head * head_groups + place};
}

__device__ inline void put_value(const QkvArgs& a, int segment, int m, int n, int32_t slot,
                                 float v) {
  const Segment& s = a.segment[segment];
  if (s.out != nullptr) {
    s.out[m * s.n + n] = v;
    return;
  }
  const Cells& c = a.cells[segment];
  if (slot < 0 || slot >= c.n_cells) return;
  const int head = n / a.head_dim[segment], i = n - head * a.head_dim[segment];
  const auto cell = static_cast<uint32_t>(slot) % kPageCells;
  store_float(c.page.dtype, v,
              c.head(static_cast<uint32_t>(slot), static_cast<uint32_t>(head)) +
                  kv_elem_at(c.page, cell, static_cast<uint32_t>(i)));
}

// What is done at once after a round: two rows of w, a pair of RoPE where there is one.
struct Couple {
  int segment, m;
  int flat[2], row[2];  // group in the round and row of it
  int n[2];             // row of w
  int pair;             // of RoPE; -1: none
};
template <int kRows>
__device__ inline Couple couple_of(const QkvArgs& a, const StreamPlace& here, int i) {
  const int n_couples = here.round_groups(kRoundGroups<kRows>) / 2;
  const int item = i % 8, couple = i / 8 % n_couples, first = here.first + here.round + 2 * couple;
  const FlatGroup even = flat_group(a, first), odd = flat_group(a, first + 1);
  const int head_groups = a.head_dim[even.segment] / 8;
  const bool crossed =
      is_split(a, even.segment) && even.group % head_groups < a.n_pairs[even.segment] / 8 * 2;
  const int g0 = crossed ? 0 : item / 4, row0 = crossed ? item : 2 * (item % 4);
  const int g1 = crossed ? 1 : g0, row1 = crossed ? item : row0 + 1;
  Couple c = {even.segment, i / 8 / n_couples, {2 * couple + g0, 2 * couple + g1}, {row0, row1}};
  c.n[0] = (g0 == 0 ? even.group : odd.group) * 8 + row0;
  c.n[1] = (g1 == 0 ? even.group : odd.group) * 8 + row1;
  const int elem = c.n[0] % a.head_dim[c.segment];
  const int pair = a.adjacent[c.segment] != 0 ? elem / 2 : elem;
  c.pair = pair < a.n_pairs[c.segment] ? pair : -1;
  return c;
}

// What a couple needs from memory.
struct QkvEarly {
  int32_t slot;
  float magnitude, cosine, sine;
  __device__ void settle(const QkvArgs&) { cosine *= magnitude, sine *= magnitude; }
};
__device__ inline QkvEarly early_of(const QkvArgs& a, const Couple& c) {
  QkvEarly e = {c.segment != kQ ? a.slots[c.m] : 0, 1, 1, 0};
  if (c.pair < 0) return e;
  const Turns& t = a.turns[c.segment];
  const float* angle = t.angles + (int64_t{c.m} * a.n_pairs[c.segment] + c.pair) * 2;
  e.magnitude = t.magnitude;
  e.cosine = angle[0];
  e.sine = angle[1];
  return e;
}
template <int kRows>
__device__ inline QkvEarly early_of(const QkvArgs& a, const StreamPlace& here) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= here.round_groups(kRoundGroups<kRows>) / 2 * 8 * a.m) return {-1, 1, 1, 0};
  return early_of(a, couple_of<kRows>(a, here, i));
}

template <int kRows>
__device__ inline void end_round(const QkvArgs& a, const Parts<kRows>& parts, int turn,
                                 const StreamPlace& here, int n_rows, const QkvEarly& early) {
  const int n_groups = here.round_groups(kRoundGroups<kRows>);
  for (int i = threadIdx.x; i < n_groups / 2 * 8 * n_rows; i += kStreamThreads) {
    const Couple c = couple_of<kRows>(a, here, i);
    QkvEarly e = early;
    if (here.round != 0 || i >= kStreamThreads) e = early_of(a, c), e.settle(a);
    float v[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      v[j] = round_sum<kRows>(parts, turn, n_groups, here.units, c.flat[j], c.row[j], c.m);
      if (a.bias[c.segment] != nullptr) v[j] += a.bias[c.segment][c.n[j]];
    }
    if (c.pair >= 0) {
      const float x0 = v[0], x1 = v[1];
      v[0] = x0 * e.cosine - x1 * e.sine;
      v[1] = x0 * e.sine + x1 * e.cosine;
    }
    put_value(a, c.segment, c.m, c.n[0], e.slot, v[0]);
    put_value(a, c.segment, c.m, c.n[1], e.slot, v[1]);
  }
}

// --- The second kernel: rows of K and V to blocks of cells --------------------------------------

constexpr int kBlockThreads = 128;

struct BlocksArgs {
  Cells cells[2];
  const float* rows[2];  // [n, n_tokens]; nullptr: not quantized
  int32_t n[2];
  const int32_t* slots;
  uint64_t live;
  int64_t n_tokens;
};

// A block of 32 a thread; blockIdx.y: tokens, blockIdx.z: K and V.
__global__ void __launch_bounds__(kBlockThreads) put_blocks(const __grid_constant__ BlocksArgs a) {
  wait_for_inputs();
  start_next();
  const Cells& c = a.cells[blockIdx.z];
  const float* rows = a.rows[blockIdx.z];
  const uint32_t i = blockIdx.x * kBlockThreads + threadIdx.x, token = blockIdx.y;
  if (rows == nullptr) return;  // plain pages have no blocks to count
  const uint32_t block = i % c.page.n_blocks, head = i / c.page.n_blocks;
  if (head >= c.page.n_kv_heads) return;
  const int32_t slot = a.slots[token];
  if (token >= live_count(a.live, a.n_tokens) || slot < 0 || slot >= c.n_cells) return;
  const float* from =
      rows + token * static_cast<uint64_t>(a.n[blockIdx.z]) + head * c.page.head_dim + block * 32;
  float x[32];
#pragma unroll
  for (uint32_t j = 0; j < 32; ++j) x[j] = block * 32 + j < c.page.head_dim ? from[j] : 0.0f;
  put_kv_block(c.page, c.head(static_cast<uint32_t>(slot), head),
               static_cast<uint32_t>(slot) % kPageCells, block, x);
}

// --- Launching -----------------------------------------------------------------------------------

bool page_of(const Call& append, KvPage& page) {
  const Tensor& state = append.out;
  return state.layout == kLayoutKvPage && kv_page(state.dtype, static_cast<uint32_t>(state.dim[0]),
                                                  static_cast<uint32_t>(state.dim[1]), page);
}
// Bytes of rows on their way to blocks: of K, of V.
uint64_t rows_bytes(const Members& m, int i) {
  KvPage page;
  if (!page_of(*m.append[i], page) || page.elem_bytes != 0) return 0;
  const Tensor& y = m.matmul[i]->out;
  return static_cast<uint64_t>(y.dim[0] * y.dim[1]) * 4;
}

const char* rope_supports(const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  if (rope.in[0].dtype != MICA_F32) return "RoPE is not of F32";
  if (args.offset != 0) return "RoPE does not begin at a head's first element";
  if (args.n_rot % 16 != 0) return "RoPE does not turn whole groups of 16";
  return nullptr;
}

const char* supports(const Call& c) {
  const Members m(c);
  if (const char* why = norm_supports(*m.norm); why != nullptr) return why;
  if (const char* why = m.heads_support(); why != nullptr) return why;
  for (int i = kQ; i <= kV; ++i) {
    if (const char* why = segment_supports(*m.matmul[i], *m.matmul[kQ]); why != nullptr) return why;
    if (m.head_dim(i) % 16 != 0) return "heads are not multiples of 16";
    if (m.matmul[i]->in[0].dim[1] % 16 != 0) return "a projection is not a multiple of 16";
    if (m.bias[i] != nullptr && m.bias[i]->in[1].dtype != MICA_F32) return "a bias is not F32";
  }
  for (int i = kK; i <= kV; ++i) {
    KvPage page;
    if (!page_of(*m.append[i], page)) return "the state is not a cache of this backend";
    if (m.append[i]->in[1].dtype != MICA_F32) return "what is appended is not F32";
  }
  for (const Call* rope : m.rope)
    if (const char* why = rope != nullptr ? rope_supports(*rope) : nullptr; why != nullptr)
      return why;
  if (m.q().dtype != MICA_F32) return "Q is not F32";
  return fits(c, *m.matmul[kQ]);
}
uint64_t workspace(const Call& c) {
  const Members m(c);
  return rows_bytes(m, kK) + rows_bytes(m, kV);
}
uint32_t numerics(const Call& c) { return segment_numerics(c.members[1]); }

void set_rope(QkvArgs& a, int i, const Call& rope) {
  const auto& args = rope.arg<mica_rope_args>();
  Turns& t = a.turns[i];
  t.angles = reinterpret_cast<const float*>(rope.in[1].address);
  t.magnitude = args.magnitude;
  a.n_pairs[i] = static_cast<int32_t>(args.n_rot / 2);
  a.adjacent[i] = args.pairing == MICA_ROPE_ADJACENT ? 1 : 0;
}

mica_status record(const Call& c, Recorder& r) {
  const Members m(c);
  QkvArgs a = {};
  set_norm(a, *m.norm);
  a.together = 2;
  a.ending = Ending::kStore;
  BlocksArgs blocks = {};
  uint64_t free = c.workspace;
  for (int i = kQ; i <= kV; ++i) {
    const uint64_t bytes = i == kQ ? 0 : rows_bytes(m, i);
    auto* out = reinterpret_cast<float*>(i == kQ ? m.q().address : bytes != 0 ? free : 0);
    free += bytes;
    if (!add_segment(a, *m.matmul[i], out)) return MICA_INTERNAL;
    a.head_dim[i] = static_cast<int32_t>(m.head_dim(i));
    if (m.bias[i] != nullptr) a.bias[i] = reinterpret_cast<const float*>(m.bias[i]->in[1].address);
    if (m.rope[i] != nullptr) set_rope(a, i, *m.rope[i]);
    if (i == kQ) continue;
    const Call& append = *m.append[i];
    page_of(append, a.cells[i].page);
    a.cells[i].state = reinterpret_cast<char*>(append.out.address);
    a.cells[i].n_cells = append.out.dim[2];
    a.slots = reinterpret_cast<const int32_t*>(append.in[2].address);
    blocks.cells[i - kK] = a.cells[i];
    blocks.rows[i - kK] = out;
    blocks.n[i - kK] = static_cast<int32_t>(a.segment[i].n);
  }
  const mica_status status = launch_args(r, a);
  if (status != MICA_OK || free == c.workspace) return status;
  blocks.slots = a.slots, blocks.live = a.live, blocks.n_tokens = a.m;
  uint32_t most = 0;
  for (const Cells& cells : blocks.cells)
    most = std::max(most, cells.page.n_kv_heads * cells.page.n_blocks);
  return launch(r, put_blocks,
                dim3((most + kBlockThreads - 1) / kBlockThreads, static_cast<uint32_t>(a.m), 2),
                dim3(kBlockThreads), 0, blocks);
}

constexpr Kernel rows[] = {{"norm_qkv", "", supports, numerics, workspace, record,
                            gpu::takes_both<kLayoutRows8, kLayoutKvPage>}};

}  // namespace
}  // namespace mica::cuda

MICA_CUDA_KERNELS(norm_qkv, mica::cuda::rows, MICA_KNOWS(rms_norm, eps),
                  MICA_KNOWS(rope, magnitude))
