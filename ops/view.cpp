// view, reshape and permute: the same memory with other dimensions and strides.
#include "ops/view.h"

#include "ops/view_args.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

// The strides of x's element 0, so that dimensions can be cut, merged and moved.
Desc begin_view(const Desc& x, uint32_t rank) {
  Desc out = x;
  out.rank = rank;
  return out;
}

// A row of one element (or block) has no step: kernels may then rely on stride[0].
void finish_view(const InferCall& call, Desc& out) {
  const mica_dtype_info& info = dtype_info(out.dtype);
  if (out.dim[0] == info.block_elems) out.stride[0] = info.block_bytes;
  call.out = out;
}

mica_status need_blocks(const InferCall& call, const char* what, int64_t n) {
  const mica_dtype_info& info = dtype_info(call.in[0].dtype);
  if (n % info.block_elems == 0) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, what, " is ", n, ", not a multiple of ",
                         info.block_elems, ", the block of ", info.name);
}

mica_status need_rank(const InferCall& call, uint32_t rank) {
  if (rank >= 1 && rank <= 4) return MICA_OK;
  return call.error.fail(MICA_INVALID_ARGUMENT, "rank is ", rank, ", not 1 to 4");
}

mica_status need_dims(const InferCall& call, uint32_t rank, const uint32_t* dim) {
  for (uint32_t i = 0; i < rank; ++i) {
    if (dim[i] >= 1) continue;
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", i, "] is 0, less than 1");
  }
  return MICA_OK;
}

// --- view ---------------------------------------------------------------------------------------

mica_status infer_view(const InferCall& call) {
  const Desc& x = call.in[0];
  const auto& args = *static_cast<const mica_view_args*>(call.args);
  MICA_TRY(need_rank(call, args.rank));
  MICA_TRY(need_dims(call, args.rank, args.dim));
  Desc out = begin_view(x, args.rank);
  for (uint32_t i = 0; i < 4; ++i) {
    const int64_t start = args.start[i];
    const int64_t n = i < args.rank ? args.dim[i] : 1;
    if (start + n > x.dim[i]) {
      return call.error.fail(MICA_INVALID_ARGUMENT, "elements ", start, " to ", start + n - 1,
                             " of dim[", i, "] are not all in x ", shape_text(x).text);
    }
    out.dim[i] = n;
  }
  const uint32_t last = x.rank - 1;
  if (x.extent != kNoExtent &&
      (args.rank != x.rank || args.start[last] != 0 || out.dim[last] != x.dim[last])) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", last, "] of x ", shape_text(x).text,
                           " is an extent: it can only be taken whole, with rank ", x.rank);
  }
  MICA_TRY(need_blocks(call, "dim[0]", out.dim[0]));
  MICA_TRY(need_blocks(call, "start[0]", args.start[0]));
  finish_view(call, out);
  return MICA_OK;
}

int64_t view_offset(const InferCall& call) {
  const Desc& x = call.in[0];
  const auto& args = *static_cast<const mica_view_args*>(call.args);
  int64_t offset = args.start[0] / dtype_info(x.dtype).block_elems * x.stride[0];
  for (uint32_t i = 1; i < 4; ++i) offset += args.start[i] * x.stride[i];
  return offset;
}

// --- reshape ------------------------------------------------------------------------------------

