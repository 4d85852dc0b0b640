// matmul: rows of x times rows of w.
#include "ops/matmul/matmul.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

// Rows of x read and rounded once for each pass over the rows of w.
constexpr int64_t kRowsAtOnce = 32;
// Sums that are made side by side, each in its own order: one alone waits for its last addition.
constexpr int64_t kSumsAtOnce = 4;

mica_status infer(const InferCall& call) {
  const Desc& w = call.in[0];
  const Desc& x = call.in[1];
  Error& error = call.error;
  if (!is_float(w.dtype) && !is_quantized(w.dtype)) {
    return error.fail(MICA_INVALID_ARGUMENT, "w is ", dtype_name(w.dtype),
                      ", not a float or quantized type");
  }
  MICA_TRY(need_float(call, "x", x));
  if (w.dim[0] != x.dim[0]) {
    return error.fail(MICA_INVALID_ARGUMENT, "w ", shape_text(w).text, " has rows of ", w.dim[0],
                      " elements, x ", shape_text(x).text, " of ", x.dim[0]);
  }
  for (uint32_t i = 2; i < 4; ++i) {
    if (x.dim[i] % w.dim[i] == 0) continue;
    return error.fail(MICA_INVALID_ARGUMENT, "dim[", i, "] of x is ", x.dim[i],
                      ", not a multiple of w's ", w.dim[i]);
  }
  if (w.extent != kNoExtent) {
    return error.fail(MICA_INVALID_ARGUMENT, "w ", shape_text(w).text,
                      " has an extent, only x may have one");
  }
  MICA_TRY(need_fixed_rows(call, "x", x));
  MICA_TRY(need_contiguous_rows(call, "w", w));
  MICA_TRY(need_contiguous_rows(call, "x", x));
  const int64_t dim[4] = {w.dim[1], x.dim[1], x.dim[2], x.dim[3]};
  return pack_output(call, MICA_F32, x.rank, dim, x.extent);
}

// Of a row of w with each of kSumsAtOnce rows of x: the sum of the products, and of their sizes.
void dot_rows(const double* w, const double* x, int64_t k, double* sum, double* magnitude) {
  for (int64_t j = 0; j < kSumsAtOnce; ++j) sum[j] = magnitude[j] = 0;
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < kSumsAtOnce; ++j) {
      const double term = w[i] * x[j * k + i];
      sum[j] += term;
      magnitude[j] += __builtin_fabs(term);
    }
}

// One slice (i2, i3) of the result.
void multiply_slice(const RefCall& call, int64_t i2, int64_t i3, double* x_rows, double* w_row) {
  const HostTensor& w = call.in[0];
  const HostTensor& x = call.in[1];
  const int64_t k = w.dim[0];
  const int64_t w2 = i2 / (x.most(2) / w.dim[2]);
  const int64_t w3 = i3 / (x.most(3) / w.dim[3]);
  for (int64_t first = 0; first < x.dim[1]; first += kRowsAtOnce) {
    const int64_t end = first + kRowsAtOnce < x.dim[1] ? first + kRowsAtOnce : x.dim[1];
    for (int64_t m = first; m < end; ++m) {
      x.read_row(x_rows + (m - first) * k, m, i2, i3);
      round_activations(call, x_rows + (m - first) * k, k);
    }
    for (int64_t n = 0; n < w.dim[1]; ++n) {
      w.read_row(w_row, n, w2, w3);
      round_weights(call.numerics, w.dtype, w_row, k);
      for (int64_t m = first; m < end; m += kSumsAtOnce) {
        double sum[kSumsAtOnce], magnitude[kSumsAtOnce];
        dot_rows(w_row, x_rows + (m - first) * k, k, sum, magnitude);
        for (int64_t j = 0; j < kSumsAtOnce && m + j < end; ++j) {
          call.out.set(sum[j], n, m + j, i2, i3);
          if (call.magnitude == nullptr) continue;
          const int64_t i_row = (i3 * x.dim[2] + i2) * x.dim[1] + m + j;
          call.magnitude[i_row * w.dim[1] + n] = magnitude[j];
        }
      }
    }
  }
}

