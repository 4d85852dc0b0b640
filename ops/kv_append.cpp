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
      if (state.dtype != MICA_F32) move_at_borders(call, row.data(), head_dim);
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
  const mica_tensor angles = mica::made_of(graph, k, MICA_OP_rope, 1);
  const mica_tensor positions = mica::made_of(graph, angles, MICA_OP_rope_angles, 0);
  if (positions.index != 0 && positions.index == kv->positions.index &&
      positions.index != kv->key_positions.index) {
    mica::builder_error(graph, "kv_append",
                        "K is rotated to mica_kv.positions, but the cache's keys are relative or "
                        "unrotated: it must be rotated to mica_kv.key_positions");
    return;
  }
  const bool v_is_k = kv->v.index != 0 && kv->v.index == kv->k.index;
  if (v_is_k && v.index != 0) {
    mica::builder_error(graph, "kv_append", "the layer's V is its K: there is no V to store");
    return;
  }
  const mica_tensor k_in[] = {kv->k, k, kv->slots};
  mica::append(graph, mica::op_kv_append, k_in, 3, nullptr, 0);
  if (v_is_k) return;
  const mica_tensor v_in[] = {kv->v, v, kv->slots};
  mica::append(graph, mica::op_kv_append, v_in, 3, nullptr, 0);
}

#else
#include "ops/attention/attention_cases.inc"

namespace mica::conformance {
namespace {

// Blocks of 32 that encoders must agree on: what is not finite, what a type cannot hold or just
// can, scales that F16 rounds to a subnormal or to zero, ties, signs.
std::vector<double> limit_rows(int64_t head_dim, int64_t n_rows) {
  const double kinds[][4] = {
      {1, NAN, -2, 0.5},
      {1, HUGE_VAL, -2, 0.5},
      {1, -HUGE_VAL, 3, 0.5},
      {HUGE_VAL, -HUGE_VAL, NAN, 1e-3},
      {NAN, NAN, NAN, NAN},
      {0, -0.0, 0, -0.0},
      {1, -1, 0.5, -0.5},
      {-1, 1, 0.5, -0.5},
      {65504, 65519, 65520, -65520},
      {524032, -524033, 1e6, 5},
      {1048064, -1048065, 2e6, 5},
      {8319008, -8319009, 1e7, 5},
      {3e38, -3e38, 1e30, 1},
      {-3.4e38, 3.39e38, 0, 1},
      {0x1p-14, -0x1p-24, 0x1p-25, 0x1.8p-25},
      {127 * 0x1p-25, -0x1p-20, 0x1p-22, 0},
      {127 * 0x1.01p-25, -0x1p-20, 0x1p-22, 0},
      {8 * 0x1p-25, -8 * 0x1p-25, 0x1p-25, 0},
      {-8 * 0x1.01p-25, 0x1p-23, 0x1p-25, 0},
      {1e-38, -1e-39, 1e-40, 0},
      {1e-45, -1e-42, 0, 0},
      {1 + 0x1p-11, 1 + 0x3p-11, 1 + 0x1p-8, -1 - 0x3p-8},
      {127, 0.5, 1.5, -2.5},
      {-8, 0.5, 1.5, -2.5},
      {-16, 0.5, 1.5, -2.5},
      {16 * 0x1p-25, -16 * 0x1.01p-25, 0x1p-25, 0},
      {0, 15 * 0x1p-25, 0x1p-24, 0x1p-25},
      {0, 31 * 0x1.01p-25, 0x1p-24, 0x1p-25},
      {0, 31, 0.5, 1.5},
      {1 + 0x1p-11, 16 + 0x1p-11, 1.5 + 0x1p-11, 2.5 + 0x1p-11},
      {-65505, -65504, -65520, -65519},
  };
  const int64_t n_kinds = sizeof kinds / sizeof *kinds;
  std::vector<double> rows;
  for (int64_t row = 0; row < n_rows; ++row)
    for (int64_t i = 0; i < head_dim; ++i)
      rows.push_back(kinds[(row * ((head_dim + 31) / 32) + i / 32) % n_kinds][i % 32 % 5 % 4]);
  return rows;
}

// Signalling NaNs of a rows' dtype, each with its own payload, and what is near them: quiet ones,
// infinities, numbers. A cache of the same dtype has no need to convert them.
Values signalling_rows(mica_dtype dtype) {
  if (dtype == MICA_F32) return bits({0x7fa00000, 0xffa00000, 0x7f900000, 0x7fc00000, 0xff800000});
  if (dtype == MICA_F16) return bits({0x7d00, 0xfd00, 0x7c01, 0x7e00, 0xfc00, 0x3c00, 0xfdff});
  return bits({0x7fa0, 0xffa0, 0x7f81, 0x7fc0, 0xff80, 0x3f80, 0xffbf});
}

// No attention: what it makes of such numbers is not promised. The cells are compared.
void build_limits(CaseBuilder& b, mica_dtype type, mica_dtype rows_type, bool signalling) {
  constexpr int64_t kTokens = 24, kHeads = 2;
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = kHeads;
  layer.head_dim_k = 64;
  layer.head_dim_v = 40;
  layer.dtype_k = layer.dtype_v = type;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 128;
  params.max_step_tokens = kTokens;
  mica_kv_cache* cache = b.cache(params, {{{{0, kTokens}}, {}}});
  const mica_kv kv = mica_graph_kv(b.graph(), cache, 0, b.n_tokens());
  const auto rows = [&](const char* name, int64_t head_dim) {
    return b.input(
        name, rows_type, {head_dim, kHeads, kTokens},
        signalling ? signalling_rows(rows_type) : list(limit_rows(head_dim, kHeads * kTokens)),
        b.n_tokens());
  };
  mica_kv_append(b.graph(), &kv, rows("k", 64), rows("v", 40));
  b.output(mica_copy(b.graph(), b.input("x", MICA_F32, {8}, normal())));
}

}  // namespace

// With a window of 1 every query sees its own cell only, so that attention gives what was stored in
// V; the wider window gives what was stored in K a part in the result.
void cases_kv_append(CaseList& list) {
  for (const mica_dtype type : kCacheTypes) {
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
  for (const mica_dtype type : kCacheTypes)
    for (const mica_dtype rows : {MICA_F32, MICA_F16, MICA_BF16})
      list.add(
          "kv_append",
          std::string("limits.") + mica_dtype_get(type)->name + "." + mica_dtype_get(rows)->name,
          [type, rows](CaseBuilder& b) { build_limits(b, type, rows, false); });
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
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q8_0})
    for (const mica_dtype rows : {MICA_F32, MICA_F16, MICA_BF16})
      list.add("kv_append",
               std::string("limits.signalling.") + mica_dtype_get(type)->name + "." +
                   mica_dtype_get(rows)->name,
               [type, rows](CaseBuilder& b) { build_limits(b, type, rows, true); });
}

}  // namespace mica::conformance
#endif
