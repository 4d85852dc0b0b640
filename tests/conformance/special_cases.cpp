// What ordinary values do not show: operands that are not finite, of every op whose results say so,
// alone and in regions; and tiny ones, normal numbers of F32 all the same, that nobody may flush to
// zero. Attention's stand with its other cases.
#include <cmath>
#include <random>

#include "mica/ops.h"
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

constexpr mica_dtype kFloats[] = {MICA_F32, MICA_F16, MICA_BF16};
constexpr double kNan = NAN, kInfinity = HUGE_VAL;

std::string name_of(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

struct Odd {
  int64_t row, column;
  double value;
};
// Rows of n normal elements, but for some.
Values normal_but(int64_t n, int64_t n_rows, const std::vector<Odd>& odd, double sigma = 1) {
  std::mt19937 rng(static_cast<uint32_t>(n + n_rows));
  std::normal_distribution<double> gauss(0, sigma);
  std::vector<double> values(static_cast<size_t>(n * n_rows));
  for (double& v : values) v = gauss(rng);
  for (const Odd& o : odd) values[static_cast<size_t>(o.row * n + o.column)] = o.value;
  return list(std::move(values));
}

void add_chain(CaseList& list, const char* op, const std::string& name,
               std::function<void(CaseBuilder&)> build) {
  list.add(op, name, std::move(build));
  list.cases.back().chain = true;
}

// --- Not finite: products -----------------------------------------------------------------------

// Rows of x, each with one odd element: where a kernel begins, ends, and goes on.
std::vector<Odd> odd_rows(int64_t m, int64_t k) {
  if (m == 1) return {{0, k - 1, kNan}};
  return {{m / 4, 100, kNan}, {m / 2, k - 1, kInfinity}, {m - 1, 0, -kInfinity}};
}

void add_products(CaseList& list) {
  constexpr int64_t kK = 256;
  const auto add = [&](const std::string& name, mica_dtype d, int64_t n, int64_t m,
                       const std::vector<Odd>& of_w, const std::vector<Odd>& of_x) {
    list.add("matmul", "not_finite." + name, [=](CaseBuilder& b) {
      const mica_tensor w = b.weight("w", d, {kK, n}, normal_but(kK, n, of_w, 0.05));
      b.output(mica_matmul(b.graph(), w, b.input("x", MICA_F32, {kK, m}, normal_but(kK, m, of_x))));
    });
  };
  for (const mica_dtype d : kFloats)
    for (const int64_t m : {1, 5, 130}) {
      if (m > 100 && d == MICA_F32) continue;
      const int64_t n = m > 100 ? 520 : 24;
      const std::string type = name_of(d) + ".m" + std::to_string(m);
      add("x." + type, d, n, m, {}, odd_rows(m, kK));
      if (m == 1) add("x." + type + ".infinity", d, n, m, {}, {{0, 3, -kInfinity}});
      add("w." + type, d, n, m, {{3, kK - 1, kNan}, {7, 0, kInfinity}, {n - 1, 31, -kInfinity}},
          {});
    }
  list.add("matmul", "not_finite.odd_k", [](CaseBuilder& b) {
    const mica_tensor w = b.weight("w", MICA_F32, {37, 6}, normal_but(37, 6, {{2, 36, kNan}}));
    b.output(mica_matmul(b.graph(), w,
                         b.input("x", MICA_F32, {37, 3}, normal_but(37, 3, {{1, 36, kInfinity}}))));
  });
}

// --- Not finite: functions and rows --------------------------------------------------------------

void add_elements(CaseList& list) {
  const std::vector<double> odd = {1, 0, -0.0, kInfinity, -kInfinity, kNan, 2.5, -1.5};
  std::vector<double> each_with_each;
  for (const double v : odd) each_with_each.insert(each_with_each.end(), odd.size(), v);
  const std::pair<const char*, mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor)> glus[] = {
      {"swiglu", mica_swiglu}, {"geglu", mica_geglu}};
  const auto n = static_cast<int64_t>(odd.size());
  for (const auto& [name, op] : glus)
    for (const mica_dtype d : kFloats)
      list.add(
          name, "not_finite." + name_of(d),
          [=, op = op](CaseBuilder& b) {
            const mica_tensor gate = b.input("gate", d, {n, n}, conformance::list(odd));
            b.output(
                op(b.graph(), gate, b.input("up", d, {n, n}, conformance::list(each_with_each))));
          },
          8);  // as in ops/glu.cpp: the activation's error, which the product knows nothing of
  for (const auto pairing : {MICA_ROPE_ADJACENT, MICA_ROPE_HALF_SPLIT})
    for (const mica_dtype d : kFloats)
      list.add("rope",
               (pairing == MICA_ROPE_ADJACENT ? "not_finite.adjacent." : "not_finite.half_split.") +
                   name_of(d),
               [=](CaseBuilder& b) {
                 mica_rope_params p = MICA_ROPE_PARAMS_INIT;
                 p.pairing = pairing;
                 p.n_rot = 48;  // the last of the odd elements stays as it is
                 const Values x = normal_but(
                     64, 15,
                     {{3, 3, kNan}, {6, 40, kInfinity}, {11, 0, -kInfinity}, {13, 63, kNan}});
                 b.output(mica_rope(b.graph(), b.input("x", d, {64, 3, 5}, x),
                                    b.input("at", MICA_I32, {5}, integers(1, 4095)), &p));
               });
}

