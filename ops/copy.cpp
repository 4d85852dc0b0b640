// copy: values packed, in the same or another dtype.
#include "ops/copy.h"

#include "ops/copy_args.h"

#ifndef MICA_CASES
#include "ops/common.h"

namespace mica {
namespace {

mica_status infer(const InferCall& call) {
  const Desc& x = call.in[0];
  const uint32_t wanted = static_cast<const mica_copy_args*>(call.args)->dtype;
  const DtypeDef* to = find_dtype(wanted);
  if (to == nullptr) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "there is no dtype ", wanted);
  }
  const bool same = to->info.dtype == x.dtype;
  if (is_quantized(x.dtype) && !same && to->info.dtype != MICA_F32) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is ", dtype_name(x.dtype),
                           ", which can become f32 but not ", to->info.name);
  }
  if (to->info.is_quantized != 0 && !same && x.dtype != MICA_F32) {
    return call.error.fail(MICA_INVALID_ARGUMENT, "x is ", dtype_name(x.dtype),
                           ", only f32 can become ", to->info.name);
  }
  if (is_quantized(x.dtype)) MICA_TRY(need_contiguous_rows(call, "x", x));
  return pack_output(call, to->info.dtype, x.rank, x.dim, x.extent);
}

// Bit by bit: element for element, or block for block.
void move_row(const HostTensor& x, const HostTensor& out, int64_t i1, int64_t i2, int64_t i3) {
  const mica_dtype_info& info = dtype_info(x.dtype);
  const char* src = x.row(i1, i2, i3);
  char* dst = const_cast<char*>(out.row(i1, i2, i3));
  for (int64_t i = 0; i < x.dim[0] / info.block_elems; ++i) {
    __builtin_memcpy(dst + i * out.stride[0], src + i * x.stride[0], info.block_bytes);
  }
}

// Between I64 and floats a double in between would round a second time, unless it rounds to odd:
// towards zero, with its last bit set when that is not exact.
double odd_double(int64_t value) {
  double d = static_cast<double>(value);
  const bool overflow = d >= 0x1p63;
  if (!overflow && static_cast<int64_t>(d) == value) return d;
  const bool away =
      overflow || (value > 0 ? static_cast<int64_t>(d) > value : static_cast<int64_t>(d) < value);
  uint64_t bits;
  __builtin_memcpy(&bits, &d, sizeof bits);
  bits = (away ? bits - 1 : bits) | 1u;
  __builtin_memcpy(&d, &bits, sizeof d);
  return d;
}

mica_status reference(const RefCall& call) {
  const HostTensor& x = call.in[0];
  const int64_t n = x.dim[0];
  Vec<double> row(*call.allocator);
  if (!row.resize(static_cast<size_t>(n))) return MICA_OUT_OF_MEMORY;
  for_each_row(x, [&](int64_t i1, int64_t i2, int64_t i3, int64_t i_row) {
    if (x.dtype == MICA_I64) {
      for (int64_t i = 0; i < n; ++i) {
        row[static_cast<size_t>(i)] = odd_double(x.int_at(i, i1, i2, i3));
      }
    } else {
      x.read_row(row.data(), i1, i2, i3);
    }
    if (x.dtype == call.out.dtype) {
      move_row(x, call.out, i1, i2, i3);
    } else {
      call.out.write_row(row.data(), i1, i2, i3);
    }
    for (int64_t i = 0; call.magnitude != nullptr && i < n; ++i) {
      call.magnitude[i_row * n + i] = __builtin_fabs(row[static_cast<size_t>(i)]);
    }
  });
  set_terms(call, 1);
  return MICA_OK;
}

}  // namespace

const OpDef op_copy = {MICA_OP_copy, "copy", 1,     1,       sizeof(mica_copy_args),
                       kOpPlain,     -1,     infer, nullptr, reference};

}  // namespace mica

mica_tensor mica_cast(mica_graph* graph, mica_tensor x, mica_dtype dtype) {
  const mica_copy_args args = {static_cast<uint32_t>(dtype)};
  return mica::append(graph, mica::op_copy, &x, 1, &args, sizeof args);
}

mica_tensor mica_copy(mica_graph* graph, mica_tensor x) {
  mica_tensor_info info = {};
  // When x is no tensor of this graph, append says so.
  if (mica_graph_tensor_info(graph, x, &info) != MICA_OK) info.dtype = MICA_F32;
  return mica_cast(graph, x, info.dtype);
}

#else
#include "tests/conformance/case.h"

