// get_rows and set_rows: gathering and scattering of rows by index.
#include "ops/rows.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

mica_status need_rank(const InferCall& call, const char* name, const Desc& x, uint32_t rank) {
  if (x.rank <= rank) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " ", shape_text(x).text, " has rank ", x.rank,
                         ", more than ", rank);
}

mica_status need_packed(const InferCall& call, const char* name, const Desc& x) {
  if (x.contiguous()) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, name, " ", shape_text(x).text,
                         " is not packed: mica_copy it first");
}

// --- get_rows -----------------------------------------------------------------------------------

mica_status infer_get_rows(const InferCall& call) {
  const Desc& table = call.in[0];
  const Desc& ids = call.in[1];
  MICA_TRY(need_rank(call, "table", table, 2));
  MICA_TRY(need_fixed_rows(call, "table", table));
  MICA_TRY(need_contiguous_rows(call, "table", table));
  if (ids.dtype != MICA_I32) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "ids are ", dtype_name(ids.dtype), ", not i32");
  }
  MICA_TRY(need_rank(call, "ids", ids, 1));
  MICA_TRY(need_packed(call, "ids", ids));
  const int64_t dim[] = {table.dim[0], ids.dim[0]};
  return pack_output(call, MICA_F32, 2, dim, ids.extent);
}

mica_status get_rows(const RefCall& call) {
  const HostTensor& table = call.in[0];
  const HostTensor& ids = call.in[1];
  const int64_t k = table.dim[0];
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(k))) return MICA_OUT_OF_MEMORY;
  for (int64_t i = 0; i < ids.dim[0]; ++i) {
    const int64_t id = ids.int_at(i);
    const bool inside = id >= 0 && id < table.dim[1];
    if (inside) table.read_row(row.data(), id);
    for (int64_t j = 0; j < k; ++j) {
      double value = inside ? row[static_cast<size_t>(j)] : 0.0;
      // An I64 is rounded here: a double would be one rounding too many.
      if (inside && table.dtype == MICA_I64) value = static_cast<float>(table.int_at(j, id));
      call.out.set(value, j, i);
      if (call.magnitude != nullptr) call.magnitude[i * k + j] = __builtin_fabs(value);
    }
  }
  set_terms(call, 1);
  return MICA_OK;
}

// --- set_rows -----------------------------------------------------------------------------------

mica_status infer_set_rows(const InferCall& call) {
  const Desc& dst = call.in[0];
  const Desc& src = call.in[1];
  const Desc& ids = call.in[2];
  Error& error = call.error;
  if (!is_float(dst.dtype) && !is_quantized(dst.dtype)) {
    return error.fail(MICA_INVALID_ARGUMENT, "dst is ", dtype_name(dst.dtype),
                      ", not a float or quantized type");
  }
  MICA_TRY(need_float(call, "src", src));
  if (ids.dtype != MICA_I32 && ids.dtype != MICA_I64) {
    return error.fail(MICA_INVALID_ARGUMENT, "ids are ", dtype_name(ids.dtype), ", not i32 or i64");
  }
  MICA_TRY(need_rank(call, "dst", dst, 2));
  MICA_TRY(need_rank(call, "src", src, 2));
  MICA_TRY(need_rank(call, "ids", ids, 1));
  if (src.dim[0] != dst.dim[0]) {
    return error.fail(MICA_INVALID_ARGUMENT, "src has rows of ", src.dim[0], " elements, dst of ",
                      dst.dim[0]);
  }
  if (src.dim[1] != ids.dim[0]) {
    return error.fail(MICA_INVALID_ARGUMENT, "src has ", src.dim[1], " rows, ids has ", ids.dim[0]);
  }
  MICA_TRY(need_fixed_rows(call, "src", src));
  if (src.extent != ids.extent) {
    return error.fail(MICA_INVALID_ARGUMENT, "src ", shape_text(src).text, " and ids ",
                      shape_text(ids).text, " do not have the same extent");
  }
  if (dst.extent != kNoExtent) {
    return error.fail(MICA_INVALID_ARGUMENT, "dst ", shape_text(dst).text,
                      " has an extent: rows may be written beyond it");
  }
  MICA_TRY(need_packed(call, "dst", dst));
  MICA_TRY(need_contiguous_rows(call, "src", src));
  MICA_TRY(need_packed(call, "ids", ids));
  call.out = dst;
  return MICA_OK;
}