void add_norms(CaseList& list) {
  const Values x = normal_but(96, 5, {{1, 95, kInfinity}, {3, 0, -kInfinity}, {4, 40, kNan}});
  list.add("rms_norm", "not_finite", [=](CaseBuilder& b) {
    b.output(mica_rms_norm(b.graph(), b.input("x", MICA_F32, {96, 5}, x), MICA_NO_TENSOR, 1e-5f));
  });
  list.add("layer_norm", "not_finite", [=](CaseBuilder& b) {
    b.output(mica_layer_norm(b.graph(), b.input("x", MICA_F32, {96, 5}, x), MICA_NO_TENSOR,
                             MICA_NO_TENSOR, 1e-5f));
  });
}

// --- Not finite: regions ------------------------------------------------------------------------

const std::vector<Odd> kOddRows = {{2, 95, kNan}, {3, 0, kInfinity}};

mica_tensor norm(CaseBuilder& b, mica_tensor x, int64_t n) {
  return mica_rms_norm(b.graph(), x, b.weight("norm", MICA_F32, {n}, uniform(0.5, 1.5)), 1e-5f);
}
mica_tensor linear(CaseBuilder& b, const char* name, mica_dtype d, mica_tensor x, int64_t n,
                   const std::vector<Odd>& odd = {}) {
  return mica_matmul(b.graph(), b.weight(name, d, {96, n}, normal_but(96, n, odd, 0.1)), x);
}

void build_qkv(CaseBuilder& b, mica_dtype d) {
  constexpr int64_t kTokens = 5;
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = 2;
  layer.head_dim_k = layer.head_dim_v = 32;
  layer.dtype_k = layer.dtype_v = d;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 128;
  params.max_step_tokens = kTokens;
  mica_kv_cache* cache = b.cache(params, {{{{0, kTokens}}, {}}});
  const mica_kv kv = mica_graph_kv(b.graph(), cache, 0, b.n_tokens());
  const mica_tensor x =
      b.input("x", MICA_F32, {96, kTokens}, normal_but(96, kTokens, kOddRows), b.n_tokens());
  const mica_tensor h = norm(b, x, 96);
  const auto heads = [&](const char* name, int64_t n_heads) {
    const int64_t dim[] = {32, n_heads, kTokens};
    return mica_reshape(b.graph(), linear(b, name, d, h, 32 * n_heads), 3, dim);
  };
  const mica_tensor q = mica_rope(b.graph(), heads("q", 4), kv.positions, nullptr);
  const mica_tensor k = mica_rope(b.graph(), heads("k", 2), kv.positions, nullptr);
  mica_kv_append(b.graph(), &kv, k, heads("v", 2));
  b.output(mica_copy(b.graph(), q));
  b.far_output(mica_attention(b.graph(), q, &kv, nullptr));
}

