// kv_shift: rotates stored K from one position to another.
#include "ops/kv_shift.h"

#ifndef MICA_CASES
#include "mica/kv_table.h"
#include "ops/kv_shift_args.h"
#include "ops/rope_reference.h"

namespace mica {
namespace {

enum Input : uint32_t { kState, kShifts, kFactors, kInputs };

mica_status infer(const InferCall& call) {
  const auto& args = *static_cast<const mica_kv_shift_args*>(call.args);
  const Desc& state = call.in[kState];
  const Desc& shifts = call.in[kShifts];
  Error& error = call.error;
  if (state.rank != 3 || (!is_float(state.dtype) && !is_quantized(state.dtype)))
    return error.fail(MICA_INVALID_ARGUMENT, "the state is ", dtype_name(state.dtype), " ",
                      shape_text(state).text, ", not [head_dim, n_kv_heads, n_cells] of a cache");
  if (shifts.dtype != MICA_I32 || shifts.rank != 1 || !shifts.contiguous() ||
      shifts.extent != kNoExtent)
    return error.fail(MICA_INVALID_ARGUMENT, "shifts are ", dtype_name(shifts.dtype), " ",
                      shape_text(shifts).text, ", not an i32 list");
  MICA_TRY(check_rope_angles(call, args.angles, call.in[kFactors]));
  MICA_TRY(check_rope_head(call, args.angles.n_rot, args.offset, args.pairing, state.dim[0]));
  call.out = state;
  return MICA_OK;
}

// By how many positions cell i of an entry of the list moves. The list is data: it may be anything.
int64_t difference(const HostTensor& shifts, int64_t word, int64_t i) {
  const auto at = [&](int64_t k) { return shifts.int_at(word + k); };
  const int64_t to_div = at(MICA_KV_SHIFT_TO_DIV), from_div = at(MICA_KV_SHIFT_FROM_DIV);
  if (to_div < 1 || from_div < 1) return 0;
  return (at(MICA_KV_SHIFT_TO) + i) / to_div - (at(MICA_KV_SHIFT_FROM) + i) / from_div;
}

void shift_row(const RefCall& call, int64_t head, int64_t cell, int64_t by, double* row) {
  const auto& a = call.arg<mica_kv_shift_args>();
  const int64_t n_pairs = a.angles.n_rot / 2;
  call.out.read_row(row, head, cell);
  for (int64_t i = 0; i < n_pairs; ++i) {
    const double angle = static_cast<double>(by) * rope_frequency(a.angles, call.in[kFactors], i);
    rotate(row, rope_pair(a.pairing, a.offset, n_pairs, i), std::cos(angle), std::sin(angle));
  }
  if (call.out.dtype != MICA_F32) move_at_borders(call, row, call.out.dim[0]);
  call.out.write_row(row, head, cell);
}

mica_status reference(const RefCall& call) {
  const HostTensor& state = call.out;
  const HostTensor& shifts = call.in[kShifts];
  // Zeros pad the last block of a head.
  const auto padded = static_cast<size_t>(align_up<int64_t>(state.dim[0], 256));
  Vec<double> row(*call.allocator);
  if (!row.resize(padded)) return MICA_OUT_OF_MEMORY;
  const int64_t n_entries = shifts.int_at(0);
  for (int64_t e = 0; e < n_entries; ++e) {
    const int64_t word = 1 + e * MICA_KV_SHIFT_WORDS;
    if (word + MICA_KV_SHIFT_WORDS > shifts.dim[0]) break;
    const int64_t first = shifts.int_at(word + MICA_KV_SHIFT_PAGE) * MICA_KV_PAGE_CELLS +
                          shifts.int_at(word + MICA_KV_SHIFT_FIRST_CELL);
    for (int64_t i = 0; i < shifts.int_at(word + MICA_KV_SHIFT_N_CELLS); ++i) {
      const int64_t by = difference(shifts, word, i);
      if (first + i < 0 || first + i >= state.dim[2] || by == 0) continue;
      for (int64_t h = 0; h < state.dim[1]; ++h) shift_row(call, h, first + i, by, row.data());
    }
  }
  int64_t i = 0;
  for (int64_t cell = 0; call.magnitude != nullptr && cell < state.dim[2]; ++cell)
    for (int64_t h = 0; h < state.dim[1]; ++h) {
      state.read_row(row.data(), h, cell);
      for (int64_t d = 0; d < state.dim[0]; ++d)
        call.magnitude[i++] = std::fabs(row[static_cast<size_t>(d)]);
    }
  set_terms(call, 2);
  return MICA_OK;
}

}  // namespace

const OpDef op_kv_shift = {MICA_OP_kv_shift, "kv_shift", 2,     kInputs, sizeof(mica_kv_shift_args),
                           kOpState,         -1,         infer, nullptr, reference};

}  // namespace mica

void mica_kv_shift(mica_graph* graph, const mica_kv* kv, const mica_rope_params* params) {
  if (kv == nullptr || params == nullptr) {
    mica::builder_error(graph, "kv_shift", "kv or params are NULL");
    return;
  }
  if (params->struct_size != sizeof(mica_rope_params)) {
    mica::builder_error(graph, "kv_shift", "params.struct_size is not this version's");
    return;
  }
  uint32_t n_rot = params->n_rot;
  mica_tensor_info info;
  if (n_rot == 0 && mica_graph_tensor_info(graph, kv->k, &info) == MICA_OK)
    n_rot = static_cast<uint32_t>(info.dim[0]);
  const mica_kv_shift_args args = {mica::rope_angles_args_of(*params, n_rot), params->offset,
                                   static_cast<uint32_t>(params->pairing)};
  const mica_tensor in[] = {kv->k, kv->shifts, params->freq_factors};
  mica::append(graph, mica::op_kv_shift, in, 3, &args, sizeof args);
}

#else
#include "ops/attention/attention_moves.inc"

namespace mica::conformance {
void cases_kv_shift(CaseList& list) { add_shifts(list); }
}  // namespace mica::conformance
#endif
