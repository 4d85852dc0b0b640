// The fusions' patterns as cases: small graphs that contain one region each, with all its options.
// A device that claims the fusion runs them fused, and member by member when told so; both are
// compared with the reference's members. Op is the fusion's name. norm_qkv's: qkv_cases.cpp.
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

// How many tokens: a maximum that is also live, or a maximum with fewer live ones.
struct Tokens {
  int64_t max, live;
  std::string name() const {
    return max == live ? "m" + std::to_string(max)
                       : "m" + std::to_string(live) + "of" + std::to_string(max);
  }
  // [n, max], with an extent where fewer are live.
  mica_tensor input(CaseBuilder& b, const char* name, int64_t n,
                    const Values& values = normal()) const {
    const mica_extent e = max == live ? mica_extent{} : b.extent("n", max, live);
    return b.input(name, MICA_F32, {n, max}, values, e);
  }
};
constexpr Tokens kOne = {1, 1}, kFive = {5, 5}, kRagged = {24, 9}, kOneOfMany = {24, 1};
constexpr Tokens kNoneOfMany = {24, 0}, kMostOfMany = {24, 23}, kNoneOfOne = {1, 0};
// As many as a GPU's own forms of a prompt take.
constexpr Tokens kPrompts[] = {{128, 128}, {160, 130}};
// Rows of a weight: a large GPU's blocks have more of them than fills their buffers.
constexpr int64_t kLong = 4096;

const char* name_of(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

mica_tensor norm(CaseBuilder& b, mica_tensor x, int64_t n, double size = 1) {
  const Values weight = uniform(0.5 * size, 1.5 * size);
  return mica_rms_norm(b.graph(), x, b.weight("norm", MICA_F32, {n}, weight), 1e-5f);
}
mica_tensor linear(CaseBuilder& b, const char* name, mica_dtype dtype, mica_tensor x, int64_t k,
                   int64_t n) {
  return mica_matmul(b.graph(), b.weight(name, dtype, {k, n}, normal(0.06)), x);
}

void add(CaseList& list, const char* fusion, const std::string& name,
         std::function<void(CaseBuilder&)> build) {
  list.add(fusion, name, std::move(build));
  list.cases.back().chain = true;
}

// --- norm_matmul --------------------------------------------------------------------------------

struct Weight {
  mica_dtype dtype;
  int64_t n;
};

void add_norm_matmul(CaseList& list, const std::string& name, const std::vector<Weight>& weights,
                     Tokens tokens, int64_t k, bool norm_is_read = false) {
  add(list, "norm_matmul", name + "." + tokens.name(), [=](CaseBuilder& b) {
    const mica_tensor h = norm(b, tokens.input(b, "x", k), k);
    for (size_t i = 0; i < weights.size(); ++i)
      b.output(linear(b, ("w" + std::to_string(i)).c_str(), weights[i].dtype, h, k, weights[i].n));
    if (norm_is_read) b.output(mica_copy(b.graph(), h));
  });
}

void cases_norm_matmul(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0,
                             MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K}) {
    add_norm_matmul(list, std::string("one.") + name_of(d), {{d, 72}}, kOne, 256);
    add_norm_matmul(list, std::string("one.") + name_of(d), {{d, 72}}, kFive, 256);
  }
  for (const Tokens t : {kOne, kFive, kRagged, kOneOfMany}) {
    add_norm_matmul(list, "two.q4_0", {{MICA_Q4_0, 64}, {MICA_Q4_0, 40}}, t, 96);
    add_norm_matmul(list, "three.q8_0.q4_1.q5_0",
                    {{MICA_Q8_0, 48}, {MICA_Q4_1, 33}, {MICA_Q5_0, 16}}, t, 64);
    add_norm_matmul(list, "four.q4_k.q6_k",
                    {{MICA_Q4_K, 32}, {MICA_Q6_K, 48}, {MICA_Q4_K, 17}, {MICA_Q5_K, 16}}, t, 512);
    add_norm_matmul(list, "norm_is_read.q4_k.q6_k", {{MICA_Q4_K, 32}, {MICA_Q6_K, 16}}, t, 256,
                    true);
    add_norm_matmul(list, "norm_is_read.f32", {{MICA_F32, 32}}, t, 40, true);
  }
  for (const Tokens t : {kNoneOfMany, kMostOfMany, kNoneOfOne})
    add_norm_matmul(list, "two.q8_0", {{MICA_Q8_0, 64}, {MICA_Q8_0, 40}}, t, 96);
  add_norm_matmul(list, "wide.q4_0", {{MICA_Q4_0, 300}, {MICA_Q4_0, 300}}, {300, 270}, 64);
  // Rows of which the norm makes numbers near 1 and 1e-4, and some beyond F16.
  for (const mica_dtype d : {MICA_F16, MICA_Q4_1})
    for (const double size : {1.0, 1e6})
      for (const Tokens t : kPrompts)
        add(list, "norm_matmul",
            std::string(size > 1 ? "sizes.large." : "sizes.") + name_of(d) + "." + t.name(),
            [=](CaseBuilder& b) {
              const mica_tensor h = norm(b, t.input(b, "x", 256, sized_rows(256)), 256, size);
              b.output(linear(b, "w0", d, h, 256, 512));
              b.output(linear(b, "w1", d, h, 256, 40));
            });
}