mica_status set_rows(const RefCall& call) {
  const HostTensor& src = call.in[1];
  const HostTensor& ids = call.in[2];
  const HostTensor& dst = call.out;
  const int64_t k = dst.dim[0];
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(k))) return MICA_OUT_OF_MEMORY;
  for (int64_t i = 0; i < ids.dim[0]; ++i) {
    const int64_t id = ids.int_at(i);
    if (id < 0 || id >= dst.dim[1]) continue;
    src.read_row(row.data(), i);
    dst.write_row(row.data(), id);
  }
  for (int64_t i = 0; call.magnitude != nullptr && i < dst.dim[1]; ++i) {
    dst.read_row(row.data(), i);
    for (int64_t j = 0; j < k; ++j) {
      call.magnitude[i * k + j] = __builtin_fabs(row[static_cast<size_t>(j)]);
    }
  }
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_get_rows = {MICA_OP_get_rows, "get_rows", 2,       2, 0, kOpPlain, -1,
                           infer_get_rows,   nullptr,    get_rows};
const OpDef op_set_rows = {MICA_OP_set_rows, "set_rows", 3,       3, 0, kOpState, -1,
                           infer_set_rows,   nullptr,    set_rows};

}  // namespace mica

mica_tensor mica_get_rows(mica_graph* graph, mica_tensor table, mica_tensor ids) {
  const mica_tensor in[] = {table, ids};
  return mica::append(graph, mica::op_get_rows, in, 2, nullptr, 0);
}

mica_tensor mica_set_rows(mica_graph* graph, mica_tensor dst, mica_tensor src, mica_tensor ids) {
  const mica_tensor in[] = {dst, src, ids};
  return mica::append(graph, mica::op_set_rows, in, 3, nullptr, 0);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

constexpr mica_dtype kEncodable[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q4_0,
                                     MICA_Q4_1, MICA_Q5_0, MICA_Q5_1, MICA_Q8_0,
                                     MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add_get_rows(CaseList& list) {
  for (const mica_dtype type : kEncodable) {
    list.add("get_rows", type_name(type) + ".weight", [=](CaseBuilder& b) {
      const mica_tensor table = b.weight("table", type, {512, 37});
      const mica_tensor ids = b.input("ids", MICA_I32, {9}, integers(0, 36));
      b.output(mica_get_rows(b.graph(), table, ids));
    });
    list.add("get_rows", type_name(type) + ".weight.live3of8", [=](CaseBuilder& b) {
      const mica_extent extent = b.extent("n_tokens", 8, 3);
      const mica_tensor table = b.weight("table", type, {256, 16});
      const mica_tensor ids = b.input("ids", MICA_I32, {8}, integers(0, 15), extent);
      b.output(mica_get_rows(b.graph(), table, ids));
    });
  }
  // A tied embedding: one weight serves both ops.
  for (const mica_dtype type : {MICA_Q4_0, MICA_Q4_1, MICA_Q8_0, MICA_Q6_K, MICA_F16}) {
    list.add("get_rows", type_name(type) + ".tied", [=](CaseBuilder& b) {
      const mica_tensor table = b.weight("table", type, {256, 48}, normal(0.05));
      const mica_tensor ids = b.input("ids", MICA_I32, {5}, integers(0, 47));
      b.output(mica_matmul(b.graph(), table, mica_get_rows(b.graph(), table, ids)));
    });
  }
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16, MICA_I32}) {
    list.add("get_rows", type_name(type) + ".input", [=](CaseBuilder& b) {
      const mica_tensor table = b.input("table", type, {19, 11}, integers(-50, 50));
      const mica_tensor ids = b.input("ids", MICA_I32, {4}, mica::conformance::list({3, 0, 10, 3}));
      b.output(mica_get_rows(b.graph(), table, ids));
    });
  }
  list.add("get_rows", "f32.outside", [](CaseBuilder& b) {
    const mica_tensor table = b.input("table", MICA_F32, {8, 4});
    const mica_tensor ids = b.input(
        "ids", MICA_I32, {6}, mica::conformance::list({-1, 4, 2, -2147483648.0, 2147483647.0, 0}));
    b.output(mica_get_rows(b.graph(), table, ids));
  });
  // Rows beyond the table's value in the step are outside it.
  list.add("get_rows", "f32.outputs", [](CaseBuilder& b) {
    const mica_extent tokens = b.extent("n_tokens", 16, 6);
    const mica_extent outputs = b.extent("n_outputs", 4, 3);
    const mica_tensor table = b.input("table", MICA_F32, {24, 16}, normal(), tokens);
    const mica_tensor ids =
        b.input("ids", MICA_I32, {4}, mica::conformance::list({5, 0, 6, 1}), outputs);
    b.output(mica_get_rows(b.graph(), mica_scale(b.graph(), table, 2, 0), ids));
  });
  list.add("get_rows", "f16.slice", [](CaseBuilder& b) {
    const int64_t dim[] = {10, 5}, start[] = {4, 2, 0, 0};
    const mica_tensor table = b.input("table", MICA_F16, {20, 8});
    const mica_tensor ids = b.input("ids", MICA_I32, {7}, integers(0, 4));
    b.output(mica_get_rows(b.graph(), mica_view(b.graph(), table, 2, dim, start), ids));
  });
}

