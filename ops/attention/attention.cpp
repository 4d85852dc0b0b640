// attention over a paged KV cache: every way of sharing K and V in one op.
#include "ops/attention/attention.h"

#ifndef MICA_CASES
#include <cmath>

#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/rope_reference.h"

namespace mica {
namespace {

constexpr uint32_t kQ = MICA_ATTENTION_Q, kK = MICA_ATTENTION_K, kV = MICA_ATTENTION_V,
                   kPositions = MICA_ATTENTION_POSITIONS, kTable = MICA_ATTENTION_TABLE,
                   kMask = MICA_ATTENTION_MASK, kSinks = MICA_ATTENTION_SINKS,
                   kTurns = MICA_ATTENTION_TURNS;

mica_status check_state(const InferCall& call, const char* name, const Desc& x) {
  if (!is_float(x.dtype) && !is_quantized(x.dtype))
    return call.error.fail(MICA_INVALID_ARGUMENT, name, " is ", dtype_name(x.dtype),
                           ", not a float or quantized type");
  if (x.rank != 3)
    return call.error.fail(MICA_INVALID_ARGUMENT, name, " ", shape_text(x).text,
                           " is not [head_dim, n_kv_heads, n_cells] of a cache");
  return MICA_OK;
}

mica_status check_q(const InferCall& call) {
  const Desc& q = call.in[kQ];
  const Desc& k = call.in[kK];
  const Desc& v = call.in[kV];
  Error& error = call.error;
  MICA_TRY(need_float(call, "q", q));
  if (q.rank != 3)
    return error.fail(MICA_INVALID_ARGUMENT, "q ", shape_text(q).text,
                      " is not [head_dim, n_heads, n_tokens]");
  MICA_TRY(need_contiguous_rows(call, "q", q));
  MICA_TRY(check_state(call, "k", k));
  MICA_TRY(check_state(call, "v", v));
  if (k.dim[1] != v.dim[1] || k.dim[2] != v.dim[2])
    return error.fail(MICA_INVALID_ARGUMENT, "k ", shape_text(k).text, " and v ",
                      shape_text(v).text, " have different heads or cells");
  if (q.dim[0] != k.dim[0])
    return error.fail(MICA_INVALID_ARGUMENT, "q has heads of ", q.dim[0], " elements, k of ",
                      k.dim[0]);
  if (q.dim[1] % k.dim[1] != 0)
    return error.fail(MICA_INVALID_ARGUMENT, "k has ", k.dim[1], " kv heads, ", q.dim[1],
                      " query heads are not a multiple");
  return MICA_OK;
}

mica_status check_tables(const InferCall& call, const mica_attention_args& args) {
  const Desc& q = call.in[kQ];
  const Desc& positions = call.in[kPositions];
  const Desc& table = call.in[kTable];
  Error& error = call.error;
  if (positions.dtype != MICA_I32 || positions.rank != 1 || !positions.contiguous())
    return error.fail(MICA_INVALID_ARGUMENT, "positions are ", dtype_name(positions.dtype), " ",
                      shape_text(positions).text, ", not i32 [n_tokens], packed");
  if (positions.dim[0] != q.dim[2] || positions.extent != q.extent)
    return error.fail(MICA_INVALID_ARGUMENT, "q ", shape_text(q).text, " and positions ",
                      shape_text(positions).text, " do not have the same tokens");
  const int64_t least = MICA_KV_TABLE_ENTRIES(int64_t{args.max_seqs});
  if (table.dtype != MICA_I32 || table.rank != 1 || !table.contiguous() ||
      table.extent != kNoExtent || args.max_seqs == 0 || table.dim[0] < least)
    return error.fail(MICA_INVALID_ARGUMENT, "table is ", dtype_name(table.dtype), " ",
                      shape_text(table).text, ", not i32 of at least ", least, " words");
  return MICA_OK;
}

mica_status check_mask(const InferCall& call) {
  const Desc& q = call.in[kQ];
  const Desc& mask = call.in[kMask];
  Error& error = call.error;
  if (mask.rank == 0) return MICA_OK;
  if (mask.dtype != MICA_F32 && mask.dtype != MICA_F16)
    return error.fail(MICA_INVALID_ARGUMENT, "mask is ", dtype_name(mask.dtype),
                      ", not f32 or f16");
  MICA_TRY(need_contiguous_rows(call, "mask", mask));
  if (mask.dim[1] != q.dim[2] || mask.dim[3] != 1 || (mask.dim[2] != 1 && mask.dim[2] != q.dim[1]))
    return error.fail(MICA_INVALID_ARGUMENT, "mask ", shape_text(mask).text, " is not [n_kv_max, ",
                      q.dim[2], ", ", q.dim[1], " or 1]");
  if (mask.extent != kNoExtent && (mask.extent != q.extent || mask.rank != 2))
    return error.fail(MICA_INVALID_ARGUMENT, "mask ", shape_text(mask).text,
                      " has an extent that is not q's n_tokens");
  return MICA_OK;
}

mica_status check_sinks(const InferCall& call) {
  const Desc& sinks = call.in[kSinks];
  if (sinks.rank == 0) return MICA_OK;
  if (sinks.dtype != MICA_F32 || sinks.rank != 1 || !sinks.contiguous() ||
      sinks.extent != kNoExtent || sinks.dim[0] != call.in[kQ].dim[1])
    return call.error.fail(MICA_INVALID_ARGUMENT, "sinks are ", dtype_name(sinks.dtype), " ",
                           shape_text(sinks).text, ", not f32 [", call.in[kQ].dim[1], "], packed");
  return MICA_OK;
}

mica_status check_turns(const InferCall& call, const mica_attention_args& args) {
  const Desc& turns = call.in[kTurns];
  if (turns.rank == 0) return MICA_OK;
  if (turns.dtype != MICA_F32 || turns.rank != 2 || !turns.contiguous() || turns.dim[0] % 2 != 0)
    return call.error.fail(MICA_INVALID_ARGUMENT, "turns are ", dtype_name(turns.dtype), " ",
                           shape_text(turns).text, ", not f32 [n_rot, max_turns], packed");
  if (args.n_rot != turns.dim[0])
    return call.error.fail(MICA_INVALID_ARGUMENT, "n_rot is ", args.n_rot, ", but turns have ",
                           turns.dim[0], " elements a row");
  if (args.rope_keys > 1)
    return call.error.fail(MICA_INVALID_ARGUMENT, "rope_keys is ", args.rope_keys, ", not 0 or 1");
  if (args.rope_keys == 1 && turns.dim[1] <= MICA_KV_OFFSET_TURNS)
    return call.error.fail(MICA_INVALID_ARGUMENT, "turns have ", turns.dim[1],
                           " rows; those of unrotated keys are more than ", MICA_KV_OFFSET_TURNS);
  return check_rope_head(call, args.n_rot, args.rope_offset, args.rope_pairing, call.in[kQ].dim[0]);
}

mica_status infer(const InferCall& call) {
  const auto& args = *static_cast<const mica_attention_args*>(call.args);
  MICA_TRY(check_q(call));
  MICA_TRY(check_tables(call, args));
  MICA_TRY(check_mask(call));
  MICA_TRY(check_sinks(call));
  MICA_TRY(check_turns(call, args));
  MICA_TRY(need_finite(call, "scale", args.scale));
  MICA_TRY(need_finite(call, "softcap", args.softcap));
  if (args.softcap < 0)
    return call.error.fail(MICA_INVALID_ARGUMENT, "softcap is ", double{args.softcap},
                           ", less than 0");
  const Desc& q = call.in[kQ];
  const int64_t dim[] = {call.in[kV].dim[0], q.dim[1], q.dim[2]};
  return pack_output(call, MICA_F32, 3, dim, q.extent);
}

// A sequence's part of the step, and its cells in table order.
struct Sequence {
  int64_t first_token, end_token;
  int64_t n_cells;
  const int64_t* slot;      // [n_cells]
  const int64_t* position;  // [n_cells]
  const int64_t* turn;      // [n_cells]: row of `turns`
  const int64_t* offset;    // [n_cells]: and, of unrotated keys, the row of what is left
};

// Scratch of one call, all in one place so that running out of memory is one check.
struct Scratch {
  explicit Scratch(const mica_allocator& a)
      : slot(a), position(a), turn(a), offset(a), k(a), v(a), q(a), s(a), size(a), y(a) {}
  Vec<int64_t> slot, position, turn, offset;
  Vec<double> k, v;  // rows of one kv head: [n_cells][head_dim]
  Vec<double> q;     // [head_dim_k]
  Vec<double> s;     // [n_cells]: scores, then weights
  Vec<double> size;  // [n_cells]: sum of |terms| of the score
  Vec<double> y;     // [head_dim_v]
};

// Entries name pages of the cache; words that do not (the table is data) are skipped.
bool read_sequence(const RefCall& call, int64_t i_seq, Scratch& scratch, Sequence& out) {
  const HostTensor& table = call.in[kTable];
  const int64_t max_seqs = call.arg<mica_attention_args>().max_seqs;
  const int64_t n_cells = call.in[kK].dim[2];
  out.first_token = table.int_at(MICA_KV_TABLE_SPANS + i_seq);
  out.end_token = table.int_at(MICA_KV_TABLE_SPANS + i_seq + 1);
  const int64_t entries = MICA_KV_TABLE_ENTRIES(max_seqs);
  const int64_t begin = table.int_at(MICA_KV_TABLE_STARTS(max_seqs) + i_seq);
  const int64_t end = table.int_at(MICA_KV_TABLE_STARTS(max_seqs) + i_seq + 1);
  scratch.slot.clear();
  scratch.position.clear();
  scratch.turn.clear();
  scratch.offset.clear();
  for (int64_t e = begin; e < end; ++e) {
    const int64_t word = entries + MICA_KV_ENTRY_WORDS * e;
    if (word < 0 || word + MICA_KV_ENTRY_WORDS > table.dim[0]) break;
    const int64_t first = table.int_at(word + MICA_KV_ENTRY_PAGE) * MICA_KV_PAGE_CELLS +
                          table.int_at(word + MICA_KV_ENTRY_FIRST_CELL);
    const int64_t n = table.int_at(word + MICA_KV_ENTRY_N_CELLS);
    const int64_t base = table.int_at(word + MICA_KV_ENTRY_BASE);
    const int64_t div = table.int_at(word + MICA_KV_ENTRY_DIV);
    for (int64_t i = 0; i < n; ++i) {
      if (first + i < 0 || first + i >= n_cells || div < 1) continue;
      if (!scratch.slot.push(first + i)) return false;
      if (!scratch.position.push((base + i) / div)) return false;
      if (!scratch.turn.push(table.int_at(word + MICA_KV_ENTRY_TURN))) return false;
      const int64_t multiple = base / div / MICA_KV_PAGE_CELLS * MICA_KV_PAGE_CELLS;
      if (!scratch.offset.push((base + i) / div - multiple)) return false;
    }
  }
  out.n_cells = static_cast<int64_t>(scratch.slot.size());
  out.slot = scratch.slot.data();
  out.position = scratch.position.data();
  out.turn = scratch.turn.data();
  out.offset = scratch.offset.data();
  return true;
}

bool sees(const mica_attention_args& args, int64_t query, int64_t cell) {
  if (args.causal != 0 && cell > query) return false;
  return args.window == 0 || cell > query - int64_t{args.window} || cell < int64_t{args.n_first};
}

// A head, rotated by a row of `turns`.
void turn_head(const RefCall& call, int64_t turn, double* head) {
  const auto& args = call.arg<mica_attention_args>();
  const HostTensor& turns = call.in[kTurns];
  if (turn < 0 || turn >= turns.dim[1]) return;
  const int64_t n_pairs = turns.dim[0] / 2;
  for (int64_t i = 0; i < n_pairs; ++i)
    rotate(head, rope_pair(args.rope_pairing, args.rope_offset, n_pairs, i), turns.at(2 * i, turn),
           turns.at(2 * i + 1, turn));
}

// The query as it meets cells of a turn.
void load_query(const RefCall& call, int64_t i_token, int64_t i_head, int64_t turn, Scratch& x) {
  const bool of_keys = call.arg<mica_attention_args>().rope_keys != 0;
  call.in[kQ].read_row(x.q.data(), i_head, i_token);
  if (call.in[kTurns].present() && !of_keys && turn > 0) turn_head(call, turn, x.q.data());
  round_activations(call, x.q.data(), call.in[kQ].dim[0]);
}

// Scores of all cells of the sequence; -infinity where the query does not see.
void score(const RefCall& call, const Sequence& seq, int64_t i_token, int64_t i_head, Scratch& x) {
  const auto& args = call.arg<mica_attention_args>();
  const HostTensor& mask = call.in[kMask];
  const int64_t head_dim = call.in[kQ].dim[0];
  const int64_t query = call.in[kPositions].int_at(i_token);
  int64_t turn = 0;
  load_query(call, i_token, i_head, turn, x);
  for (int64_t i = 0; i < seq.n_cells; ++i) {
    if (seq.turn[i] != turn) load_query(call, i_token, i_head, turn = seq.turn[i], x);
    double& s = x.s[static_cast<size_t>(i)];
    double& size = x.size[static_cast<size_t>(i)];
    s = -HUGE_VAL;
    size = 0;
    if (!sees(args, query, seq.position[i]) || (mask.present() && i >= mask.dim[0])) continue;
    const double bias = mask.present() ? mask.at(i, i_token, repeated(i_head, mask.dim[2])) : 0;
    if (bias == -HUGE_VAL) continue;
    const double* k = x.k.data() + i * head_dim;
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      const double term = double{args.scale} * x.q[static_cast<size_t>(d)] * k[d];
      sum += term;
      size += std::fabs(term);
    }
    if (args.softcap > 0) sum = double{args.softcap} * std::tanh(sum / double{args.softcap});
    s = sum + bias;
    size += std::fabs(bias);
  }
}

// Scores to weights. False when nothing is seen.
bool normalise(const RefCall& call, int64_t n_cells, int64_t i_head, Scratch& x) {
  const HostTensor& sinks = call.in[kSinks];
  const double sink = sinks.present() ? sinks.at(i_head) : -HUGE_VAL;
  double largest = sink;
  double sum = 0;
  for (int64_t i = 0; i < n_cells; ++i) {
    const double s = x.s[static_cast<size_t>(i)];
    if (s > largest || std::isnan(s)) largest = s;
    if (std::isnan(largest)) break;
  }
  if (largest == -HUGE_VAL) return false;
  for (int64_t i = 0; i < n_cells; ++i) {
    double& s = x.s[static_cast<size_t>(i)];
    s = s == -HUGE_VAL ? 0 : std::exp(s - largest);
    sum += s;
  }
  sum += std::exp(sink - largest);
  for (int64_t i = 0; i < n_cells; ++i) x.s[static_cast<size_t>(i)] /= sum;
  return true;
}

// y = sum of w v. An error of the score s[i], proportional to the size of its terms, moves y by
// w[i] (v[i] - y): hence the second part of the magnitude.
void mix(const RefCall& call, const Sequence& seq, int64_t i_token, int64_t i_head, bool any,
         Scratch& x) {
  const int64_t head_dim = call.out.dim[0];
  double* const y = x.y.data();
  for (int64_t d = 0; d < head_dim; ++d) y[d] = 0;
  for (int64_t i = 0; any && i < seq.n_cells; ++i) {
    const double w = x.s[static_cast<size_t>(i)];
    const double* v = x.v.data() + i * head_dim;
    for (int64_t d = 0; w != 0 && d < head_dim; ++d) y[d] += w * v[d];
  }
  for (int64_t d = 0; d < head_dim; ++d) call.out.set(y[d], d, i_head, i_token);
  if (call.magnitude == nullptr) return;
  double* const magnitude = call.magnitude + (i_token * call.out.dim[1] + i_head) * head_dim;
  for (int64_t i = 0; any && i < seq.n_cells; ++i) {
    const double w = x.s[static_cast<size_t>(i)];
    const double size = x.size[static_cast<size_t>(i)];
    const double* v = x.v.data() + i * head_dim;
    for (int64_t d = 0; w != 0 && d < head_dim; ++d)
      magnitude[d] += w * (std::fabs(v[d]) + size * (std::fabs(v[d]) + std::fabs(y[d])));
  }
}

mica_status run_sequence(const RefCall& call, const Sequence& seq, Scratch& x) {
  const HostTensor& k = call.in[kK];
  const HostTensor& v = call.in[kV];
  const auto n = static_cast<size_t>(seq.n_cells);
  const auto dim_k = static_cast<size_t>(k.dim[0]);
  const auto dim_v = static_cast<size_t>(v.dim[0]);
  if (!x.k.resize(n * dim_k) || !x.v.resize(n * dim_v) || !x.q.resize(dim_k) || !x.s.resize(n) ||
      !x.size.resize(n) || !x.y.resize(dim_v))
    return MICA_OUT_OF_MEMORY;
  const int64_t n_heads = call.in[kQ].dim[1];
  const int64_t n_tokens = call.in[kQ].dim[2];
  const int64_t group = n_heads / k.dim[1];
  for (int64_t i_kv_head = 0; i_kv_head < k.dim[1]; ++i_kv_head) {
    for (size_t i = 0; i < n; ++i) {
      k.read_row(x.k.data() + i * dim_k, i_kv_head, seq.slot[i]);
      if (call.arg<mica_attention_args>().rope_keys != 0) {
        turn_head(call, seq.turn[i], x.k.data() + i * dim_k);
        turn_head(call, seq.offset[i], x.k.data() + i * dim_k);
      }
      v.read_row(x.v.data() + i * dim_v, i_kv_head, seq.slot[i]);
    }
    for (int64_t t = seq.first_token; t < seq.end_token && t < n_tokens; ++t) {
      for (int64_t h = i_kv_head * group; h < (i_kv_head + 1) * group; ++h) {
        score(call, seq, t, h, x);
        mix(call, seq, t, h, normalise(call, seq.n_cells, h, x), x);
      }
    }
  }
  return MICA_OK;
}

mica_status reference(const RefCall& call) {
  const int64_t max_seqs = call.arg<mica_attention_args>().max_seqs;
  Scratch scratch(*call.allocator);
  // Tokens that no sequence of the table names.
  for (int64_t t = 0; t < call.out.dim[2]; ++t)
    for (int64_t h = 0; h < call.out.dim[1]; ++h)
      for (int64_t d = 0; d < call.out.dim[0]; ++d) call.out.set(0, d, h, t);
  for (int64_t i = 0; call.magnitude != nullptr && i < call.out.elements(); ++i)
    call.magnitude[i] = 0;
  int64_t n_terms = call.in[kQ].dim[0];
  int64_t n_seqs = call.in[kTable].int_at(0);
  if (n_seqs > max_seqs) n_seqs = max_seqs;
  for (int64_t i = 0; i < n_seqs; ++i) {
    Sequence seq;
    if (!read_sequence(call, i, scratch, seq)) return MICA_OUT_OF_MEMORY;
    if (seq.n_cells > n_terms) n_terms = seq.n_cells;
    if (seq.first_token < 0) continue;
    MICA_TRY(run_sequence(call, seq, scratch));
  }
  set_terms(call, static_cast<double>(n_terms));
  return MICA_OK;
}

}  // namespace

