// A weight as every operand that may be one, and caches where a kernel does not expect them. A
// device that keeps weights or pages in a layout of its own may refuse such an operand, with a
// sentence; what it computes must be right.
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

using Dims = std::vector<int64_t>;
using Unary = mica_tensor (*)(mica_graph*, mica_tensor);
using Binary = mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor);

std::string name_of(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add(CaseList& list, const char* op, const std::string& name,
         std::function<void(CaseBuilder&)> build, bool chain = false) {
  list.add(op, "weight_as." + name, std::move(build));
  list.cases.back().may_refuse = true;
  list.cases.back().chain = chain;
}

const mica_dtype kFloats[] = {MICA_F32, MICA_F16, MICA_BF16};
const Dims kMatrix = {64, 6};

void add_elementwise(CaseList& list) {
  const struct {
    const char* name;
    Unary build;
  } unary[] = {{"silu", mica_silu}, {"gelu", mica_gelu}, {"gelu_erf", mica_gelu_erf},
               {"tanh", mica_tanh}, {"relu", mica_relu}, {"sigmoid", mica_sigmoid}};
  const struct {
    const char* name;
    Binary build;
  } binary[] = {{"add", mica_add}, {"sub", mica_sub},       {"mul", mica_mul},
                {"div", mica_div}, {"swiglu", mica_swiglu}, {"geglu", mica_geglu}};
  for (const mica_dtype d : kFloats) {
    for (const auto& op : unary)
      add(list, op.name, "x." + name_of(d),
          [=](CaseBuilder& b) { b.output(op.build(b.graph(), b.weight("x", d, kMatrix))); });
    add(list, "scale", "x." + name_of(d), [=](CaseBuilder& b) {
      b.output(mica_scale(b.graph(), b.weight("x", d, kMatrix), 0.5f, 1));
    });
    for (const auto& op : binary)
      for (const bool first : {true, false}) {
        add(list, op.name, std::string(first ? "a." : "b.") + name_of(d), [=](CaseBuilder& b) {
          const mica_tensor w = b.weight("w", d, kMatrix, uniform(0.5, 2));
          const mica_tensor x = b.input("x", d, kMatrix);
          b.output(first ? op.build(b.graph(), w, x) : op.build(b.graph(), x, w));
        });
        // A bound is that of the product alone; the activation before it has an error too
        // (ops/glu.cpp).
        if (op.build == mica_swiglu || op.build == mica_geglu) list.cases.back().slack = 8;
      }
    add(list, "add", "b_of_one_row." + name_of(d), [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", MICA_F32, kMatrix);
      b.output(mica_add(b.graph(), x, b.weight("w", d, {64, 1})));
    });
  }
}

void add_rows(CaseList& list) {
  for (const mica_dtype d : kFloats) {
    const std::string type = name_of(d);
    add(list, "rms_norm", "x." + type, [=](CaseBuilder& b) {
      b.output(mica_rms_norm(b.graph(), b.weight("x", d, kMatrix), b.weight("w", MICA_F32, {64}),
                             1e-5f));
    });
    add(list, "rms_norm", "weight_of_rank_2." + type, [=](CaseBuilder& b) {
      b.output(mica_rms_norm(b.graph(), b.input("x", MICA_F32, kMatrix), b.weight("w", d, {64, 1}),
                             1e-5f));
    });
    add(list, "layer_norm", "x." + type, [=](CaseBuilder& b) {
      b.output(mica_layer_norm(b.graph(), b.weight("x", d, kMatrix), b.weight("w", MICA_F32, {64}),
                               b.weight("b", MICA_F32, {64}), 1e-5f));
    });
    add(list, "layer_norm", "weight_and_bias_of_rank_2." + type, [=](CaseBuilder& b) {
      b.output(mica_layer_norm(b.graph(), b.input("x", MICA_F32, kMatrix),
                               b.weight("w", d, {64, 1}), b.weight("b", d, {64, 1}), 1e-5f));
    });
    add(list, "softmax", "x." + type, [=](CaseBuilder& b) {
      b.output(mica_softmax(b.graph(), b.weight("x", d, kMatrix), MICA_NO_TENSOR, 1));
    });
    add(list, "softmax", "mask." + type, [=](CaseBuilder& b) {
      b.output(mica_softmax(b.graph(), b.input("x", MICA_F32, kMatrix), b.weight("m", d, kMatrix),
                            0.5f));
    });
  }
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_Q8_0, MICA_Q4_K})
    for (const bool first : {true, false})
      add(list, "concat", std::string(first ? "a." : "b.") + name_of(d), [=](CaseBuilder& b) {
        const mica_tensor w = b.weight("w", d, {256, 5}), x = b.input("x", d, {256, 3});
        b.output(first ? mica_concat(b.graph(), w, x, 1) : mica_concat(b.graph(), x, w, 1));
      });
  add(list, "argmax", "x", [](CaseBuilder& b) {
    b.output(mica_argmax(b.graph(), b.weight("x", MICA_F32, {100, 7})));
  });
  add(list, "top_k", "x", [](CaseBuilder& b) {
    b.output(mica_top_k(b.graph(), b.weight("x", MICA_F32, {100, 7}), 5));
  });
  add(list, "sample", "logits", [](CaseBuilder& b) {
    const mica_tensor params =
        b.input("params", MICA_F32, {4, 3}, mica::conformance::list({0, 5, 1, 0}));
    const mica_tensor keys = b.input("keys", MICA_I32, {4, 3}, integers(0, 1000));
    b.output(mica_sample(b.graph(), b.weight("x", MICA_F32, {100, 3}), params, keys));
  });
  add(list, "sample", "params_and_keys", [](CaseBuilder& b) {
    const mica_tensor params =
        b.weight("params", MICA_F32, {4, 3}, mica::conformance::list({0, 5, 1, 0}));
    const mica_tensor keys = b.weight("keys", MICA_I32, {4, 3}, integers(0, 1000));
    b.output(mica_sample(b.graph(), b.input("x", MICA_F32, {100, 3}), params, keys));
  });
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_BF16, MICA_I32})
    add(list, "get_rows", "table_and_ids." + name_of(d), [=](CaseBuilder& b) {
      b.output(mica_get_rows(b.graph(), b.weight("t", d, {64, 40}, integers(-9, 9)),
                             b.weight("ids", MICA_I32, {5}, integers(0, 39))));
    });
  for (const mica_dtype d : kFloats)
    add(list, "set_rows", "src_and_ids." + name_of(d), [=](CaseBuilder& b) {
      const mica_tensor dst = b.input("dst", MICA_F32, {64, 12});
      mica_set_rows(b.graph(), dst, b.weight("src", d, {64, 3}),
                    b.weight("ids", MICA_I32, {3}, iota(2, 3)));
      b.written("dst");
    });
  for (const mica_dtype d : kFloats)
    add(list, "rope", "x." + name_of(d), [=](CaseBuilder& b) {
      const mica_tensor p = b.weight("p", MICA_I32, {5}, iota(3, 7));
      b.output(mica_rope(b.graph(), b.weight("x", d, {32, 2, 5}), p, nullptr));
    });
}

