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

const OpDef op_kv_append = {MICA_OP_kv_append, "kv_append", kInputs, kInputs, 0,
                            kOpState,          -1,          infer,   nullptr, reference};

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
#include "ops/attention/attention_cases.inc"

namespace mica::conformance {

// With a window of 1 every query sees its own cell only, so that attention gives what was stored in
// V; the wider window gives what was stored in K a part in the result.
void cases_kv_append(CaseList& list) {
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q8_0, MICA_Q4_0}) {
    for (const mica_dtype rows : {MICA_F32, MICA_F16, MICA_BF16}) {
      for (const uint32_t window : {1u, 0u}) {
        AttentionCase c;
        c.n_heads = c.n_kv_heads = 3;
        c.dtype_k = c.dtype_v = type;
        c.dtype_rows = rows;
        c.window = window;
        c.max_seqs = 2;
        c.max_step_tokens = 80;
        c.steps = {{{{1, 30}, {0, 40}}, {}}, {{{0, 80}}, {}}, {{{0, 1}, {1, 2}}, {}}};
        const std::string name = std::string(mica_dtype_get(type)->name) + "." +
                                 mica_dtype_get(rows)->name + ".window" + std::to_string(window);
        list.add("kv_append", name, [c](CaseBuilder& b) { build_attention(b, c); });
        c.head_dim_k = 64 + 16;
        c.head_dim_v = 32 + 8;
        if (rows == MICA_F32)
          list.add("kv_append", name + ".padded", [c](CaseBuilder& b) { build_attention(b, c); });
      }
    }
  }
  // Heads of a wider tensor: K and V inside a fused Q, K, V.
  list.add("kv_append", "slices", [](CaseBuilder& b) {
    mica_kv_layer layer = MICA_KV_LAYER_INIT;
    layer.n_kv_heads = 2;
    layer.head_dim_k = layer.head_dim_v = 64;
    mica_kv_params params = MICA_KV_PARAMS_INIT;
    params.n_layers = 1;
    params.layers = &layer;
    params.n_cells = 128;
    params.max_step_tokens = 24;
    mica_kv_cache* cache = b.cache(params, {{{{0, 20}}, {}}, {{{0, 1}}, {}}});
    const mica_tensor qkv = b.input("qkv", MICA_F32, {64, 8, 24}, normal(), b.n_tokens());
    const auto heads = [&](int64_t first, int64_t n) {
      const int64_t dim[] = {64, n, 24}, start[] = {0, first, 0, 0};
      return mica_view(b.graph(), qkv, 3, dim, start);
    };
    const mica_kv kv = mica_graph_kv(b.graph(), cache, 0, b.n_tokens());
    mica_kv_append(b.graph(), &kv, heads(4, 2), heads(6, 2));
    b.output(mica_attention(b.graph(), heads(0, 4), &kv, nullptr));
  });
}

}  // namespace mica::conformance
#endif
