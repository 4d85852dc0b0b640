// Cases in which every sum is exact, whatever its order: small integers and halves. There is
// nothing to forgive, so the bits must be the reference's. They see what random values hide in the
// scatter of sums: accumulation or results of less than F32, and ties that are not rounded to even.
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

// Activations: each block of 32 has a largest magnitude of 127, so that int8 scales are 1, and
// halves that are ties there. F16 and BF16 hold all of them. `scale`, a power of two, keeps that.
Values ties(double scale = 1) {
  Values v =
      list({127, 0.5, 1.5,  -2.5, 3,   -4,  0, 1,  -1.5, 2.5,  5,   -6, 3.5,  -0.5, 2, 9.5,
            4.5, -3,  -5.5, 7,    6.5, -12, 1, -2, 8.5,  -7.5, 0.5, 10, -9.5, 11,   4, -11.5});
  for (double& x : v.list) x *= scale;
  return v;
}

// Integers that the dtype holds exactly, by blocks of 32 whose scale is 1.
Values integers_of(mica_dtype dtype) {
  const auto range = [](int64_t least, int64_t most, int64_t step) {
    std::vector<double> v;
    for (int64_t i = 0; i < 32; ++i)
      v.push_back(static_cast<double>(least + i * step % (most - least + 1)));
    return list(std::move(v));
  };
  switch (dtype) {
    case MICA_Q4_0:
      return range(-8, 7, 5);
    case MICA_Q4_1:
      return range(0, 15, 7);
    case MICA_Q5_0:
      return range(-16, 15, 9);
    case MICA_Q5_1:
      return range(0, 31, 11);
    case MICA_Q8_0:
      return range(-127, 127, 29);
    default:
      return range(-50, 51, 13);
  }
}

constexpr mica_dtype kDtypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q4_0,
                                  MICA_Q4_1, MICA_Q5_0, MICA_Q5_1, MICA_Q8_0};

mica_tensor linear(CaseBuilder& b, const char* name, mica_dtype dtype, mica_tensor x, int64_t k,
                   int64_t n) {
  return mica_matmul(b.graph(), b.weight(name, dtype, {k, n}, integers_of(dtype)), x);
}
// Of rows whose elements are 1 or -1 the norm is the weight, with their signs.
mica_tensor norm_of_signs(CaseBuilder& b, int64_t k, int64_t m, double scale = 1) {
  const mica_tensor x = b.input("x", MICA_F32, {k, m}, list({1, -1, -1, 1, 1, -1, 1}));
  return mica_rms_norm(b.graph(), x, b.weight("norm", MICA_F32, {k}, ties(scale)), 0);
}

void add(CaseList& list, const char* op, const std::string& name,
         std::function<void(CaseBuilder&)> build) {
  list.add(op, "exact." + name, std::move(build));
  list.cases.back().exact = true;
  list.cases.back().chain = std::string(op) != "matmul";
}

void build_qkv(CaseBuilder& b, mica_dtype d, int64_t m) {
  mica_kv_layer layer = MICA_KV_LAYER_INIT;
  layer.n_kv_heads = 2;
  layer.head_dim_k = layer.head_dim_v = 32;
  layer.dtype_k = layer.dtype_v = MICA_F32;
  mica_kv_params params = MICA_KV_PARAMS_INIT;
  params.n_layers = 1;
  params.layers = &layer;
  params.n_cells = 128;
  params.max_step_tokens = static_cast<uint32_t>(m);
  mica_kv_cache* cache = b.cache(params, {{{{0, static_cast<uint32_t>(m)}}, {}}});
  const mica_kv kv = mica_graph_kv(b.graph(), cache, 0, b.n_tokens());
  const mica_tensor x =
      b.input("x", MICA_F32, {96, m}, list({1, -1, -1, 1, 1, -1, 1}), b.n_tokens());
  const mica_tensor h = mica_rms_norm(b.graph(), x, b.weight("norm", MICA_F32, {96}, ties()), 0);
  const auto heads = [&](const char* name, int64_t n_heads) {
    const int64_t dim[] = {32, n_heads, m};
    return mica_reshape(b.graph(), linear(b, name, d, h, 96, 32 * n_heads), 3, dim);
  };
  const mica_tensor q = heads("q", 4), k = heads("k", 2), v = heads("v", 2);
  mica_kv_append(b.graph(), &kv, k, v);
  b.output(mica_copy(b.graph(), q));
}

}  // namespace

void cases_exact(CaseList& list) {
  for (const mica_dtype d : kDtypes)
    for (const int64_t m : {1, 5, 40, 130}) {
      const std::string name = std::string(mica_dtype_get(d)->name) + ".m" + std::to_string(m);
      add(list, "matmul", name, [=](CaseBuilder& b) {
        b.output(linear(b, "w", d, b.input("x", MICA_F32, {256, m}, ties()), 256, 72));
      });
      if (m > 5) continue;
      add(list, "norm_matmul", name, [=](CaseBuilder& b) {
        const mica_tensor h = norm_of_signs(b, 256, m);
        b.output(linear(b, "w0", d, h, 256, 48));
        b.output(linear(b, "w1", d, h, 256, 33));
      });
      add(list, "matmul_add", name, [=](CaseBuilder& b) {
        const mica_tensor y = linear(b, "w", d, b.input("x", MICA_F32, {256, m}, ties()), 256, 72);
        b.output(mica_add(b.graph(), b.input("r", MICA_F32, {72, m}, integers(-99, 99)), y));
      });
      add(list, "norm_glu", name, [=](CaseBuilder& b) {
        const mica_tensor h = norm_of_signs(b, 256, m, 0x1p-12);
        b.output(mica_swiglu(b.graph(), linear(b, "gate", d, h, 256, 88),
                             linear(b, "up", d, h, 256, 88)));
      });
      add(list, "norm_qkv", name, [=](CaseBuilder& b) { build_qkv(b, d, m); });
    }
}

}  // namespace mica::conformance