void add_matmuls(CaseList& list) {
  for (const mica_dtype d : kFloats)
    for (const mica_dtype w : {MICA_F32, MICA_F16, MICA_Q8_0, MICA_Q4_K})
      for (const int64_t m : {1, 6, 40})
        add(list, "matmul", "x." + name_of(d) + "." + name_of(w) + ".m" + std::to_string(m),
            [=](CaseBuilder& b) {
              b.output(mica_matmul(b.graph(), b.weight("w", w, {256, 33}, normal(0.05)),
                                   b.weight("x", d, {256, m})));
            });
  add(list, "matmul", "both_of_four_dimensions", [](CaseBuilder& b) {
    b.output(mica_matmul(b.graph(), b.weight("w", MICA_F32, {64, 7, 2, 1}),
                         b.weight("x", MICA_F32, {64, 3, 4, 2})));
  });
  for (const mica_dtype w : {MICA_F32, MICA_F16, MICA_Q8_0})
    for (const int64_t m : {1, 6}) {
      const std::string name = name_of(w) + ".m" + std::to_string(m);
      const auto product = [=](CaseBuilder& b, mica_tensor x) {
        return mica_matmul(b.graph(), b.weight("w", w, {64, 48}, normal(0.05)), x);
      };
      const auto sum = [&](const char* what, int64_t rows, bool first) {
        add(
            list, "matmul_add", what + name,
            [=](CaseBuilder& b) {
              const mica_tensor y = product(b, b.input("x", MICA_F32, {64, m}));
              const mica_tensor r = b.weight("r", MICA_F32, {48, rows}, normal(20));
              b.output(first ? mica_add(b.graph(), r, y) : mica_add(b.graph(), y, r));
            },
            true);
      };
      sum("residual.", m, false);
      sum("residual_first.", m, true);
      sum("bias_of_rank_2.", 1, false);
      add(
          list, "matmul_add", "x." + name,
          [=](CaseBuilder& b) {
            const mica_tensor y = product(b, b.weight("x", MICA_F32, {64, m}));
            b.output(mica_add(b.graph(), y, b.input("r", MICA_F32, {48, m})));
          },
          true);
      const auto normed = [](CaseBuilder& b, int64_t n) {
        return mica_rms_norm(b.graph(), b.weight("x", MICA_F32, {64, n}),
                             b.weight("norm", MICA_F32, {64}, uniform(0.5, 1.5)), 1e-5f);
      };
      add(
          list, "norm_matmul", "x." + name,
          [=](CaseBuilder& b) { b.output(product(b, normed(b, m))); }, true);
      add(
          list, "norm_matmul", "norm_of_rank_2." + name,
          [=](CaseBuilder& b) {
            const mica_tensor h = mica_rms_norm(b.graph(), b.input("x", MICA_F32, {64, m}),
                                                b.weight("norm", MICA_F32, {64, 1}), 1e-5f);
            b.output(product(b, h));
          },
          true);
      add(
          list, "norm_glu", "x." + name,
          [=](CaseBuilder& b) {
            const mica_tensor h = normed(b, m);
            const mica_tensor up = b.weight("up", w, {64, 48}, normal(0.05));
            b.output(mica_swiglu(b.graph(), product(b, h), mica_matmul(b.graph(), up, h)));
          },
          true);
    }
  add(
      list, "add_norm", "b",
      [](CaseBuilder& b) {
        const mica_tensor s =
            mica_add(b.graph(), b.input("x", MICA_F32, kMatrix), b.weight("r", MICA_F32, kMatrix));
        b.output(mica_rms_norm(b.graph(), s, b.weight("norm", MICA_F32, {64}), 1e-5f));
      },
      true);
}