// The whole of dst is compared, and what a later op of the step reads from it.
void see(CaseBuilder& b, mica_tensor after, int64_t n_rows) {
  const mica_tensor all = b.input("all", MICA_I32, {n_rows}, iota());
  b.output(mica_get_rows(b.graph(), after, all));
  b.written("dst");
}

void add_set_rows(CaseList& list) {
  for (const mica_dtype type : kEncodable) {
    for (const mica_dtype src_type : {MICA_F32, MICA_F16, MICA_BF16}) {
      const std::string name = type_name(type) + "." + type_name(src_type);
      list.add("set_rows", name, [=](CaseBuilder& b) {
        const mica_tensor dst = b.input("dst", type, {256, 12});
        const mica_tensor src = b.input("src", src_type, {256, 5});
        const mica_tensor ids =
            b.input("ids", MICA_I32, {5}, mica::conformance::list({7, -1, 0, 12, 11}));
        see(b, mica_set_rows(b.graph(), dst, src, ids), 12);
      });
    }
    list.add("set_rows", type_name(type) + ".i64.live2of6", [=](CaseBuilder& b) {
      const mica_extent extent = b.extent("n_tokens", 6, 2);
      const mica_tensor dst = b.input("dst", type, {512, 9});
      const mica_tensor src = b.input("src", MICA_F32, {512, 6}, normal(), extent);
      const mica_tensor ids =
          b.input("ids", MICA_I64, {6}, mica::conformance::list({8, 3, 0, 1, 2, 4}), extent);
      see(b, mica_set_rows(b.graph(), dst, src, ids), 9);
    });
  }
  // What follows reads the new rows; what came before, the old ones.
  list.add("set_rows", "f32.order", [](CaseBuilder& b) {
    const mica_tensor dst = b.input("dst", MICA_F32, {6, 5});
    const mica_tensor src = b.input("src", MICA_F32, {6, 2});
    const mica_tensor ids = b.input("ids", MICA_I32, {2}, mica::conformance::list({4, 1}));
    b.output(mica_scale(b.graph(), dst, 3, 1));
    const mica_tensor after = mica_set_rows(b.graph(), dst, src, ids);
    b.output(mica_scale(b.graph(), after, 2, 0));
    b.written("dst");
  });
  // Ties and limits of the narrow types.
  for (const mica_dtype type : {MICA_F16, MICA_BF16, MICA_Q8_0, MICA_Q4_0}) {
    list.add("set_rows", type_name(type) + ".ties", [=](CaseBuilder& b) {
      const mica_tensor dst = b.input("dst", type, {32, 3});
      const mica_tensor src = b.input(
          "src", MICA_F32, {32, 2},
          mica::conformance::list({0, -0.0, 1.0, 127, -127, 0.5, 1.5, 2.5, -2.5, 2049, 2051, 65504,
                                   65519, 65520, 1e-7, 5.9604645e-08, 2.9802322e-08, 1e-40}));
      const mica_tensor ids = b.input("ids", MICA_I32, {2}, mica::conformance::list({2, 0}));
      see(b, mica_set_rows(b.graph(), dst, src, ids), 3);
    });
  }
}

}  // namespace

void cases_rows(CaseList& list) {
  add_get_rows(list);
  add_set_rows(list);
}

}  // namespace mica::conformance
#endif