// --- norm_glu -----------------------------------------------------------------------------------

void add_norm_glu(CaseList& list, const std::string& name, mica_dtype gate, mica_dtype up,
                  Tokens tokens, int64_t k, int64_t n, bool silu, bool norm_is_read = false) {
  add(list, "norm_glu", name + "." + tokens.name(), [=](CaseBuilder& b) {
    const mica_tensor h = norm(b, tokens.input(b, "x", k), k);
    const mica_tensor g = linear(b, "gate", gate, h, k, n), u = linear(b, "up", up, h, k, n);
    b.output(silu ? mica_swiglu(b.graph(), g, u) : mica_geglu(b.graph(), g, u));
    if (norm_is_read) b.output(mica_copy(b.graph(), h));
  });
}

void cases_norm_glu(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0,
                             MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K})
    for (const Tokens t : {kOne, kFive})
      add_norm_glu(list, std::string("silu.") + name_of(d), d, d, t, 256, 88, true);
  for (const Tokens t : {kOne, kFive, kRagged, kOneOfMany}) {
    add_norm_glu(list, "gelu.q8_0", MICA_Q8_0, MICA_Q8_0, t, 64, 48, false);
    add_norm_glu(list, "silu.q4_k.q6_k", MICA_Q4_K, MICA_Q6_K, t, 512, 64, true);
    add_norm_glu(list, "silu.norm_is_read.q4_0", MICA_Q4_0, MICA_Q4_0, t, 96, 33, true, true);
  }
  for (const Tokens t : {kNoneOfMany, kMostOfMany, kNoneOfOne})
    add_norm_glu(list, "silu.q8_0", MICA_Q8_0, MICA_Q8_0, t, 64, 48, true);
  add_norm_glu(list, "wide.q4_k", MICA_Q4_K, MICA_Q4_K, {300, 270}, 256, 320, true);
  add_norm_glu(list, "long.q8_0", MICA_Q8_0, MICA_Q8_0, {4, 3}, 2048, kLong, true);
  // The gated value goes on into a projection: what a device keeps in a form of its own.
  for (const mica_dtype d : {MICA_Q4_0, MICA_Q8_0, MICA_Q6_K, MICA_BF16})
    for (const Tokens t : {kOne, kRagged, kOneOfMany, Tokens{300, 270}, Tokens{300, 250}})
      add(list, "norm_glu", std::string("down.") + name_of(d) + "." + t.name(),
          [=](CaseBuilder& b) {
            const mica_tensor x = t.input(b, "x", 256);
            const mica_tensor h = norm(b, x, 256);
            const mica_tensor y = mica_swiglu(b.graph(), linear(b, "gate", d, h, 256, 768),
                                              linear(b, "up", d, h, 256, 768));
            b.far_output(mica_add(b.graph(), x, linear(b, "down", d, y, 768, 256)));
          });
}