// One layer, a prompt and two tokens.
enum class Odd { kMask, kSwapped, kSplitCache, kBias, kNoCache };

void build_cached(CaseBuilder& b, Odd odd, mica_dtype cache_type) {
  constexpr int64_t kTokens = 24, kEmbd = 64;
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = 2;
  layer.head_dim_k = layer.head_dim_v = 32;
  layer.dtype_k = layer.dtype_v = cache_type;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 256;
  params.max_seqs = 1;
  params.max_step_tokens = kTokens;
  mica_kv_cache* cache = b.cache(params, {{{{0, 5}}, {}}, {{{0, 1}}, {}}, {{{0, 1}}, {}}});
  mica_graph* g = b.graph();
  mica_kv kv = mica_graph_kv(g, cache, 0, b.n_tokens());
  const mica_tensor x = b.input("x", MICA_F32, {kEmbd, kTokens}, normal(), b.n_tokens());
  const mica_tensor h = mica_rms_norm(g, x, b.weight("norm", MICA_F32, {kEmbd}), 1e-5f);
  const auto project = [&](const char* name, int64_t n_heads) {
    const int64_t n = n_heads * 32, heads[] = {32, n_heads, kTokens};
    mica_tensor y = mica_matmul(g, b.weight(name, MICA_F32, {kEmbd, n}, normal(0.06)), h);
    if (odd == Odd::kBias)
      y = mica_add(g, y, b.weight((std::string(name) + ".bias").c_str(), MICA_F32, {n, 1}));
    return mica_reshape(g, y, 3, heads);
  };
  const mica_tensor q = mica_rope(g, project("q", 4), kv.positions, nullptr);
  const mica_tensor k = mica_rope(g, project("k", 2), kv.positions, nullptr);
  const mica_tensor v = project("v", 2);
  mica_attention_params p = MICA_ATTENTION_PARAMS_INIT;
  if (odd == Odd::kMask) p.mask = b.weight("mask", MICA_F32, {64, kTokens}, normal(2));
  if (odd == Odd::kSwapped) std::swap(kv.k, kv.v);
  mica_kv_append(g, &kv, k, v);
  if (odd == Odd::kSplitCache) {
    const int64_t dim[] = {16, 4, 256};
    kv.k = mica_reshape(g, kv.k, 3, dim);
    kv.v = mica_reshape(g, kv.v, 3, dim);
    const int64_t heads[] = {16, 8, kTokens};
    b.far_output(mica_attention(g, mica_reshape(g, q, 3, heads), &kv, &p));
    return;
  }
  if (odd == Odd::kNoCache) {
    kv.k = b.input("k_rows", MICA_F32, {32, 2, 256});
    kv.v = b.input("v_rows", MICA_F32, {32, 2, 256});
  }
  b.far_output(mica_attention(g, q, &kv, &p));
}

void add_cached(CaseList& list) {
  const struct {
    const char* name;
    Odd odd;
  } odds[] = {{"mask", Odd::kMask},
              {"bias_of_rank_2", Odd::kBias},
              {"k_and_v_swapped", Odd::kSwapped},
              {"cache_in_other_heads", Odd::kSplitCache},
              {"k_and_v_of_no_cache", Odd::kNoCache}};
  for (const auto& o : odds)
    for (const mica_dtype d : {MICA_F32, MICA_F16})
      add(
          list, o.odd == Odd::kBias ? "norm_qkv" : "attention", o.name + ("." + name_of(d)),
          [=](CaseBuilder& b) { build_cached(b, o.odd, d); }, true);
}

}  // namespace

void cases_operands(CaseList& list) {
  add_elementwise(list);
  add_rows(list);
  add_matmuls(list);
  add_cached(list);
}

}  // namespace mica::conformance
