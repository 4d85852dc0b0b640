// norm_qkv: core/fusions/norm_qkv.cpp's region, of packed weights. For one token a turn makes whole
// heads, rotates them and appends them: no barrier. For several, Q lands in its own memory and K
// and V in the workspace; then they are rotated, token by token, and appended, kv head by kv head.
#include "backends/norm_qkv.h"

#include "backends/cpu/kernels/attention/kv_append.h"
#include "backends/cpu/kernels/norm_rows16.h"
#include "backends/cpu/kernels/rope.h"

MICA_CPU_BEGIN
namespace rows16 {

using Qkv = QkvMembers<Call>;

static Normed normed_of(const Qkv& m) { return Normed(*m.norm, m.matmul, kProjections); }
static int64_t n_heads(const Qkv& m, int i) { return div_up_i64(m.n_rows(i), m.head_dim(i)); }

// Whether one rotation does for Q and K, as it does in most models.
static bool same_rotation(const Qkv& m) {
  const Call *q = m.rope[kQ], *k = m.rope[kK];
  return q != nullptr && k != nullptr && q->in[kAngles].data == k->in[kAngles].data &&
         __builtin_memcmp(q->args, k->args, sizeof(mica_rope_args)) == 0;
}

static const char* append_supports(const Call& append) {
  KvPage page;
  if (!is_cache(append)) return "the state is not of a cache";
  if (!state_page(append, &page)) return kPageTypes;
  return page.head_dim > kMaxHeadDim ? "heads of more than 4096 elements" : nullptr;
}

static const char* supports(const Call& c) {
  const Qkv m(c);
  if (const char* no = m.heads_support()) return no;
  for (int i = kQ; i <= kV; ++i) {
    if (m.head_dim(i) % kGroupRows != 0) return "heads are not multiples of 16";
    if (m.bias[i] != nullptr && m.bias[i]->in[1].dtype != MICA_F32) return "a bias is not F32";
  }
  for (int i = kK; i <= kV; ++i) {
    if (const char* no = append_supports(*m.append[i])) return no;
  }
  const Tensor& q = m.q();
  if (q.stride[0] != 4) return "Q is not F32";
  return normed_supports(*m.norm, m.matmul, kProjections);
}

static bool takes(const Call& c, uint32_t operand, uint32_t layout) {
  return takes_weights(c, operand, layout) || takes_page(c, operand, layout);
}

static uint32_t numerics(const Call& c) { return math_of(c.members[1]).numerics; }

// Floats of K or V in the workspace, behind the panels.
static int64_t raw_bytes(const Qkv& m, int i) {
  return div_up_i64(m.n_rows(i) * m.n_tokens(), 16) * 64;
}
static uint64_t workspace(const Call& c) {
  const Qkv m(c);
  if (m.n_tokens() == 1) return 0;
  const uint64_t panels = (normed_workspace(normed_of(m)) + 63) / 64 * 64;
  return panels + static_cast<uint64_t>(raw_bytes(m, kK) + raw_bytes(m, kV));
}

struct Scratch {
  char* column;  // SingleColumn's, or a normed row
  char* rope;
  char* append;
  float* head;
};
static int64_t aligned(uint64_t bytes) { return div_up_i64(static_cast<int64_t>(bytes), 64) * 64; }
static int64_t largest_head(const Qkv& m) {
  return max_i64(m.head_dim(kQ), max_i64(m.head_dim(kK), m.head_dim(kV)));
}
static int64_t append_bytes(const Qkv& m) {
  return max_i64(aligned(append_scratch_bytes(*m.append[kK])),
                 aligned(append_scratch_bytes(*m.append[kV])));
}
// Q's rotation is done with when K's begins.
static int64_t rope_bytes(const Qkv& m) {
  int64_t most = 0;
  for (const Call* rope : m.rope)
    if (rope != nullptr) most = max_i64(most, aligned(rope_scratch_bytes(*rope)));
  return most;
}
static uint64_t scratch_bytes(const Call& c) {
  const Qkv m(c);
  return static_cast<uint64_t>(aligned(normed_scratch(normed_of(m))) + rope_bytes(m) +
                               append_bytes(m) + 4 * largest_head(m));
}
// The column's part is last: nothing else depends on its size.
static Scratch carve_scratch(const Qkv& m, char* base) {
  Scratch s{};
  s.rope = base;
  s.append = s.rope + rope_bytes(m);
  s.head = reinterpret_cast<float*>(s.append + append_bytes(m));
  s.column = reinterpret_cast<char*>(s.head + largest_head(m));
  return s;
}

// Tokens of K or V in the workspace.
static Tensor raw_rows(const Qkv& m, const Normed& w, int i, char* base) {
  Tensor t = m.append[i]->in[kRows];
  t.data = base + aligned(normed_workspace(w)) + (i == kV ? raw_bytes(m, kK) : 0);
  t.stride[0] = 4;
  t.stride[1] = 4 * t.dim[0];
  t.stride[2] = t.stride[1] * t.dim[1];
  return t;
}

static int64_t single_heads(const Qkv& m) {
  return n_heads(m, kQ) + n_heads(m, kK) + n_heads(m, kV);
}

// Of a token's elements those that are of projections with RoPE.
static int64_t turned_rows(const Qkv& m) {
  int64_t n = 0;
  for (int i = kQ; i <= kK; ++i) n += m.rope[i] != nullptr ? m.n_rows(i) : 0;
  return n;
}

static int64_t items(const Call& c, uint32_t phase) {
  const Qkv m(c);
  if (m.n_tokens() == 1) return phase == 1 ? single_heads(m) : 0;
  if (phase == 0) return column_items(*m.norm);
  if (phase == 1) {
    int64_t n = 0;
    for (const Call* matmul : m.matmul) n += phase_items(*matmul, 1);
    return n;
  }
  if (phase == 2) return turned_rows(m) != 0 ? m.n_tokens() : 0;
  return m.append[kK]->in[kState].dim[1] + m.append[kV]->in[kState].dim[1];
}
static int64_t grain(const Call& c, uint32_t phase) {
  const Qkv m(c);
  if (m.n_tokens() == 1) {
    int64_t groups = 0;
    for (const Call* matmul : m.matmul) groups += single_groups(*matmul);
    return div_up_i64(single_heads(m), Problem::single_turns(groups));
  }
  if (phase == 0) return column_grain(*m.norm);
  if (phase == 1) return Problem(*m.matmul[kQ]).tile_grain();
  if (phase == 2) return max_i64(1, 16384 / max_i64(1, turned_rows(m)));
  return max_i64(1, 4096 / max_i64(1, m.head_dim(kK) * m.n_tokens()));
}

// Rows [row, row + 16) of a projection.
MICA_INLINE void add_bias(const Call* bias, int64_t row, int64_t n, float* y) {
  if (bias == nullptr) return;
  const float* b = reinterpret_cast<const float*>(bias->in[1].data) + row;
  for (int64_t k = 0; k < n; ++k) y[k] += b[k];
}

// Head `head` of projection i for a single token.
static void run_head(const Qkv& m, const SingleColumn& column, int i, int64_t head,
                     const Rotation<ElemF32>* rotation, const Scratch& s) {
  const int64_t first = head * m.head_dim(i);
  const int64_t n = min_i64(m.head_dim(i), m.n_rows(i) - first);
  float* y = i == kQ ? reinterpret_cast<float*>(m.q().data) + first : s.head;
  float lanes[kGroupRows];
  for (int64_t k = 0; k < n; k += kGroupRows) {
    const Group group = column.times(i, (first + k) / kGroupRows, lanes);
    __builtin_memcpy(y + k, lanes, static_cast<size_t>(group.n) * sizeof(float));
    add_bias(m.bias[i], first + k, group.n, y + k);
  }
  if (rotation != nullptr) rotation->head(y, y);
  if (m.append[i] == nullptr) return;
  KvPage page;
  if (!state_page(*m.append[i], &page)) return;
  append_row(*m.append[i], page, 0, head, MICA_F32, reinterpret_cast<const char*>(y), s.append);
}

static void run_single_token(const Qkv& m, int64_t first, int64_t end, char* scratch) {
  const Normed w = normed_of(m);
  const Scratch s = carve_scratch(m, scratch);
  int i = kQ;
  int64_t head = first;
  while (head >= n_heads(m, i)) head -= n_heads(m, i++);
  const Group at = group_of(*m.matmul[i], w.p[i], 0, head * m.head_dim(i) / kGroupRows);
  const SingleColumn column(w, at.data, first == 0, s.column);
  Rotation<ElemF32> rotation;
  const Call* turned = nullptr;  // what `rotation` is of
  for (; first < end; ++first) {
    const Call* rope = m.rope[i];
    if (rope != nullptr && rope != turned) {
      if (turned == nullptr || !same_rotation(m)) {
        rotation = Rotation<ElemF32>(*rope, s.rope);
        rotation.at(0);
      }
      turned = rope;
    }
    run_head(m, column, i, head, rope != nullptr ? &rotation : nullptr, s);
    if (++head == n_heads(m, i)) head = 0, ++i;
  }
}

static void run_projections(const Call& c, const Qkv& m, int64_t first, int64_t end) {
  const Normed w = normed_of(m);
  int64_t before = 0;
  for (int k = 0; k < kProjections; ++k) {
    const int64_t n = w.p[k].n_groups * w.p[k].column_tiles();
    const int64_t from = max_i64(first - before, 0), to = min_i64(end - before, n);
    before += n;
    if (from >= to) continue;
    Call matmul = *m.matmul[k];
    matmul.workspace = w.panels(c.workspace, k);
    const Tensor raw = k == kQ ? m.q() : raw_rows(m, w, k, c.workspace);
    const int64_t column = 4 * m.n_rows(k);
    run_tiles(matmul, w.p[k], from, to,
              [&](const Slice&, int64_t i, const Group& group, const float* lanes) {
                put_lanes(raw.data + i * column, group, lanes);
                float* y = reinterpret_cast<float*>(raw.data + i * column) + group.row;
                add_bias(m.bias[k], group.row, group.n, y);
              });
  }
}

// Rows of Q in its memory or of K in the workspace, in place.
static void rotate_row(const Qkv& m, int i, const Rotation<ElemF32>& rotation, float* row) {
  for (int64_t k = 0; k < m.n_rows(i); k += m.head_dim(i)) rotation.head(row + k, row + k);
}

static void rotate_tokens(const Call& c, const Qkv& m, int64_t first, int64_t end, char* scratch) {
  const Tensor k = raw_rows(m, normed_of(m), kK, c.workspace);
  float* const base[] = {reinterpret_cast<float*>(m.q().data), reinterpret_cast<float*>(k.data)};
  const bool together = same_rotation(m);
  for (int i = kQ; i <= kK; ++i) {
    if (m.rope[i] == nullptr || (i == kK && together)) continue;
    Rotation<ElemF32> rotation(*m.rope[i], carve_scratch(m, scratch).rope);
    for (int64_t token = first; token < end; ++token) {
      rotation.at(token);
      for (int j = i; j <= (together ? kK : i); ++j)
        rotate_row(m, j, rotation, base[j] + token * m.n_rows(j));
    }
  }
}

static void append_tokens(const Call& c, const Qkv& m, int64_t first, int64_t end, char* scratch) {
  const Normed w = normed_of(m);
  const int64_t n_k = m.append[kK]->in[kState].dim[1];
  char* const s = carve_scratch(m, scratch).append;
  if (first < n_k) {
    append_heads(*m.append[kK], raw_rows(m, w, kK, c.workspace), first, min_i64(end, n_k), s);
  }
  if (end > n_k) {
    append_heads(*m.append[kV], raw_rows(m, w, kV, c.workspace), max_i64(first - n_k, 0), end - n_k,
                 s);
  }
}

static void run(const Call& c, uint32_t phase, int64_t first, int64_t end, char* scratch) {
  const Qkv m(c);
  if (m.n_tokens() == 1) return run_single_token(m, first, end, scratch);
  if (phase == 0) {
    char* const row = carve_scratch(m, scratch).column;
    return round_columns(normed_of(m), c.workspace, first, end, row);
  }
  if (phase == 1) return run_projections(c, m, first, end);
  if (phase == 2) return rotate_tokens(c, m, first, end, scratch);
  append_tokens(c, m, first, end, scratch);
}

static constexpr Kernel rows[] = {
    {"norm_qkv", "", 4, supports, numerics, workspace, scratch_bytes, items, run, grain, nullptr,
     false, takes},
};

}  // namespace rows16

MICA_CPU_KERNELS(norm_qkv, rows16::rows, MICA_KNOWS(rms_norm, eps), MICA_KNOWS(rope, magnitude))
MICA_CPU_END