void add_regions(CaseList& list) {
  const auto rows = [](CaseBuilder& b) {
    return b.input("x", MICA_F32, {96, 5}, normal_but(96, 5, kOddRows));
  };
  for (const mica_dtype d : kFloats) {
    const std::string name = "not_finite." + name_of(d) + ".m5";
    add_chain(list, "norm_matmul", name, [=](CaseBuilder& b) {
      const mica_tensor h = norm(b, rows(b), 96);
      b.output(linear(b, "w0", d, h, 48));
      b.output(linear(b, "w1", d, h, 33, {{32, 95, kNan}}));
    });
    add_chain(list, "norm_glu", name, [=](CaseBuilder& b) {
      const mica_tensor h = norm(b, rows(b), 96);
      b.output(mica_swiglu(b.graph(), linear(b, "gate", d, h, 48, {{7, 0, kNan}}),
                           linear(b, "up", d, h, 48, {{9, 95, kInfinity}})));
    });
    add_chain(list, "matmul_add", name, [=](CaseBuilder& b) {
      const Values r = normal_but(48, 5, {{0, 7, kNan}, {1, 47, -kInfinity}, {3, 5, kInfinity}});
      b.output(mica_add(b.graph(), b.input("r", MICA_F32, {48, 5}, r),
                        linear(b, "w", d, rows(b), 48, {{5, 3, -kInfinity}})));
    });
    add_chain(list, "norm_qkv", name, [=](CaseBuilder& b) { build_qkv(b, d); });
  }
  for (const bool sum_is_read : {true, false})
    add_chain(list, "add_norm",
              std::string("not_finite.") + (sum_is_read ? "sum_is_read." : "") + "m5",
              [=](CaseBuilder& b) {
                const Values x = normal_but(96, 5, {{1, 95, kNan}, {3, 7, kInfinity}});
                const Values y = normal_but(96, 5, {{2, 0, kInfinity}, {3, 7, -kInfinity}});
                const mica_tensor s = mica_add(b.graph(), b.input("x", MICA_F32, {96, 5}, x),
                                               b.input("y", MICA_F32, {96, 5}, y));
                b.output(norm(b, s, 96));
                if (sum_is_read) b.output(mica_copy(b.graph(), s));
              });
}

// --- Tiny ---------------------------------------------------------------------------------------

void add_tiny_elements(CaseList& list) {
  const std::pair<const char*, mica_tensor (*)(mica_graph*, mica_tensor)> unary[] = {
      {"silu", mica_silu},
      {"gelu", mica_gelu},
      {"gelu_erf", mica_gelu_erf},
      {"relu", mica_relu},
      {"scale", [](mica_graph* g, mica_tensor x) { return mica_scale(g, x, -1.75f, 0); }}};
  const std::pair<const char*, mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor)> binary[] = {
      {"add", mica_add}, {"sub", mica_sub}, {"mul", mica_mul}, {"div", mica_div}};
  for (const mica_dtype d : {MICA_F32, MICA_BF16}) {
    for (const auto& [name, op] : unary)
      list.add(name, "tiny." + name_of(d), [=, op = op](CaseBuilder& b) {
        b.output(op(b.graph(), b.input("x", d, {65, 3}, normal(1e-28))));
      });
    for (const auto& [name, op] : binary) {
      const bool is_sum = op == mica_add || op == mica_sub;
      const Values right = is_sum ? normal(1e-28) : uniform(0.25, 4);
      list.add(name, "tiny." + name_of(d), [=, op = op](CaseBuilder& b) {
        const mica_tensor x = b.input("a", d, {65, 3}, normal(1e-28));
        b.output(op(b.graph(), x, b.input("b", d, {65, 3}, right)));
      });
    }
  }
  list.add("mul", "tiny.both", [](CaseBuilder& b) {
    const mica_tensor x = b.input("a", MICA_F32, {65, 3}, normal(1e-15));
    b.output(mica_mul(b.graph(), x, b.input("b", MICA_F32, {65, 3}, uniform(1e-15, 4e-15))));
  });
  list.add("div", "tiny.both", [](CaseBuilder& b) {
    const mica_tensor x = b.input("a", MICA_F32, {65, 3}, normal(1e-28));
    b.output(mica_div(b.graph(), x, b.input("b", MICA_F32, {65, 3}, uniform(1e-28, 4e-28))));
  });
  list.add(
      "swiglu", "tiny.up",
      [](CaseBuilder& b) {
        const mica_tensor gate = b.input("gate", MICA_F32, {65, 3}, uniform(-3, 8));
        b.output(mica_swiglu(b.graph(), gate, b.input("up", MICA_F32, {65, 3}, normal(1e-28))));
      },
      2);  // as in ops/glu.cpp
  list.add(
      "geglu", "tiny.gate",
      [](CaseBuilder& b) {
        const mica_tensor gate = b.input("gate", MICA_F32, {65, 3}, normal(1e-28));
        b.output(mica_geglu(b.graph(), gate, b.input("up", MICA_F32, {65, 3})));
      },
      2);  // as in ops/glu.cpp, of gates near zero
}