// Gated values beyond F16, of rows of every size, go on into a projection.
void cases_sized_glu(CaseList& list) {
  for (const mica_dtype d : {MICA_F16, MICA_Q4_1})
    for (const Tokens t : kPrompts)
      add(list, "norm_glu", std::string("sizes.") + name_of(d) + "." + t.name(),
          [=](CaseBuilder& b) {
            const mica_tensor h = norm(b, t.input(b, "x", 256, sized_rows(256)), 256, 2000);
            const mica_tensor y = mica_swiglu(b.graph(), linear(b, "gate", d, h, 256, 512),
                                              linear(b, "up", d, h, 256, 512));
            b.output(y);
            b.far_output(linear(b, "down", d, y, 512, 512));
          });
}

// Gate and up seen in another shape, then the product of both; or the gate alone, until its
// activation is seen as [n, n_tokens] again. A kernel may not tell rows by the shapes between.
enum class Seen { kHeads, kFlat, kTurned, kFlatActivation };

void add_reshaped_glu(CaseList& list, const char* name, Seen seen, mica_dtype d, Tokens tokens) {
  constexpr int64_t kRows = 48;
  add(list, "norm_glu", std::string(name) + name_of(d) + "." + tokens.name(), [=](CaseBuilder& b) {
    mica_graph* g = b.graph();
    const int64_t m = tokens.max, rows[] = {kRows, m};
    const int64_t heads[] = {16, kRows / 16, m}, flat[] = {kRows * m}, turned[] = {m, kRows};
    const auto shaped = [&](mica_tensor x) {
      if (seen == Seen::kHeads) return mica_reshape(g, x, 3, heads);
      if (seen == Seen::kTurned) return mica_reshape(g, x, 2, turned);
      return mica_reshape(g, x, 1, flat);
    };
    const mica_tensor h = norm(b, tokens.input(b, "x", 256), 256);
    const mica_tensor gate = shaped(linear(b, "gate", d, h, 256, kRows));
    const mica_tensor up = linear(b, "up", d, h, 256, kRows);
    if (seen == Seen::kFlatActivation) {
      b.output(mica_mul(g, mica_reshape(g, mica_silu(g, gate), 2, rows), up));
    } else {
      b.output(mica_swiglu(g, gate, shaped(up)));
    }
  });
}

void cases_reshaped_glu(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_Q8_0, MICA_Q4_K}) {
    for (const Tokens t : {kOne, kFive, kRagged})
      add_reshaped_glu(list, "heads.", Seen::kHeads, d, t);
    for (const Tokens t : {kOne, kFive, Tokens{24, 24}}) {
      add_reshaped_glu(list, "flat.", Seen::kFlat, d, t);
      add_reshaped_glu(list, "turned.", Seen::kTurned, d, t);
      add_reshaped_glu(list, "flat_activation.", Seen::kFlatActivation, d, t);
    }
  }
}

// --- matmul_add and add_norm --------------------------------------------------------------------

void add_matmul_add(CaseList& list, mica_dtype d, Tokens tokens, int64_t k, int64_t n,
                    bool residual_first) {
  const std::string name = std::string(residual_first ? "residual_first." : "") + name_of(d) +
                           ".k" + std::to_string(k) + "." + tokens.name();
  add(list, "matmul_add", name, [=](CaseBuilder& b) {
    const mica_extent e =
        tokens.max == tokens.live ? mica_extent{} : b.extent("n", tokens.max, tokens.live);
    const mica_tensor x = b.input("x", MICA_F32, {k, tokens.max}, normal(), e);
    const mica_tensor r = b.input("r", MICA_F32, {n, tokens.max}, normal(), e);
    const mica_tensor y = linear(b, "w", d, x, k, n);
    b.output(residual_first ? mica_add(b.graph(), r, y) : mica_add(b.graph(), y, r));
  });
}