namespace mica::conformance {
namespace {

constexpr mica_dtype kPlain[] = {MICA_F32, MICA_F16, MICA_BF16, MICA_I32, MICA_I64};
constexpr mica_dtype kQuantized[] = {MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1,
                                     MICA_Q8_0, MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};

std::string type_name(mica_dtype dtype) { return mica_dtype_get(dtype)->name; }

void add_plain(CaseList& list) {
  for (const mica_dtype from : kPlain) {
    for (const mica_dtype to : kPlain) {
      const std::string name = type_name(from) + "." + type_name(to);
      // Small enough for all types; not whole numbers where the source has others.
      const Values values =
          from == MICA_I32 || from == MICA_I64 ? integers(-2000, 2000) : normal(50);
      list.add("copy", name, [=](CaseBuilder& b) {
        const mica_tensor x = b.input("x", from, {37, 5, 2}, values);
        b.output(mica_cast(b.graph(), x, to));
      });
      list.add("copy", name + ".permuted", [=](CaseBuilder& b) {
        const mica_tensor x = b.input("x", from, {12, 5, 3, 2}, values);
        b.output(mica_cast(b.graph(), mica_permute(b.graph(), x, 2, 0, 3, 1), to));
      });
    }
    list.add("copy", type_name(from) + ".slice.live2of4", [=](CaseBuilder& b) {
      const int64_t dim[] = {7, 2, 4}, start[] = {3, 1, 0, 0};
      const mica_extent extent = b.extent("n_tokens", 4, 2);
      const mica_tensor x = b.input("x", from, {12, 5, 4}, integers(-9, 9), extent);
      b.output(mica_copy(b.graph(), mica_view(b.graph(), x, 3, dim, start)));
    });
    list.add("copy", type_name(from) + ".transposed", [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", from, {65, 33}, integers(-99, 99));
      b.output(mica_copy(b.graph(), mica_transpose(b.graph(), x)));
    });
  }
}

void add_quantized(CaseList& list) {
  for (const mica_dtype type : kQuantized) {
    list.add("copy", "f32." + type_name(type), [=](CaseBuilder& b) {
      const mica_tensor x = b.input("x", MICA_F32, {512, 7});
      b.output(mica_cast(b.graph(), mica_cast(b.graph(), x, type), MICA_F32));
    });
    list.add("copy", "f32." + type_name(type) + ".permuted.live3of5", [=](CaseBuilder& b) {
      const mica_extent extent = b.extent("n_tokens", 5, 3);
      const mica_tensor x = b.input("x", MICA_F32, {256, 2, 3, 5}, normal(), extent);
      const mica_tensor swapped = mica_permute(b.graph(), x, 0, 2, 1, 3);
      b.output(mica_cast(b.graph(), mica_cast(b.graph(), swapped, type), MICA_F32));
    });
  }
  // Weights lie as the backend likes.
  for (const mica_dtype type : kQuantized) {
    list.add("copy", "weight." + type_name(type), [=](CaseBuilder& b) {
      const mica_tensor w = b.weight("w", type, {768, 19, 3});
      b.output(mica_cast(b.graph(), w, MICA_F32));
      b.output(mica_cast(b.graph(), mica_copy(b.graph(), w), MICA_F32));
    });
  }
  list.add("copy", "q8_0.slice", [](CaseBuilder& b) {
    const int64_t dim[] = {64, 3}, start[] = {32, 1, 0, 0};
    const mica_tensor x = mica_cast(b.graph(), b.input("x", MICA_F32, {128, 6}), MICA_Q8_0);
    const mica_tensor packed = mica_copy(b.graph(), mica_view(b.graph(), x, 2, dim, start));
    b.output(mica_cast(b.graph(), packed, MICA_F32));
  });
}

// Ties, limits, subnormals and what is not finite.
void add_special(CaseList& list) {
  const double inf = __builtin_inf();
  const Values values = mica::conformance::list({0,
                                                 -0.0,
                                                 1,
                                                 -1,
                                                 2049,
                                                 2051,
                                                 -2049,
                                                 4097,
                                                 65504,
                                                 65519,
                                                 65520,
                                                 1e30,
                                                 -1e30,
                                                 inf,
                                                 -inf,
                                                 __builtin_nan(""),
                                                 6.1035156e-05,
                                                 6.0975552e-05,
                                                 5.9604645e-08,
                                                 2.9802322e-08,
                                                 2.9802326e-08,
                                                 1e-40,
                                                 -1e-45,
                                                 3.3895314e38,
                                                 3.3961775e38,
                                                 1.00390625,
                                                 1.01171875,
                                                 0.5,
                                                 1.5,
                                                 2.5,
                                                 -0.5,
                                                 -3.5});
  for (const mica_dtype from : {MICA_F32, MICA_F16, MICA_BF16}) {
    for (const mica_dtype to : kPlain) {
      list.add("copy", type_name(from) + "." + type_name(to) + ".special", [=](CaseBuilder& b) {
        b.output(mica_cast(b.graph(), b.input("x", from, {32, 2}, values), to));
      });
    }
  }
}

}  // namespace

void cases_copy(CaseList& list) {
  add_plain(list);
  add_quantized(list);
  add_special(list);
}

}  // namespace mica::conformance
#endif
