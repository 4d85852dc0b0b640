// Every op with an extent on each dimension that it lets have one, at the ends of its range: none
// live, one, all but one, all.
#include "mica/ops.h"
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

constexpr int64_t kMax = 6;

// An input whose slowest dimension, of `rank`, has the extent.
struct Extent {
  CaseBuilder& b;
  int64_t live;
  mica_extent extent;
  mica_tensor input(const char* name, uint32_t rank, int64_t row = 32,
                    const Values& values = normal(), mica_dtype dtype = MICA_F32) const {
    std::vector<int64_t> dim = {row, 3, 2, 2};
    dim.resize(rank);
    dim.back() = kMax;
    return b.input(name, dtype, dim, values, extent);
  }
};
using Build = std::function<mica_tensor(const Extent&, uint32_t rank)>;

void add(CaseList& list, const char* op, uint32_t least_rank, uint32_t most_rank,
         const Build& build) {
  for (uint32_t rank = least_rank; rank <= most_rank; ++rank)
    for (const int64_t live : {int64_t{0}, int64_t{1}, kMax - 1, kMax})
      list.add(op, "extent.rank" + std::to_string(rank) + ".live" + std::to_string(live),
               [=](CaseBuilder& b) {
                 b.output(build({b, live, b.extent("n", kMax, live)}, rank));
               });
}

void add_elements(CaseList& list) {
  const std::pair<const char*, mica_tensor (*)(mica_graph*, mica_tensor, mica_tensor)> pairs[] = {
      {"add", mica_add}, {"sub", mica_sub}, {"mul", mica_mul}, {"div", mica_div}};
  for (const auto& [name, op] : pairs)
    add(list, name, 2, 4, [op = op](const Extent& e, uint32_t rank) {
      return op(e.b.graph(), e.input("a", rank), e.input("b", rank, 32, uniform(0.5, 2)));
    });
  const std::pair<const char*, mica_tensor (*)(mica_graph*, mica_tensor)> single[] = {
      {"silu", mica_silu},       {"gelu", mica_gelu}, {"gelu_erf", mica_gelu_erf},
      {"sigmoid", mica_sigmoid}, {"tanh", mica_tanh}, {"relu", mica_relu},
      {"argmax", mica_argmax}};
  for (const auto& [name, op] : single)
    add(list, name, 2, 4,
        [op = op](const Extent& e, uint32_t rank) { return op(e.b.graph(), e.input("x", rank)); });
  add(list, "scale", 1, 4, [](const Extent& e, uint32_t rank) {
    return mica_scale(e.b.graph(), e.input("x", rank), 0.5f, 1);
  });
  add(list, "copy", 1, 4, [](const Extent& e, uint32_t rank) {
    return mica_cast(e.b.graph(), e.input("x", rank), MICA_F16);
  });
  add(list, "permute", 3, 4, [](const Extent& e, uint32_t rank) {
    return mica_copy(e.b.graph(), mica_permute(e.b.graph(), e.input("x", rank), 1, 0, 2, 3));
  });
}

void add_rows(CaseList& list) {
  add(list, "rms_norm", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_rms_norm(e.b.graph(), e.input("x", rank),
                         e.b.weight("w", MICA_F32, {32}, uniform(0.5, 1.5)), 1e-5f);
  });
  add(list, "layer_norm", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_layer_norm(e.b.graph(), e.input("x", rank), e.b.weight("w", MICA_F32, {32}),
                           e.b.weight("bias", MICA_F32, {32}), 1e-5f);
  });
  add(list, "softmax", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_softmax(e.b.graph(), e.input("x", rank), e.input("mask", rank), 0.5f);
  });
  add(list, "top_k", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_top_k(e.b.graph(), e.input("x", rank), 5);
  });
  add(list, "concat", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_concat(e.b.graph(), e.input("a", rank), e.input("b", rank), 0);
  });
  add(list, "get_rows", 1, 1, [](const Extent& e, uint32_t rank) {
    return mica_get_rows(e.b.graph(), e.b.weight("table", MICA_F16, {32, 9}),
                         e.input("ids", rank, kMax, integers(0, 8), MICA_I32));
  });
  // The table's live rows end where the extent does: ids beyond give zeros.
  add(list, "get_rows", 2, 2, [](const Extent& e, uint32_t rank) {
    return mica_get_rows(e.b.graph(), e.input("table", rank),
                         e.b.input("ids", MICA_I32, {9}, integers(-1, kMax)));
  });
  add(list, "rope", 3, 3, [](const Extent& e, uint32_t rank) {
    return mica_rope(e.b.graph(), e.input("x", rank),
                     e.input("at", 1, kMax, integers(0, 500), MICA_I32), nullptr);
  });
  add(list, "sample", 2, 2, [](const Extent& e, uint32_t rank) {
    return mica_sample(e.b.graph(), e.input("logits", rank, 50, normal(3)),
                       e.input("params", rank, 4, conformance::list({0.8, 20, 0.9, 0.05})),
                       e.input("keys", rank, 4, integers(0, 1000), MICA_I32));
  });
  add(list, "matmul", 2, 4, [](const Extent& e, uint32_t rank) {
    return mica_matmul(e.b.graph(), e.b.weight("w", MICA_Q8_0, {32, 17}), e.input("x", rank));
  });
  for (const int64_t live : {int64_t{0}, int64_t{1}, kMax - 1, kMax})
    list.add("set_rows", "extent.rank2.live" + std::to_string(live), [=](CaseBuilder& b) {
      const Extent e{b, live, b.extent("n", kMax, live)};
      const mica_tensor into = b.input("into", MICA_Q8_0, {32, 9});
      mica_set_rows(b.graph(), into, e.input("src", 2),
                    e.input("ids", 1, kMax, conformance::list({3, 0, 8, 5, 1, 7}), MICA_I32));
      b.written("into");
    });
}

}  // namespace

void cases_extents(CaseList& list) {
  add_elements(list);
  add_rows(list);
}

}  // namespace mica::conformance