void cases_matmul_add(CaseList& list) {
  for (const mica_dtype d : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0,
                             MICA_Q5_1, MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K})
    for (const Tokens t : {kOne, kFive, kRagged}) add_matmul_add(list, d, t, 256, 72, true);
  for (const Tokens t : {kOne, kFive, kOneOfMany, Tokens{300, 270}})
    add_matmul_add(list, MICA_Q8_0, t, 96, 33, false);
  for (const Tokens t : {kNoneOfMany, kMostOfMany, kNoneOfOne})
    add_matmul_add(list, MICA_Q8_0, t, 96, 33, true);
  add_matmul_add(list, MICA_F16, kOne, 4096, kLong, false);
  // The residual is added behind what undoes the scale of a row of x.
  for (const mica_dtype d : {MICA_F16, MICA_Q4_1})
    for (const Tokens t : kPrompts)
      add(list, "matmul_add", std::string("sizes.") + name_of(d) + "." + t.name(),
          [=](CaseBuilder& b) {
            const mica_tensor x = t.input(b, "x", 512, sized_rows(512));
            b.output(mica_add(b.graph(), linear(b, "w", d, x, 512, 512), x));
          });
  // The product and the residual seen in another shape; a residual whose rows have gaps; x of three
  // dimensions, no row of it live.
  for (const mica_dtype d : {MICA_F32, MICA_Q8_0}) {
    add(list, "matmul_add", std::string("residual_slice.") + name_of(d), [=](CaseBuilder& b) {
      const int64_t dim[] = {48, 5}, start[] = {2, 0, 0, 0};
      const mica_tensor wide = b.input("r", MICA_F32, {51, 5});
      b.output(mica_add(b.graph(), mica_view(b.graph(), wide, 2, dim, start),
                        linear(b, "w", d, b.input("x", MICA_F32, {64, 5}), 64, 48)));
    });
    add(list, "matmul_add", std::string("reshaped.") + name_of(d), [=](CaseBuilder& b) {
      const int64_t heads[] = {16, 3, 5};
      const mica_tensor y = linear(b, "w", d, b.input("x", MICA_F32, {64, 5}), 64, 48);
      b.output(mica_add(b.graph(), b.input("r", MICA_F32, {16, 3, 5}),
                        mica_reshape(b.graph(), y, 3, heads)));
    });
    for (const int64_t live : {0, 1})
      add(list, "matmul_add", std::string("rank_3.") + name_of(d) + ".live" + std::to_string(live),
          [=](CaseBuilder& b) {
            const mica_extent e = b.extent("n", 1, live);
            const mica_tensor x = b.input("x", MICA_F32, {64, 1, 1}, normal(), e);
            const mica_tensor r = b.input("r", MICA_F32, {48, 1, 1}, normal(), e);
            b.output(mica_add(b.graph(), r, linear(b, "w", d, x, 64, 48)));
          });
  }
}

void cases_add_norm(CaseList& list) {
  for (const int64_t n : {64, 576, 2050})
    for (const Tokens t : {kOne, kFive, kRagged})
      for (const bool sum_is_read : {true, false})
        add(list, "add_norm",
            std::string(sum_is_read ? "sum_is_read." : "") + "n" + std::to_string(n) + "." +
                t.name(),
            [=](CaseBuilder& b) {
              const mica_tensor x = t.input(b, "x", n);
              const mica_tensor s = mica_add(b.graph(), x, mica_scale(b.graph(), x, 0.5f, 1));
              b.output(norm(b, s, n));
              if (sum_is_read) b.output(mica_copy(b.graph(), s));
            });
}

}  // namespace

void cases_regions(CaseList& list) {
  cases_norm_matmul(list);
  cases_norm_glu(list);
  cases_reshaped_glu(list);
  cases_sized_glu(list);
  cases_matmul_add(list);
  cases_add_norm(list);
}

}  // namespace mica::conformance