mica_status reference(const RefCall& call) {
  const HostTensor& w = call.in[0];
  const HostTensor& x = call.in[1];
  const auto k = static_cast<size_t>(w.dim[0]);
  Vec<double> x_rows(*call.allocator);
  Vec<double> w_row(*call.allocator);
  if (!x_rows.resize(k * kRowsAtOnce) || !w_row.resize(k)) return MICA_OUT_OF_MEMORY;
  for (int64_t i3 = 0; i3 < x.dim[3]; ++i3) {
    for (int64_t i2 = 0; i2 < x.dim[2]; ++i2) {
      multiply_slice(call, i2, i3, x_rows.data(), w_row.data());
    }
  }
  set_terms(call, static_cast<double>(w.dim[0]));
  return MICA_OK;
}

}  // namespace

const OpDef op_matmul = {MICA_OP_matmul, "matmul", 2,     2,       0,
                         kOpPlain,       -1,       infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_matmul(mica_graph* graph, mica_tensor w, mica_tensor x) {
  const mica_tensor in[] = {w, x};
  return mica::append(graph, mica::op_matmul, in, 2, nullptr, 0);
}

#else
#include <random>

#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

struct Shape {
  std::vector<int64_t> w;
  std::vector<int64_t> x;
  int64_t live = 0;  // of x's last dimension; 0: no extent
};

const mica_dtype kWeights[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0,
                               MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add(CaseList& list, const std::string& name, mica_dtype w_type, mica_dtype x_type,
         const Shape& shape, const Values& values = normal()) {
  list.add("matmul", name, [=](CaseBuilder& b) {
    mica_extent extent = MICA_NO_EXTENT;
    if (shape.live > 0) extent = b.extent("n_tokens", shape.x.back(), shape.live);
    const mica_tensor w = b.weight("w", w_type, shape.w, normal(0.05));
    const mica_tensor x = b.input("x", x_type, shape.x, values, extent);
    b.output(mica_matmul(b.graph(), w, x));
  });
}

// Every weight dtype, few and many tokens, rows that do not fill a kernel's tile.
void add_weights(CaseList& list) {
  for (const mica_dtype type : kWeights) {
    const std::string name = type_name(type);
    const int64_t block = mica_dtype_get(type)->block_elems;
    for (const int64_t k : {int64_t{256}, block == 256 ? int64_t{512} : int64_t{576}}) {
      for (const int64_t n : {16, 33, 48}) {
        for (const int64_t m : {1, 2, 7, 33}) {
          add(list,
              name + ".k" + std::to_string(k) + ".n" + std::to_string(n) + ".m" + std::to_string(m),
              type, MICA_F32, {{k, n}, {k, m}});
        }
      }
    }
    add(list, name + ".vector", type, MICA_F32, {{256, 40}, {256}});
    add(list, name + ".live5of32", type, MICA_F32, {{512, 48}, {512, 32}, 5});
    add(list, name + ".live1of8", type, MICA_F32, {{256, 20}, {256, 8}, 1});
    add(list, name + ".f16", type, MICA_F16, {{512, 33}, {512, 7}});
    add(list, name + ".bf16", type, MICA_BF16, {{512, 33}, {512, 1}});
    add(list, name + ".broadcast2", type, MICA_F32, {{256, 17, 2}, {256, 3, 6}});
    add(list, name + ".broadcast23", type, MICA_F32, {{256, 5, 1, 2}, {256, 2, 3, 4}});
  }
}

// Sizes of real layers: many tiles, several passes over tokens and over K.
void add_tiles(CaseList& list) {
  for (const mica_dtype type : {MICA_Q4_0, MICA_Q4_1, MICA_Q8_0, MICA_Q4_K, MICA_Q6_K, MICA_F16}) {
    const std::string name = type_name(type);
    add(list, name + ".k2048.n80.m1", type, MICA_F32, {{2048, 80}, {2048, 1}});
    add(list, name + ".k1024.n144.m70", type, MICA_F32, {{1024, 144}, {1024, 70}});
    add(list, name + ".live65of160", type, MICA_F32, {{256, 64}, {256, 160}, 65});
  }
  // What a library of matrix products is worth calling for.
  for (const mica_dtype type :
       {MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q8_0, MICA_Q4_K, MICA_Q6_K}) {
    const std::string name = type_name(type);
    add(list, name + ".live130of160", type, MICA_F32, {{256, 520}, {256, 160}, 130});
    add(list, name + ".live260of320", type, MICA_F32, {{256, 264}, {256, 320}, 260});
  }
  add(list, "q8_0.k544.n512.m128", MICA_Q8_0, MICA_F32, {{544, 512}, {544, 128}});
  add(list, "q8_0.k544.n300.m384", MICA_Q8_0, MICA_F32, {{544, 300}, {544, 384}});
  add(list, "q4_k.k512.n516.m289", MICA_Q4_K, MICA_F32, {{512, 516}, {512, 289}});
  add(list, "q8_0.k288.n516.live1of300", MICA_Q8_0, MICA_F16, {{288, 516}, {288, 300}, 1});
  // K of one element, an odd K, one row of w: plain types only.
  add(list, "f32.k1.n1.m1", MICA_F32, MICA_F32, {{1, 1}, {1, 1}});
  add(list, "f32.k37.n3.m5", MICA_F32, MICA_F32, {{37, 3}, {37, 5}});
  add(list, "f16.k37.n3.m5", MICA_F16, MICA_F32, {{37, 3}, {37, 5}});
  add(list, "bf16.k37.n19.m2", MICA_BF16, MICA_BF16, {{37, 19}, {37, 2}});
  add(list, "q4_0.k32.n1.m16", MICA_Q4_0, MICA_F32, {{32, 1}, {32, 16}});
  add(list, "q8_0.k96.n7.m9", MICA_Q8_0, MICA_F32, {{96, 7}, {96, 9}});
}

// Rows below the least scale of int8, which gives zeros for them (ops/matmul/q8.h), beside a normal
// one; and rows whose products with quants are beyond F32, though their sums are not.
void add_extremes(CaseList& list) {
  std::mt19937 rng(1);
  std::normal_distribution<double> gauss;
  std::vector<double> tiny(256 * 3), one_tiny(256 * 3);
  for (size_t i = 0; i < 256; ++i) tiny[i] = one_tiny[i] = gauss(rng);
  // Below 2^-120, where int8 gives zeros, and above what products of them may flush to zero.
  for (size_t i = 256; i < tiny.size(); ++i) tiny[i] = std::copysign(2e-37, gauss(rng));
  one_tiny[256 + 5] = 3e-38;
  one_tiny[512 + 200] = -1e-39;
  for (const mica_dtype type :
       {MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K}) {
    const std::string name = type_name(type);
    const auto with = [&](const char* what, int64_t m, const Values& x, const Values& w) {
      list.add("matmul", name + what + std::to_string(m), [=](CaseBuilder& b) {
        const mica_tensor weight = b.weight("w", type, {256, 24}, w);
        b.output(mica_matmul(b.graph(), weight, b.input("x", MICA_F32, {256, m}, x)));
      });
    };
    with(".tiny.m", 3, mica::conformance::list(tiny), normal(0.2, 0.5));
    with(".one_tiny.m", 3, mica::conformance::list(one_tiny), normal(0.2, 0.5));
    for (const int64_t m : {1, 3}) with(".e36.m", m, normal(1e36), normal(0.1));
  }
}

// Activations that make rounding hard.
void add_values(CaseList& list) {
  std::vector<double> outlier(31, 0.01);
  outlier.push_back(900);
  outlier[3] = -0.02;
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_Q4_0, MICA_Q8_0, MICA_Q4_K, MICA_Q6_K}) {
    const std::string name = type_name(type);
    const Shape shape = {{256, 24}, {256, 3}};
    add(list, name + ".zeros", type, MICA_F32, shape, mica::conformance::list({0}));
    add(list, name + ".outliers", type, MICA_F32, shape, mica::conformance::list(outlier));
    add(list, name + ".small", type, MICA_F32, shape, normal(1e-6));
    add(list, name + ".large", type, MICA_F32, shape, normal(3000));
    add(list, name + ".huge", type, MICA_F32, shape, normal(1e6));  // beyond F16
    add(list, name + ".offset", type, MICA_F32, shape, normal(1, 20));
  }
  add_extremes(list);
}

