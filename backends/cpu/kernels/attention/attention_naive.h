// The plain variant of attention: one item a token and query head, one pass over the visible cells
// with a running maximum, one element after another. Included by attention.cpp only.
#pragma once
#include "backends/cpu/kernels/attention/attention_task.h"
#include "backends/cpu/kernels/attention/kv_row.h"

MICA_CPU_BEGIN

struct NaiveRow {
  const Call* call;
  const mica_attention_args* args;
  Shape shape;
  Table table;
  int64_t token, head, kv_head;
  // Scratch, room for whole blocks.
  float* q;       // [dim_k], rotated by the turn
  float* k;       // [dim_k], of a cell, rotated to its position
  float* v;       // [dim_v]
  float* sums;    // [dim_v]
  char* encoded;  // a cell's plain row
  int64_t turn;   // of q
};

// Elements of a row with its padding.
static int64_t naive_pad(const KvPage& p) {
  return div_up_i64(p.head_dim, kQuantElems) * kQuantElems;
}

// Bytes of the scratch; `r`, unless NULL, gets its pointers.
static uint64_t carve_naive(const Shape& s, char* base, NaiveRow* r) {
  const int64_t k = naive_pad(s.k), v = naive_pad(s.v);
  if (r != nullptr) {
    r->q = reinterpret_cast<float*>(base);
    r->k = r->q + k;
    r->v = r->k + k;
    r->sums = r->v + v;
    r->encoded = reinterpret_cast<char*>(r->sums + v);
  }
  return static_cast<uint64_t>(2 * (k + v) + max_i64(k, v)) * sizeof(float);
}

// The row's query as it meets the keys of an entry with that turn.
static const float* query_operand(NaiveRow& r, const Entry& e) {
  const int64_t turn = r.shape.n_key_pairs != 0 ? 0 : e.turn;
  if (turn == r.turn) return r.q;
  const Tensor& x = r.call->in[MICA_ATTENTION_Q];
  const char* row = x.data + r.head * x.stride[1] + r.token * x.stride[2];
  for (int64_t i = 0; i < r.shape.dim_k; ++i) {
    uint32_t bits = 0;
    __builtin_memcpy(&bits, row + i * x.stride[0], x.dtype == MICA_F32 ? 4 : 2);
    const uint16_t half = static_cast<uint16_t>(bits);
    r.q[i] = x.dtype == MICA_F32   ? mica::bits_float(bits)
             : x.dtype == MICA_F16 ? mica::f16_to_f32(half)
                                   : mica::bf16_to_f32(half);
  }
  r.turn = turn;
  if (turn != 0) turn_head(*r.call, turn, r.q);
  return r.q;
}

static const float* key_operand(const NaiveRow& r, const Entry& e, int64_t cell) {
  const char* page = r.call->in[MICA_ATTENTION_K].data + e.page * r.shape.k.page_bytes;
  const char* head = page + r.kv_head * r.shape.k.head_bytes;
  get_row(r.shape.k, head, cell, r.k, naive_pad(r.shape.k), r.encoded);
  if (r.shape.n_key_pairs == 0) return r.k;
  turn_head(*r.call, e.turn, r.k);
  turn_head(*r.call, e.offset(cell), r.k);
  return r.k;
}

static float naive_mask(const NaiveRow& r, int64_t column) {
  const Tensor& mask = r.call->in[MICA_ATTENTION_MASK];
  if (mask.data == nullptr) return 0.0f;
  if (column >= mask.dim[0]) return -__builtin_inff();
  const char* at = mask.data + column * mask.stride[0] + r.token * mask.stride[1] +
                   (mask.dim[2] == 1 ? 0 : r.head) * mask.stride[2];
  if (mask.dtype == MICA_F16) {
    uint16_t half;
    __builtin_memcpy(&half, at, 2);
    return mica::f16_to_f32(half);
  }
  float value;
  __builtin_memcpy(&value, at, 4);
  return value;
}

static float naive_score(const NaiveRow& r, const float* q, const Entry& e, int64_t cell,
                         int64_t column) {
  const float bias = naive_mask(r, column);
  if (bias == -__builtin_inff()) return bias;  // whatever the cell holds
  const float* k = key_operand(r, e, cell);
  float sum = 0.0f;
  for (int64_t i = 0; i < r.shape.dim_k; ++i) sum += q[i] * k[i];
  sum *= r.args->scale;
  if (r.args->softcap != 0.0f) {
    sum = r.args->softcap * __builtin_tanhf(sum / r.args->softcap);
  }
  return sum + bias;
}