const OpDef op_attention = {MICA_OP_attention,
                            "attention",
                            kMask,
                            MICA_ATTENTION_INPUTS,
                            sizeof(mica_attention_args),
                            kOpPlain,
                            -1,
                            infer,
                            nullptr,
                            reference};

}  // namespace mica

mica_tensor mica_attention(mica_graph* graph, mica_tensor q, const mica_kv* kv,
                           const mica_attention_params* params) {
  const mica_attention_params defaults = MICA_ATTENTION_PARAMS_INIT;
  if (params == nullptr) params = &defaults;
  if (kv == nullptr) return mica::builder_error(graph, "attention", "kv is NULL");
  if (params->struct_size != sizeof(mica_attention_params))
    return mica::builder_error(graph, "attention", "params.struct_size is not this version's");
  mica_attention_args args = {params->scale,
                              params->softcap,
                              params->non_causal == 0 ? 1u : 0u,
                              kv->window,
                              kv->window != 0 ? kv->n_first : 0,
                              kv->max_seqs,
                              0,
                              0,
                              0,
                              0};
  mica_tensor_info info;
  mica_tensor turns = MICA_NO_TENSOR;
  const bool has_turns = kv->keys == MICA_KV_KEYS_RELATIVE || kv->keys == MICA_KV_KEYS_UNROTATED;
  if (has_turns && params->rope == nullptr && params->no_rope == 0)
    return mica::builder_error(graph, "attention",
                               "the cache's keys are relative or unrotated, and params.rope does "
                               "not say what K is rotated by; if by nothing, set params.no_rope");
  if (has_turns && params->no_rope == 0 && mica_graph_tensor_info(graph, q, &info) == MICA_OK) {
    mica_rope_params rope = *params->rope;
    if (rope.n_rot == 0) rope.n_rot = static_cast<uint32_t>(info.dim[0]);
    turns = mica_rope_angles(graph, kv->turns, &rope);
    args.n_rot = rope.n_rot;
    args.rope_offset = rope.offset;
    args.rope_pairing = static_cast<uint32_t>(rope.pairing);
    args.rope_keys = kv->keys == MICA_KV_KEYS_UNROTATED ? 1 : 0;
  }
  if (args.scale == 0 && mica_graph_tensor_info(graph, q, &info) == MICA_OK)
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(info.dim[0])));
  const mica_tensor in[] = {q,         kv->k,        kv->v,         kv->positions,
                            kv->table, params->mask, params->sinks, turns};
  return mica::append(graph, mica::op_attention, in, MICA_ATTENTION_INPUTS, &args, sizeof args);
}

#else
#include "ops/attention/attention_list.inc"
#endif
