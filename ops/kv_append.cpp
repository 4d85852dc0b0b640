// kv_append: scatters rows of K or V into the cells of a cache, converted to its type.
#include "ops/kv_append.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

enum Input : uint32_t { kState, kRows, kSlots, kInputs };

mica_status infer(const InferCall& call) {
  const Desc& state = call.in[kState];
  const Desc& rows = call.in[kRows];
  const Desc& slots = call.in[kSlots];
  Error& error = call.error;
  if (state.rank != 3 || (!is_float(state.dtype) && !is_quantized(state.dtype)))
    return error.fail(MICA_INVALID_ARGUMENT, "the state is ", dtype_name(state.dtype), " ",
                      shape_text(state).text, ", not [head_dim, n_kv_heads, n_cells] of a cache");
  MICA_TRY(need_float(call, "rows", rows));
  MICA_TRY(need_contiguous_rows(call, "rows", rows));
  if (rows.rank != 3 || rows.dim[0] != state.dim[0] || rows.dim[1] != state.dim[1])
    return error.fail(MICA_INVALID_ARGUMENT, "rows ", shape_text(rows).text, " are not [",
                      state.dim[0], ", ", state.dim[1], ", n_tokens] as the cache has them");
  if (slots.dtype != MICA_I32 || slots.rank != 1 || !slots.contiguous())
    return error.fail(MICA_INVALID_ARGUMENT, "slots are ", dtype_name(slots.dtype), " ",
                      shape_text(slots).text, ", not i32 [n_tokens], packed");
  if (slots.dim[0] != rows.dim[2] || slots.extent != rows.extent)
    return error.fail(MICA_INVALID_ARGUMENT, "rows ", shape_text(rows).text, " and slots ",
                      shape_text(slots).text, " do not have the same tokens");
  call.out = state;
  return MICA_OK;
}

mica_status reference(const RefCall& call) {
  const HostTensor& state = call.out;
  const HostTensor& rows = call.in[kRows];
  const int64_t head_dim = state.dim[0];
  // Zeros pad the last block of a head.
  const auto padded = static_cast<size_t>(align_up<int64_t>(head_dim, 256));
  Vec<double> row(*call.allocator);
  if (!row.resize(padded)) return MICA_OUT_OF_MEMORY;
  for (int64_t t = 0; t < rows.dim[2]; ++t) {
    const int64_t slot = call.in[kSlots].int_at(t);
    if (slot < 0 || slot >= state.dim[2]) continue;
    for (int64_t h = 0; h < state.dim[1]; ++h) {
      rows.read_row(row.data(), h, t);
      state.write_row(row.data(), h, slot);
    }
  }
  int64_t i = 0;
  for (int64_t cell = 0; call.magnitude != nullptr && cell < state.dim[2]; ++cell) {
    for (int64_t h = 0; h < state.dim[1]; ++h) {
      state.read_row(row.data(), h, cell);
      for (int64_t d = 0; d < head_dim; ++d)
        call.magnitude[i++] = __builtin_fabs(row[static_cast<size_t>(d)]);
    }
  }
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_kv_append = {MICA_OP_kv_append, "kv_append", kInputs, kInputs,  0, kOpState, -1, infer,
                            nullptr,           reference};

}  // namespace mica

void mica_kv_append(mica_graph* graph, const mica_kv* kv, mica_tensor k, mica_tensor v) {
  if (kv == nullptr) {
    mica::builder_error(graph, "kv_append", "kv is NULL");
    return;
  }
  const mica_tensor k_in[] = {kv->k, k, kv->slots};
  mica::append(graph, mica::op_kv_append, k_in, 3, nullptr, 0);
  const mica_tensor v_in[] = {kv->v, v, kv->slots};
  mica::append(graph, mica::op_kv_append, v_in, 3, nullptr, 0);
}

#else
#include "ops/attention/attention_cases.h"
#endif