void add_tiny_rows(CaseList& list) {
  for (const double size : {1e-20, 1e-28}) {
    const std::string name = size > 1e-25 ? "tiny.f32" : "tiny.f32.e28";
    list.add("rms_norm", name, [=](CaseBuilder& b) {
      b.output(norm(b, b.input("x", MICA_F32, {96, 3}, normal(size)), 96));
    });
    list.add("layer_norm", name, [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", MICA_F32, {96, 3}, normal(size));
      b.output(mica_layer_norm(b.graph(), x, MICA_NO_TENSOR, MICA_NO_TENSOR, 1e-5f));
    });
  }
  for (const auto pairing : {MICA_ROPE_ADJACENT, MICA_ROPE_HALF_SPLIT})
    list.add("rope", pairing == MICA_ROPE_ADJACENT ? "tiny.adjacent" : "tiny.half_split",
             [=](CaseBuilder& b) {
               mica_rope_params p = MICA_ROPE_PARAMS_INIT;
               p.pairing = pairing;
               b.output(mica_rope(b.graph(), b.input("x", MICA_F32, {64, 3, 5}, normal(1e-28)),
                                  b.input("at", MICA_I32, {5}, integers(0, 4095)), &p));
             });
  const auto product = [&](const std::string& name, mica_dtype d, int64_t n, int64_t m, double of_w,
                           double of_x) {
    list.add("matmul", "tiny." + name, [=](CaseBuilder& b) {
      const mica_tensor w = b.weight("w", d, {256, n}, normal(of_w));
      b.output(mica_matmul(b.graph(), w, b.input("x", MICA_F32, {256, m}, normal(of_x))));
    });
  };
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q8_0, MICA_Q4_K})
    product("x." + name_of(d), d, 24, 1, 0.05, 1e-28);
  for (const mica_dtype d : {MICA_F32, MICA_BF16}) {
    product("w." + name_of(d), d, 24, 5, 1e-28, 1);
    product("w." + name_of(d) + ".m1", d, 24, 1, 1e-28, 1);
  }
  product("w.bf16.m130", MICA_BF16, 520, 130, 1e-28, 1);
  add_chain(list, "matmul_add", "tiny.f32", [](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, {96, 5}, normal(1e-28));
    b.output(mica_add(b.graph(), b.input("r", MICA_F32, {48, 5}, normal(1e-28)),
                      linear(b, "w", MICA_F32, x, 48)));
  });
  add_chain(list, "add_norm", "tiny", [](CaseBuilder& b) {
    const mica_tensor x = b.input("x", MICA_F32, {96, 5}, normal(1e-28));
    b.output(norm(b, mica_add(b.graph(), x, b.input("y", MICA_F32, {96, 5}, normal(1e-28))), 96));
  });
}

// --- Weights where others were ------------------------------------------------------------------

// A second model of the same sizes: a device that keeps weights in a form of its own, and knows
// them by their address, would compute with those of the first.
void add_other_weights(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_Q8_0, MICA_Q4_K})
    for (const int64_t m : {1, 130}) {
      if (m > 1 && d != MICA_F16 && d != MICA_Q8_0) continue;
      list.add("matmul", "other_weights." + name_of(d) + ".m" + std::to_string(m),
               [=](CaseBuilder& b) {
                 const mica_tensor w = b.weight("w", d, {256, 520}, normal(0.05));
                 b.output(mica_matmul(b.graph(), w, b.input("x", MICA_F32, {256, m})));
               });
      list.cases.back().other_weights_before = true;
    }
}

}  // namespace

void cases_special(CaseList& list) {
  add_products(list);
  add_elements(list);
  add_norms(list);
  add_regions(list);
  add_tiny_elements(list);
  add_tiny_rows(list);
  add_other_weights(list);
}

}  // namespace mica::conformance