// Calls visit(score, entry, cell) for each visible cell.
template <class Visit>
static void naive_visit(NaiveRow& r, const Range& entries, Visit visit) {
  const int32_t position =
      reinterpret_cast<const int32_t*>(r.call->in[MICA_ATTENTION_POSITIONS].data)[r.token];
  int64_t cells_before = 0;
  for (int64_t i = entries.begin; i < entries.end; ++i) {
    const Entry e = table_entry(r.table, i);
    const Seen s = seen_cells(e, *r.args, position);
    const float* q = query_operand(r, e);
    for (int64_t c = e.first_cell; c < e.first_cell + e.n_cells; ++c) {
      const bool seen = (c >= s.begin && c < s.end) || (c >= s.first_begin && c < s.first_end);
      if (seen) visit(naive_score(r, q, e, c, cells_before + c - e.first_cell), e, c);
    }
    cells_before += e.n_cells;
  }
}

static void naive_row(NaiveRow& r, const Range& entries) {
  float* const sums = r.sums;
  const float none = -__builtin_inff();
  const Tensor& sinks = r.call->in[MICA_ATTENTION_SINKS];
  float top = none;  // of the scores so far
  if (sinks.data != nullptr)
    top = *reinterpret_cast<const float*>(sinks.data + r.head * sinks.stride[0]);
  float denom = top == none ? 0.0f : 1.0f;
  for (int64_t i = 0; i < r.shape.dim_v; ++i) sums[i] = 0.0f;
  naive_visit(r, entries, [&](float score, const Entry& e, int64_t cell) {
    if (score == none) return;
    if (score > top) {
      const float less = __builtin_expf(top - score);
      denom *= less;
      for (int64_t i = 0; i < r.shape.dim_v; ++i) sums[i] *= less;
      top = score;
    }
    const float weight = __builtin_expf(score - top);
    denom += weight;
    const char* v = r.call->in[MICA_ATTENTION_V].data + e.page * r.shape.v.page_bytes +
                    r.kv_head * r.shape.v.head_bytes;
    get_row(r.shape.v, v, cell, r.v, naive_pad(r.shape.v), r.encoded);
    for (int64_t i = 0; i < r.shape.dim_v; ++i) sums[i] += weight * r.v[i];
  });
  const Tensor& out = r.call->out;
  float* to = reinterpret_cast<float*>(out.data + r.head * out.stride[1] + r.token * out.stride[2]);
  for (int64_t i = 0; i < r.shape.dim_v; ++i) to[i] = denom == 0.0f ? 0.0f : sums[i] / denom;
}

static uint64_t naive_scratch(const Call& call) {
  Shape s;
  return attention_shape(call, &s) ? carve_naive(s, nullptr, nullptr) : 0;
}

static int64_t naive_items(const Call& call, uint32_t) {
  return call.in[MICA_ATTENTION_Q].dim[1] * call.in[MICA_ATTENTION_Q].dim[2];
}

static void naive_run(const Call& call, uint32_t, int64_t first, int64_t end, char* scratch) {
  NaiveRow r;
  r.call = &call;
  r.args = static_cast<const mica_attention_args*>(call.args);
  attention_shape(call, &r.shape);
  r.table = attention_table(call);
  carve_naive(r.shape, scratch, &r);
  for (int64_t item = first; item < end; ++item) {
    r.token = item / r.shape.n_heads;
    r.head = item % r.shape.n_heads;
    r.kv_head = r.head / r.shape.group;
    r.turn = kNoTurn;
    char* out = call.out.data + r.head * call.out.stride[1] + r.token * call.out.stride[2];
    __builtin_memset(out, 0, static_cast<size_t>(r.shape.dim_v) * 4);
    for (int64_t i = 0; i < r.table.n_seqs; ++i) {
      const Range tokens = seq_tokens(r.table, r.shape, i);
      if (r.token < tokens.begin || r.token >= tokens.end) continue;
      naive_row(r, seq_entries(r.table, i));
      break;
    }
  }
}

MICA_CPU_END
