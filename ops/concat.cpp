// concat: one tensor behind another along a dimension.
#include "ops/concat.h"

#include "ops/concat_args.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

mica_status infer_extent(const InferCall& call, uint32_t along) {
  const Desc& a = call.in[0];
  const Desc& b = call.in[1];
  if (a.extent == kNoExtent && b.extent == kNoExtent) return MICA_OK;
  if (a.extent != b.extent || a.rank != b.rank) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "a ", shape_text(a).text, " and b ",
                           shape_text(b).text, " do not have the same extent");
  }
  if (along >= a.rank - 1) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", a.rank - 1,
                           "] is an extent: nothing can be joined along dim[", along, "]");
  }
  return MICA_OK;
}

mica_status infer(const InferCall& call) {
  const Desc& a = call.in[0];
  const Desc& b = call.in[1];
  const uint32_t along = static_cast<const mica_concat_args*>(call.args)->dim;
  if (along > 3) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim is ", along, ", not 0 to 3");
  }
  if (a.dtype != b.dtype) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "a is ", dtype_name(a.dtype), ", b is ",
                           dtype_name(b.dtype));
  }
  for (uint32_t i = 0; i < 4; ++i) {
    if (i == along || a.dim[i] == b.dim[i]) continue;
    return call.error.fail(MICA_INVALID_ARGUMENT, "a ", shape_text(a).text, " and b ",
                           shape_text(b).text, " cannot be joined along dim[", along, "]: dim[", i,
                           "] differs");
  }
  MICA_TRY(infer_extent(call, along));
  if (is_quantized(a.dtype)) {
    MICA_TRY(need_contiguous_rows(call, "a", a));
    MICA_TRY(need_contiguous_rows(call, "b", b));
  }
  int64_t dim[4] = {a.dim[0], a.dim[1], a.dim[2], a.dim[3]};
  if (!checked_add(a.dim[along], b.dim[along], dim[along])) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "the size does not fit in 63 bits");
  }
  uint32_t rank = a.rank > b.rank ? a.rank : b.rank;
  if (along >= rank) rank = along + 1;
  return pack_output(call, a.dtype, rank, dim, a.extent);
}

// Copies x to the result, from index `start` of dimension `along` on.
void place(const RefCall& call, const HostTensor& x, uint32_t along, int64_t start) {
  const mica_dtype_info& info = dtype_info(x.dtype);
  const HostTensor& out = call.out;
  int64_t to[4] = {0, 0, 0, 0};
  to[along] = start;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t) {
    const int64_t o1 = to[1] + i1, o2 = to[2] + i2, o3 = to[3] + i3;
    const char* src = x.row(i1, i2, i3);
    char* dst = const_cast<char*>(out.row(o1, o2, o3)) + to[0] / info.block_elems * out.stride[0];
    for (int64_t i = 0; i < x.dim[0] / info.block_elems; ++i) {
      __builtin_memcpy(dst + i * out.stride[0], src + i * x.stride[0], info.block_bytes);
    }
    const int64_t o_row = (o3 * out.dim[2] + o2) * out.dim[1] + o1;
    for (int64_t i = 0; call.magnitude != nullptr && i < x.dim[0]; ++i) {
      call.magnitude[o_row * out.dim[0] + to[0] + i] = __builtin_fabs(x.at(i, i1, i2, i3));
    }
  });
}

mica_status reference(const RefCall& call) {
  const uint32_t along = call.arg<mica_concat_args>().dim;
  place(call, call.in[0], along, 0);
  place(call, call.in[1], along, call.in[0].dim[along]);
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_concat = {MICA_OP_concat, "concat", 2,     2,       sizeof(mica_concat_args),
                         kOpPlain,       -1,       infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_concat(mica_graph* graph, mica_tensor a, mica_tensor b, uint32_t dim) {
  const mica_tensor in[] = {a, b};
  const mica_concat_args args = {dim};
  return mica::append(graph, mica::op_concat, in, 2, &args, sizeof args);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

}  // namespace

void cases_concat(CaseList& list) {
  for (const mica_dtype type : {MICA_F32, MICA_F16, MICA_BF16, MICA_I32, MICA_I64}) {
    for (uint32_t along = 0; along < 4; ++along) {
      list.add("concat", type_name(type) + ".dim" + std::to_string(along), [=](CaseBuilder& b) {
        std::vector<int64_t> dim = {7, 3, 4, 2};
        const mica_tensor first = b.input("a", type, dim, integers(-9, 9));
        dim[along] += 3;
        const mica_tensor second = b.input("b", type, dim, integers(-9, 9));
        b.output(mica_concat(b.graph(), first, second, along));
      });
    }
    list.add("concat", type_name(type) + ".strided", [=](CaseBuilder& b) {
      const int64_t dim[] = {5, 7}, start[] = {1, 2, 0, 0};
      const mica_tensor first = b.input("a", type, {6, 7}, integers(-9, 9));
      const mica_tensor second = b.input("b", type, {8, 9}, integers(-9, 9));
      b.output(mica_concat(
          b.graph(), mica_transpose(b.graph(), first),
          mica_permute(b.graph(), mica_view(b.graph(), second, 2, dim, start), 1, 0, 2, 3), 1));
    });
    list.add("concat", type_name(type) + ".live2of5", [=](CaseBuilder& b) {
      const mica_extent extent = b.extent("n_tokens", 5, 2);
      const mica_tensor first = b.input("a", type, {8, 2, 5}, integers(-9, 9), extent);
      const mica_tensor second = b.input("b", type, {8, 3, 5}, integers(-9, 9), extent);
      b.output(mica_concat(b.graph(), first, second, 1));
    });
  }
  list.add("concat", "f32.new_dim", [](CaseBuilder& b) {
    const mica_tensor first = b.input("a", MICA_F32, {9});
    const mica_tensor second = b.input("b", MICA_F32, {9});
    b.output(mica_concat(b.graph(), first, second, 2));
  });
  for (const mica_dtype type : {MICA_Q8_0, MICA_Q4_0, MICA_Q6_K}) {
    for (const uint32_t along : {0u, 1u}) {
      list.add("concat", type_name(type) + ".dim" + std::to_string(along), [=](CaseBuilder& b) {
        const mica_tensor first = mica_cast(b.graph(), b.input("a", MICA_F32, {256, 3}), type);
        std::vector<int64_t> dim = {256, 3};
        dim[along] *= 2;
        const mica_tensor second = mica_cast(b.graph(), b.input("b", MICA_F32, dim), type);
        b.output(mica_cast(b.graph(), mica_concat(b.graph(), first, second, along), MICA_F32));
      });
    }
  }
}

}  // namespace mica::conformance
#endif