// Strides for the new dimensions `n` over x's: both lists are cut into the shortest groups of equal
// product; within a group x's dimensions must follow each other in memory. dim[0] counts blocks.
// The products of both lists are equal. False: only a copy could do it.
bool restride(const Desc& x, const int64_t (&n)[4], int64_t (&stride)[4]) {
  const mica_dtype_info& info = dtype_info(x.dtype);
  int64_t old_dim[4];
  int64_t old_stride[4];
  uint32_t n_old = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const int64_t d = i == 0 ? x.dim[0] / info.block_elems : x.dim[i];
    if (d == 1) continue;
    old_dim[n_old] = d;
    old_stride[n_old++] = x.stride[i];
  }
  int64_t next = info.block_bytes;
  uint32_t i_new = 0;
  for (uint32_t i_old = 0; i_old < n_old;) {
    uint32_t old_end = i_old + 1;
    uint32_t new_end = i_new + 1;
    int64_t a = old_dim[i_old];
    int64_t b = n[i_new];
    while (a != b) {
      if (a < b) {
        if (old_stride[old_end] != old_stride[old_end - 1] * old_dim[old_end - 1]) return false;
        a *= old_dim[old_end++];
      } else {
        b *= n[new_end++];
      }
    }
    next = old_stride[i_old];
    for (; i_new < new_end; ++i_new) {
      stride[i_new] = next;
      next *= n[i_new];
    }
    i_old = old_end;
  }
  for (; i_new < 4; ++i_new) stride[i_new] = next;
  return true;
}

mica_status infer_reshape(const InferCall& call) {
  const Desc& x = call.in[0];
  const auto& args = *static_cast<const mica_reshape_args*>(call.args);
  MICA_TRY(need_rank(call, args.rank));
  MICA_TRY(need_dims(call, args.rank, args.dim));
  Desc out = begin_view(x, args.rank);
  int64_t elements = 1;
  bool fits = true;
  for (uint32_t i = 0; i < 4; ++i) {
    out.dim[i] = i < args.rank ? args.dim[i] : 1;
    fits = fits && checked_mul(elements, out.dim[i], elements);
  }
  if (!fits || elements != x.elements()) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "x ", shape_text(x).text, " and ",
                           shape_text(out).text, " do not have the same number of elements");
  }
  if (x.extent != kNoExtent && out.dim[args.rank - 1] != x.dim[x.rank - 1]) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", x.rank - 1, "] of x ", shape_text(x).text,
                           " is an extent and must stay the last dimension, the result is ",
                           shape_text(out).text);
  }
  MICA_TRY(need_blocks(call, "dim[0]", out.dim[0]));
  const int64_t n[4] = {out.dim[0] / dtype_info(x.dtype).block_elems, out.dim[1], out.dim[2],
                        out.dim[3]};
  if (!restride(x, n, out.stride)) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "x ", shape_text(x).text,
                           " is not packed enough in memory to become ", shape_text(out).text,
                           ": mica_copy it first");
  }
  finish_view(call, out);
  return MICA_OK;
}

// --- permute ------------------------------------------------------------------------------------

mica_status infer_permute(const InferCall& call) {
  const Desc& x = call.in[0];
  const uint32_t* axis = static_cast<const mica_permute_args*>(call.args)->axis;
  uint32_t seen = 0;
  for (uint32_t i = 0; i < 4; ++i) seen |= axis[i] < 4 ? 1u << axis[i] : 0u;
  if (seen != 15) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "(", axis[0], ", ", axis[1], ", ", axis[2], ", ",
                           axis[3], ") is not a permutation of 0 to 3");
  }
  uint32_t rank = 1;
  for (uint32_t i = 0; i < 4; ++i) {
    if (axis[i] < x.rank) rank = i + 1;
  }
  if (x.extent != kNoExtent && axis[rank - 1] != x.rank - 1) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "dim[", x.rank - 1, "] of x ", shape_text(x).text,
                           " is an extent and must stay the last dimension");
  }
  if (is_quantized(x.dtype) && axis[0] != 0) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is ", dtype_name(x.dtype),
                           ", whose blocks lie along dim[0]: it must stay dim[0]");
  }
  Desc out = begin_view(x, rank);
  for (uint32_t i = 0; i < 4; ++i) {
    out.dim[i] = x.dim[axis[i]];
    out.stride[i] = x.stride[axis[i]];
  }
  finish_view(call, out);
  return MICA_OK;
}

// --- Builders -----------------------------------------------------------------------------------