// The first operand computed in the graph: any strides, and shared between slices.
void add_computed(CaseList& list) {
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16}) {
    const std::string name = "computed." + type_name(type);
    list.add("matmul", name, [=](CaseBuilder& b) {
      const mica_tensor w = b.input("w", type, {64, 20, 2}, normal(0.1));
      const mica_tensor x = b.input("x", MICA_F32, {64, 9, 4});
      b.output(mica_matmul(b.graph(), mica_scale(b.graph(), w, 0.5f, 0), x));
    });
    list.add("matmul", name + ".permuted", [=](CaseBuilder& b) {
      const mica_tensor w = b.input("w", type, {64, 2, 20}, normal(0.1));
      const mica_tensor x = b.input("x", type, {64, 4, 9});
      b.output(mica_matmul(b.graph(), mica_permute(b.graph(), w, 0, 2, 1, 3),
                           mica_permute(b.graph(), x, 0, 2, 1, 3)));
    });
    list.add("matmul", name + ".slice", [=](CaseBuilder& b) {
      const int64_t w_dim[] = {48, 11}, w_start[] = {16, 3, 0, 0};
      const int64_t x_dim[] = {48, 6}, x_start[] = {0, 2, 0, 0};
      const mica_tensor w = b.input("w", type, {80, 20}, normal(0.1));
      const mica_tensor x = b.input("x", type, {64, 8});
      b.output(mica_matmul(b.graph(), mica_view(b.graph(), w, 2, w_dim, w_start),
                           mica_view(b.graph(), x, 2, x_dim, x_start)));
    });
  }
  list.add("matmul", "computed.f32.live3of8", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 8, 3);
    const mica_tensor w = b.input("w", MICA_F32, {40, 7});
    const mica_tensor x = b.input("x", MICA_F32, {40, 2, 8}, normal(), extent);
    b.output(mica_matmul(b.graph(), w, x));
  });
}

