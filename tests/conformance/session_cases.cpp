// Sessions as cases: two plans that share inputs, weights and arena, and leaves of every odd name.
// Op "graph"; plans over one cache stand in whole_graphs.cpp.
#include "mica/ops.h"
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

void add(CaseList& list, const std::string& name, std::function<void(CaseBuilder&)> build) {
  list.add("graph", name, std::move(build));
}

// --- Two plans ----------------------------------------------------------------------------------

// Of an input that both plans read, the second has fewer rows; extents of one name have other
// values and maxima; outputs have the same names.
void two_plans(CaseBuilder& b, mica_dtype weights, Compiled when) {
  const auto linear = [&](mica_tensor x) {
    return mica_matmul(b.graph(), b.weight("w", weights, {64, 48}, normal(0.12)), x);
  };
  mica_tensor x = b.input("x", MICA_F32, {64, 12}, normal(), b.extent("n", 12, 7));
  const mica_tensor y = linear(x);
  b.output(mica_silu(b.graph(), y));
  b.output(mica_softmax(b.graph(), y, MICA_NO_TENSOR, 0.5f));
  b.next_graph(when);
  x = b.input("x", MICA_F32, {64, 5}, normal(), b.extent("n", 5, 4));
  const mica_tensor alone = b.input("alone", MICA_F32, {64}, uniform(0.5, 1.5));
  b.output(linear(mica_rms_norm(b.graph(), x, alone, 1e-5f)));
  b.next_graph(when);
  // The step writes an input that the others do not know, and reads one of theirs without an
  // extent.
  const mica_tensor rows = b.input("rows", MICA_F16, {64, 9});
  mica_set_rows(b.graph(), rows, b.input("x", MICA_F32, {64, 3}),
                b.input("ids", MICA_I32, {3}, conformance::list({8, 0, 5})));
  b.written("rows");
}

// --- Names --------------------------------------------------------------------------------------

// Names that the core and a backend might take for their own, for a format, or for too long.
std::vector<std::string> odd_names() {
  std::vector<std::string> names = {"kv.table",
                                    "kv.table.0",
                                    "kv.positions",
                                    "kv.slots.0",
                                    "kv",
                                    "n_tokens",
                                    " ",
                                    "\n",
                                    "%s",
                                    "%n%100000d",
                                    "out0",
                                    "w",
                                    "weight.0",
                                    "blk.3",
                                    "a/b\\c\"d'e",
                                    "{}",
                                    "\xc3\xa4\xe2\x82\xac\xf0\x9f\x8c\x8b",
                                    "\xff\xfe",
                                    "0",
                                    "-1",
                                    "NULL",
                                    "K 0",
                                    "arena",
                                    "a;b,c:d|e",
                                    "\t"};
  names.push_back(std::string(5000, 'x'));
  names.push_back(std::string(5000, 'x') + "y");
  return names;
}

// Each name in turn is an input's, a weight's, an extent's and a scope's; all of them in one graph
// with a cache, whose tables have no name that a caller could take.
void odd(CaseBuilder& b, mica_dtype weights) {
  constexpr int64_t kTokens = 5, kEmbd = 32;
  mica_graph* g = b.graph();
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = 2;
  layer.head_dim_k = layer.head_dim_v = 16;
  layer.dtype_k = layer.dtype_v = MICA_F16;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 128;
  params.max_step_tokens = kTokens;
  params.max_seqs = 2;
  mica_kv_cache* cache = b.cache(params, {{{{0, 4}}, {}}, {{{0, 1}, {1, 2}}, {}}});
  const mica_tensor first = b.input("x", MICA_F32, {kEmbd, kTokens}, normal(), b.n_tokens());
  mica_tensor x = first;
  for (const std::string& name : odd_names()) {
    const char* const c = name.c_str();
    mica_graph_scope(g, c);
    const mica_tensor bias = b.input(c, MICA_F32, {kEmbd}, normal());
    const mica_tensor w = b.weight(c, weights, {kEmbd, kEmbd}, normal(0.2));
    x = mica_add(g, x, mica_mul(g, mica_matmul(g, w, first), bias));
    if (name == "n_tokens") continue;
    const mica_tensor rows =
        b.input((name + "'s rows").c_str(), MICA_F32, {kEmbd, 4}, normal(), b.extent(c, 4, 3));
    b.output(mica_add(g, rows, bias));
  }
  const mica_kv kv = mica_graph_kv(g, cache, 0, b.n_tokens());
  const int64_t heads[] = {16, 2, kTokens};
  x = mica_reshape(g, x, 3, heads);
  mica_kv_append(g, &kv, x, x);
  b.output(mica_attention(g, x, &kv, nullptr));
}

}  // namespace

void cases_sessions(CaseList& list) {
  for (const Compiled when : {Compiled::kAtOnce, Compiled::kLater})
    for (const mica_dtype d : {MICA_F32, MICA_Q8_0})
      add(list,
          std::string("three_plans.") + (when == Compiled::kLater ? "later." : "") +
              mica_dtype_get(d)->name,
          [=](CaseBuilder& b) { two_plans(b, d, when); });
  for (const mica_dtype d : {MICA_F32, MICA_Q8_0})
    add(list, std::string("odd_names.") + mica_dtype_get(d)->name,
        [=](CaseBuilder& b) { odd(b, d); });
}

}  // namespace mica::conformance