// Arguments are 32-bit. False: the error is recorded.
bool narrow(mica_graph* graph, const char* op, const char* what, uint32_t n, const int64_t* from,
            int64_t smallest, uint32_t* to) {
  for (uint32_t i = 0; i < n; ++i) {
    if (from[i] < smallest || from[i] > int64_t{UINT32_MAX}) {
      char text[96];
      Writer(text, sizeof text)
          .put(what, "[", i, "] is ", from[i], ", not ", smallest, " to ", UINT32_MAX);
      builder_error(graph, op, text);
      return false;
    }
    to[i] = static_cast<uint32_t>(from[i]);
  }
  return true;
}

bool narrow_dims(mica_graph* graph, const char* op, uint32_t rank, const int64_t* dim,
                 uint32_t* to) {
  if (rank < 1 || rank > 4) {
    char text[48];
    Writer(text, sizeof text).put("rank is ", rank, ", not 1 to 4");
    builder_error(graph, op, text);
    return false;
  }
  if (dim == nullptr) {
    builder_error(graph, op, "dim is NULL");
    return false;
  }
  return narrow(graph, op, "dim", rank, dim, 1, to);
}

}  // namespace

const OpDef op_view = {MICA_OP_view, "view", 1,          1,           sizeof(mica_view_args),
                       kOpView,      -1,     infer_view, view_offset, nullptr};
const OpDef op_reshape = {
    MICA_OP_reshape, "reshape", 1,      1, sizeof(mica_reshape_args), kOpView, -1,
    infer_reshape,   nullptr,   nullptr};
const OpDef op_permute = {
    MICA_OP_permute, "permute", 1,      1, sizeof(mica_permute_args), kOpView, -1,
    infer_permute,   nullptr,   nullptr};

}  // namespace mica

mica_tensor mica_view(mica_graph* graph, mica_tensor x, uint32_t rank, const int64_t* dim,
                      const int64_t* start) {
  mica_view_args args = {rank, {1, 1, 1, 1}, {0, 0, 0, 0}};
  if (!mica::narrow_dims(graph, "view", rank, dim, args.dim)) return MICA_NO_TENSOR;
  if (start != nullptr && !mica::narrow(graph, "view", "start", 4, start, 0, args.start)) {
    return MICA_NO_TENSOR;
  }
  return mica::append(graph, mica::op_view, &x, 1, &args, sizeof args);
}

mica_tensor mica_reshape(mica_graph* graph, mica_tensor x, uint32_t rank, const int64_t* dim) {
  mica_reshape_args args = {rank, {1, 1, 1, 1}};
  if (!mica::narrow_dims(graph, "reshape", rank, dim, args.dim)) return MICA_NO_TENSOR;
  return mica::append(graph, mica::op_reshape, &x, 1, &args, sizeof args);
}

mica_tensor mica_permute(mica_graph* graph, mica_tensor x, uint32_t a0, uint32_t a1, uint32_t a2,
                         uint32_t a3) {
  const mica_permute_args args = {{a0, a1, a2, a3}};
  return mica::append(graph, mica::op_permute, &x, 1, &args, sizeof args);
}