// Slices of x that live on meet the same slices of w however few they are: 0, 1, all but one, all.
void add_live_slices(CaseList& list) {
  const std::vector<int64_t> w_dims[] = {{64, 20, 4},    {64, 20, 2},    {64, 20, 1},
                                         {64, 20, 2, 4}, {64, 20, 2, 2}, {64, 20, 1, 2},
                                         {64, 17, 3}};
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_Q8_0, MICA_Q4_0})
    for (size_t i = 0; i < sizeof w_dims / sizeof w_dims[0]; ++i)
      for (const int64_t m : {1, 3})
        for (const int64_t live : {0, 1, 3, 4}) {
          const std::vector<int64_t> w_dim = w_dims[i];
          const int64_t last = i == 6 ? 6 : 4;
          std::vector<int64_t> x_dim = {64, m, last};
          if (w_dim.size() == 4) x_dim = {64, m, 2, last};
          const std::string name = type_name(type) + ".slices" + std::to_string(i) + ".m" +
                                   std::to_string(m) + ".live" + std::to_string(live);
          for (const bool computed : {false, true}) {
            if (computed && type != MICA_F32) continue;
            list.add("matmul", name + (computed ? ".computed" : ""), [=](CaseBuilder& b) {
              const mica_extent e = b.extent("n", last, live);
              mica_tensor w = computed ? b.input("w", type, w_dim, normal(0.1))
                                       : b.weight("w", type, w_dim, normal(0.1));
              if (computed) w = mica_scale(b.graph(), w, 0.5f, 0);
              b.output(mica_matmul(b.graph(), w, b.input("x", MICA_F32, x_dim, normal(), e)));
            });
          }
        }
}

// Prompts whose rows are each of another size, as many as a GPU's own forms of a prompt take, and
// rows longer than what a block holds at a time.
void add_ranges(CaseList& list) {
  const auto with = [&](mica_dtype type, mica_dtype x_type, const std::string& name,
                        const Shape& shape) {
    add(list, "ranges." + type_name(type) + name, type, x_type, shape,
        sized_rows(shape.x[0], {1e6, 1, 1e-6, 0, 3e-3, 1e30, 1e-30}));
  };
  for (const mica_dtype type : kWeights) with(type, MICA_F32, ".m20", {{256, 24}, {256, 20}});
  for (const mica_dtype type :
       {MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q8_0, MICA_Q4_K, MICA_Q6_K}) {
    with(type, MICA_F32, ".m128", {{256, 520}, {256, 128}});
    with(type, MICA_F32, ".live260of300", {{256, 516}, {256, 300}, 260});
  }
  for (const mica_dtype type : {MICA_F16, MICA_Q4_1, MICA_Q8_0}) {
    with(type, MICA_F32, ".k16512.m20", {{16512, 16}, {16512, 20}});
    with(type, MICA_BF16, ".bf16.m128", {{288, 512}, {288, 128}});
    with(type, MICA_F32, ".slices", {{64, 20, 2}, {64, 9, 4}});
  }
}

}  // namespace

void cases_matmul(CaseList& list) {
  add_weights(list);
  add_tiles(list);
  add_values(list);
  add_computed(list);
  add_live_slices(list);
  add_ranges(list);
}

}  // namespace mica::conformance
#endif
