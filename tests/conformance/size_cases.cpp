// Large sizes of everything that an index or a grid may be too small for: rows and columns beyond
// 2,048 and 65,536, vocabularies of today's models, tables of as many rows. They are narrow, so
// that they cost little; what counts stands at the far end.
#include "mica/ops.h"
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

constexpr int64_t kMany = 70001, kVocabulary = 151936;

std::string name_of(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add_products(CaseList& list) {
  const auto add = [&](mica_dtype d, int64_t k, int64_t n, int64_t m) {
    list.add("matmul", "sizes." + name_of(d) + ".n" + std::to_string(n) + ".m" + std::to_string(m),
             [=](CaseBuilder& b) {
               const mica_tensor w = b.weight("w", d, {k, n}, normal(0.2));
               b.output(mica_matmul(b.graph(), w, b.input("x", MICA_F32, {k, m})));
             });
  };
  for (const mica_dtype d : {MICA_F32, MICA_F16}) add(d, 8, 2100, 700);
  add(MICA_Q8_0, 32, 2100, 700);
  add(MICA_Q8_0, 32, kMany, 1);
  add(MICA_F32, 4, 3, kMany);
}

void add_rows(CaseList& list) {
  const auto add = [&](const char* op, const std::string& name, const std::vector<int64_t>& dim,
                       mica_tensor (*build)(CaseBuilder&, mica_tensor)) {
    list.add(op, "sizes." + name,
             [=](CaseBuilder& b) { b.output(build(b, b.input("x", MICA_F32, dim, normal(2)))); });
  };
  const auto softmax = [](CaseBuilder& b, mica_tensor x) {
    return mica_softmax(b.graph(), x, MICA_NO_TENSOR, 1);
  };
  const auto rms_norm = [](CaseBuilder& b, mica_tensor x) {
    return mica_rms_norm(b.graph(), x, MICA_NO_TENSOR, 1e-5f);
  };
  const auto layer_norm = [](CaseBuilder& b, mica_tensor x) {
    return mica_layer_norm(b.graph(), x, MICA_NO_TENSOR, MICA_NO_TENSOR, 1e-5f);
  };
  add("softmax", "n5000", {5000, 2}, softmax);
  add("softmax", "n70001", {kMany, 1}, softmax);
  add("softmax", "rows70001", {3, kMany}, softmax);
  add("rms_norm", "n20011", {20011, 2}, rms_norm);
  add("rms_norm", "rows70001", {3, kMany}, rms_norm);
  add("layer_norm", "n20011", {20011, 2}, layer_norm);
  add("layer_norm", "rows70001", {3, kMany}, layer_norm);
  add("add", "rows70001", {3, kMany},
      [](CaseBuilder& b, mica_tensor x) { return mica_add(b.graph(), x, x); });
  add("silu", "rows70001", {3, kMany},
      [](CaseBuilder& b, mica_tensor x) { return mica_silu(b.graph(), x); });
  add("copy", "rows70001", {3, kMany},
      [](CaseBuilder& b, mica_tensor x) { return mica_cast(b.graph(), x, MICA_F16); });
  add("copy", "transposed70001", {3, kMany}, [](CaseBuilder& b, mica_tensor x) {
    return mica_copy(b.graph(), mica_transpose(b.graph(), x));
  });
  add("argmax", "rows70001", {3, kMany},
      [](CaseBuilder& b, mica_tensor x) { return mica_argmax(b.graph(), x); });
}

// Logits that rise: the last is the largest.
void add_vocabularies(CaseList& list) {
  for (const int64_t n : {kMany, kVocabulary}) {
    const std::string name = "sizes.n" + std::to_string(n);
    const Values rising = iota(-50, 0.015625);
    list.add("argmax", name, [=](CaseBuilder& b) {
      b.output(mica_argmax(b.graph(), b.input("x", MICA_F32, {n, 1}, rising)));
    });
    list.add("top_k", name + ".k40", [=](CaseBuilder& b) {
      b.output(mica_top_k(b.graph(), b.input("x", MICA_F32, {n, 1}, rising), 40));
    });
    list.add("sample", name, [=](CaseBuilder& b) {
      const mica_tensor params =
          b.input("params", MICA_F32, {4, 1}, conformance::list({0.8, 40, 0.9, 0.05}));
      const mica_tensor keys = b.input("keys", MICA_I32, {4, 1}, integers(0, 1000));
      b.output(mica_sample(b.graph(), b.input("x", MICA_F32, {n, 1}, rising), params, keys));
    });
  }
}

void add_tables(CaseList& list) {
  const std::vector<double> ids = {69999, 65536, 70000, 65535, 300, 511, 32768, 66666};
  const auto n = static_cast<int64_t>(ids.size());
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_Q8_0}) {
    const int64_t k = d == MICA_Q8_0 ? 32 : 3;
    list.add("get_rows", "sizes." + name_of(d), [=](CaseBuilder& b) {
      b.output(mica_get_rows(b.graph(), b.weight("table", d, {k, kMany}),
                             b.input("ids", MICA_I32, {n}, conformance::list(ids))));
    });
    list.add("set_rows", "sizes." + name_of(d), [=](CaseBuilder& b) {
      const mica_tensor dst = b.input("dst", d, {k, kMany});
      mica_set_rows(b.graph(), dst, b.input("src", MICA_F32, {k, n}),
                    b.input("ids", MICA_I32, {n}, conformance::list(ids)));
      b.written("dst");
    });
  }
}

}  // namespace

void cases_sizes(CaseList& list) {
  add_products(list);
  add_rows(list);
  add_vocabularies(list);
  add_tables(list);
}

}  // namespace mica::conformance