mica_tensor mica_transpose(mica_graph* graph, mica_tensor x) {
  return mica_permute(graph, x, 1, 0, 2, 3);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

// A view is seen through an op that reads it: scale by 1 writes it packed.
void out(CaseBuilder& b, mica_tensor x) { b.output(mica_scale(b.graph(), x, 1, 0)); }

void add_views(CaseList& list) {
  list.add("view", "f32.slice", [](CaseBuilder& b) {
    const int64_t dim[] = {5, 3, 2, 2}, start[] = {4, 1, 3, 1};
    out(b, mica_view(b.graph(), b.input("x", MICA_F32, {10, 4, 5, 3}), 4, dim, start));
  });
  list.add("view", "f16.cut_rank", [](CaseBuilder& b) {
    const int64_t dim[] = {7}, start[] = {2, 3, 1, 0};
    out(b, mica_view(b.graph(), b.input("x", MICA_F16, {10, 4, 5}), 1, dim, start));
  });
  list.add("view", "f32.no_start", [](CaseBuilder& b) {
    const int64_t dim[] = {9, 2};
    out(b, mica_view(b.graph(), b.input("x", MICA_F32, {10, 4}), 2, dim, nullptr));
  });
  // Q, K and V of one product, as heads.
  list.add("view", "f32.qkv.live3of6", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 6, 3);
    const mica_tensor qkv =
        mica_scale(b.graph(), b.input("x", MICA_F32, {96, 6}, normal(), extent), 2, 0);
    const int64_t heads[] = {8, 4, 6};
    for (int64_t i = 0; i < 3; ++i) {
      const int64_t dim[] = {32, 6}, start[] = {32 * i, 0, 0, 0};
      const mica_tensor part = mica_view(b.graph(), qkv, 2, dim, start);
      out(b, mica_reshape(b.graph(), part, 3, heads));
    }
  });
  list.add("view", "of_view", [](CaseBuilder& b) {
    const int64_t dim1[] = {8, 5, 2}, start1[] = {1, 2, 1, 0};
    const int64_t dim2[] = {3, 2}, start2[] = {4, 1, 1, 0};
    const mica_tensor x = b.input("x", MICA_F32, {10, 9, 4});
    out(b, mica_view(b.graph(), mica_view(b.graph(), x, 3, dim1, start1), 2, dim2, start2));
  });
}

void add_reshapes(CaseList& list) {
  list.add("reshape", "f32.split", [](CaseBuilder& b) {
    const int64_t dim[] = {4, 3, 5};
    out(b, mica_reshape(b.graph(), b.input("x", MICA_F32, {12, 5}), 3, dim));
  });
  list.add("reshape", "bf16.merge", [](CaseBuilder& b) {
    const int64_t dim[] = {60};
    out(b, mica_reshape(b.graph(), b.input("x", MICA_BF16, {3, 4, 5}), 1, dim));
  });
  list.add("reshape", "f32.ones.live2of5", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 5, 2);
    const int64_t dim[] = {6, 1, 2, 5};
    out(b, mica_reshape(b.graph(), b.input("x", MICA_F32, {12, 5}, normal(), extent), 4, dim));
  });
  list.add("reshape", "f32.regroup", [](CaseBuilder& b) {
    const int64_t dim[] = {10, 6};
    out(b, mica_reshape(b.graph(), b.input("x", MICA_F32, {4, 15}), 2, dim));
  });
}

void add_permutes(CaseList& list) {
  const uint32_t orders[][4] = {
      {1, 0, 2, 3}, {0, 2, 1, 3}, {2, 1, 0, 3}, {3, 2, 1, 0}, {1, 2, 3, 0}};
  for (const auto& a : orders) {
    const uint32_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
    std::string name = "f32.";
    for (const uint32_t axis : a) name += std::to_string(axis);
    list.add("permute", name, [=](CaseBuilder& b) {
      out(b, mica_permute(b.graph(), b.input("x", MICA_F32, {5, 4, 3, 2}), a0, a1, a2, a3));
    });
  }
  list.add("permute", "f16.0213.live3of4", [](CaseBuilder& b) {
    const mica_extent extent = b.extent("n_tokens", 4, 3);
    const mica_tensor x = b.input("x", MICA_F16, {6, 2, 3, 4}, normal(), extent);
    out(b, mica_permute(b.graph(), x, 0, 2, 1, 3));
  });
  list.add("permute", "f32.new_rank", [](CaseBuilder& b) {
    out(b, mica_permute(b.graph(), b.input("x", MICA_F32, {6, 5}), 0, 2, 1, 3));
  });
  list.add("permute", "f32.vector",
           [](CaseBuilder& b) { out(b, mica_transpose(b.graph(), b.input("x", MICA_F32, {6}))); });
}

}  // namespace

void cases_view(CaseList& list) {
  add_views(list);
  add_reshapes(list);
  add_permutes(list);
}

}  // namespace mica::conformance
#endif
