// Validation and shape inference of ops, called directly: sentences, shapes, extents, strides.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/graph/op.h"
#include "ops/concat_args.h"
#include "ops/copy_args.h"
#include "ops/norm_args.h"
#include "ops/softmax_args.h"
#include "ops/unary_args.h"
#include "ops/view_args.h"

namespace mica {
namespace {

Desc tensor(mica_dtype dtype, std::vector<int64_t> dim, uint32_t extent = kNoExtent) {
  return make_desc(dtype, static_cast<uint32_t>(dim.size()), dim.data(), extent);
}
Desc f32(std::vector<int64_t> dim, uint32_t extent = kNoExtent) {
  return tensor(MICA_F32, std::move(dim), extent);
}
const Desc kAbsent = Desc{};

// dim[0] and dim[1] swapped in memory: rows are not contiguous.
Desc transposed(Desc x) {
  std::swap(x.dim[0], x.dim[1]);
  std::swap(x.stride[0], x.stride[1]);
  return x;
}

struct Outcome {
  mica_status status;
  std::string text;
  Desc out;
};

Outcome infer(const OpDef& op, const std::vector<Desc>& in, const void* args = nullptr) {
  Error error;
  Outcome outcome{};
  const InferCall call{in.data(), static_cast<uint32_t>(in.size()), args, outcome.out, error};
  outcome.status = op.infer(call);
  outcome.text = error.text();
  return outcome;
}

void expect_error(const Outcome& outcome, const std::string& text) {
  EXPECT_EQ(outcome.status, MICA_INVALID_ARGUMENT);
  EXPECT_EQ(outcome.text, text);
}

void expect_shape(const Outcome& outcome, mica_dtype dtype, const std::vector<int64_t>& dim,
                  uint32_t extent = kNoExtent) {
  ASSERT_EQ(outcome.status, MICA_OK) << outcome.text;
  EXPECT_EQ(outcome.out.dtype, dtype);
  ASSERT_EQ(outcome.out.rank, dim.size());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(outcome.out.dim[i], i < dim.size() ? dim[i] : 1) << "dim[" << i << "]";
  }
  EXPECT_EQ(outcome.out.extent, extent);
}

// --- matmul -------------------------------------------------------------------------------------

TEST(InferMatmul, Shapes) {
  expect_shape(infer(op_matmul, {tensor(MICA_Q4_0, {64, 5}), f32({64})}), MICA_F32, {5});
  expect_shape(infer(op_matmul, {tensor(MICA_Q4_K, {256, 5}), f32({256, 7}, 3)}), MICA_F32, {5, 7},
               3);
  expect_shape(infer(op_matmul, {f32({8, 5, 2}), tensor(MICA_BF16, {8, 3, 6, 4}, 1)}), MICA_F32,
               {5, 3, 6, 4}, 1);
  EXPECT_TRUE(infer(op_matmul, {f32({8, 5}), f32({8, 3})}).out.contiguous());
}

TEST(InferMatmul, Errors) {
  expect_error(infer(op_matmul, {f32({64, 5}), f32({32, 7})}),
               "w [64, 5] has rows of 64 elements, x [32, 7] of 32");
  expect_error(infer(op_matmul, {tensor(MICA_I32, {64, 5}), f32({64})}),
               "w is i32, not a float or quantized type");
  expect_error(infer(op_matmul, {f32({64, 5}), tensor(MICA_Q8_0, {64, 2})}),
               "x is q8_0, not f32, f16 or bf16");
  expect_error(infer(op_matmul, {f32({64, 5, 2}), f32({64, 5, 3})}),
               "dim[2] of x is 3, not a multiple of w's 2");
  expect_error(infer(op_matmul, {f32({64, 5, 1, 2}), f32({64, 5})}),
               "dim[3] of x is 1, not a multiple of w's 2");
  expect_error(infer(op_matmul, {f32({64, 5}, 1), f32({64, 5})}),
               "w [64, 5] has an extent, only x may have one");
  expect_error(infer(op_matmul, {f32({64, 5}), f32({64}, 1)}),
               "x has rank 1 and an extent (maximum 64): its rows have no fixed length");
  expect_error(infer(op_matmul, {transposed(f32({5, 64})), f32({64})}),
               "w has elements 20 bytes apart, its rows are not contiguous: mica_copy it first");
  expect_error(infer(op_matmul, {f32({1, int64_t{1} << 40}), f32({1, int64_t{1} << 40})}),
               "the result: the size does not fit in 63 bits");
}

// --- rows ---------------------------------------------------------------------------------------

TEST(InferRows, GetRows) {
  expect_shape(infer(op_get_rows, {tensor(MICA_Q6_K, {256, 9}), tensor(MICA_I32, {5}, 2)}),
               MICA_F32, {256, 5}, 2);
  expect_shape(infer(op_get_rows, {f32({16, 9}, 1), tensor(MICA_I32, {5}, 2)}), MICA_F32, {16, 5},
               2);
  expect_error(infer(op_get_rows, {f32({16, 9}), tensor(MICA_I64, {5})}), "ids are i64, not i32");
  expect_error(infer(op_get_rows, {f32({16, 9, 2}), tensor(MICA_I32, {5})}),
               "table [16, 9, 2] has rank 3, more than 2");
  expect_error(infer(op_get_rows, {f32({16, 9}), tensor(MICA_I32, {5, 2})}),
               "ids [5, 2] has rank 2, more than 1");
}

TEST(InferRows, SetRows) {
  const Desc dst = tensor(MICA_Q4_0, {64, 9});
  const Desc ids = tensor(MICA_I32, {5}, 2);
  expect_shape(infer(op_set_rows, {dst, f32({64, 5}, 2), ids}), MICA_Q4_0, {64, 9});
  expect_error(infer(op_set_rows, {dst, f32({32, 5}, 2), ids}),
               "src has rows of 32 elements, dst of 64");
  expect_error(infer(op_set_rows, {dst, f32({64, 4}), ids}), "src has 4 rows, ids has 5");
  expect_error(infer(op_set_rows, {dst, f32({64, 5}), ids}),
               "src [64, 5] and ids [5] do not have the same extent");
  expect_error(infer(op_set_rows, {f32({64, 9}, 1), f32({64, 5}, 2), ids}),
               "dst [64, 9] has an extent: rows may be written beyond it");
  expect_error(infer(op_set_rows, {tensor(MICA_I32, {64, 9}), f32({64, 5}, 2), ids}),
               "dst is i32, not a float or quantized type");
  expect_error(infer(op_set_rows, {dst, f32({64, 5}, 2), tensor(MICA_F16, {5}, 2)}),
               "ids are f16, not i32 or i64");
}

// --- copy, concat -------------------------------------------------------------------------------

TEST(InferCopy, Dtypes) {
  mica_copy_args args{MICA_Q8_0};
  expect_shape(infer(op_copy, {f32({64, 3}, 4)}, &args), MICA_Q8_0, {64, 3}, 4);
  expect_error(infer(op_copy, {tensor(MICA_F16, {64, 3})}, &args),
               "x is f16, only f32 can become q8_0");
  expect_error(infer(op_copy, {tensor(MICA_Q4_0, {64, 3})}, &args),
               "x is q4_0, which can become f32 but not q8_0");
  expect_error(infer(op_copy, {f32({48, 3})}, &args),
               "the result: dim[0] is 48, not a multiple of 32, the block of q8_0");
  args.dtype = 77;
  expect_error(infer(op_copy, {f32({48, 3})}, &args), "there is no dtype 77");
  args.dtype = MICA_F16;
  const Outcome packed = infer(op_copy, {transposed(f32({5, 3}))}, &args);
  expect_shape(packed, MICA_F16, {3, 5});
  EXPECT_TRUE(packed.out.contiguous());
}

TEST(InferConcat, ShapesAndErrors) {
  mica_concat_args args{1};
  expect_shape(infer(op_concat, {f32({4, 2, 6}, 1), f32({4, 3, 6}, 1)}, &args), MICA_F32, {4, 5, 6},
               1);
  expect_shape(infer(op_concat, {f32({4}), f32({4})}, &args), MICA_F32, {4, 2});
  expect_error(infer(op_concat, {f32({4, 2}), f32({5, 2})}, &args),
               "a [4, 2] and b [5, 2] cannot be joined along dim[1]: dim[0] differs");
  expect_error(infer(op_concat, {f32({4, 2}, 1), f32({4, 2}, 1)}, &args),
               "dim[1] is an extent: nothing can be joined along dim[1]");
  expect_error(infer(op_concat, {f32({4, 2, 6}, 1), f32({4, 2, 6})}, &args),
               "a [4, 2, 6] and b [4, 2, 6] do not have the same extent");
  expect_error(infer(op_concat, {f32({4}), tensor(MICA_F16, {4})}, &args), "a is f32, b is f16");
  args.dim = 4;
  expect_error(infer(op_concat, {f32({4}), f32({4})}, &args), "dim is 4, not 0 to 3");
}

// --- binary, unary, norms, softmax
// ----------------------------------------------------------------

TEST(InferBinary, BroadcastAndExtents) {
  expect_shape(infer(op_add, {tensor(MICA_F16, {8, 3, 5}, 2), f32({8})}), MICA_F16, {8, 3, 5}, 2);
  expect_shape(infer(op_mul, {f32({8, 3, 5}, 2), f32({1, 3, 5}, 2)}), MICA_F32, {8, 3, 5}, 2);
  expect_shape(infer(op_mul, {f32({8, 1}, 2), f32({8})}), MICA_F32, {8, 1}, 2);
  expect_error(infer(op_add, {f32({8, 3}), f32({4})}),
               "b [4] does not repeat over a [8, 3]: dim[0] is 4, a's is 8");
  expect_error(infer(op_add, {f32({8}), f32({8, 3})}),
               "b [8, 3] does not repeat over a [8]: dim[1] is 3, a's is 1");
  expect_error(infer(op_sub, {f32({8, 3}, 1), f32({8, 3})}),
               "dim[1] of a is an extent, of b a fixed 3");
  expect_error(infer(op_sub, {f32({8, 3}), f32({8, 3}, 1)}),
               "dim[1] of b is an extent, a [8, 3] has none");
  expect_error(infer(op_sub, {f32({8, 3}, 2), f32({8, 3}, 1)}),
               "dim[1] of b is an extent, a [8, 3] has another or has it elsewhere");
  expect_error(infer(op_div, {f32({8}), tensor(MICA_I32, {8})}), "b is i32, not f32, f16 or bf16");
}

TEST(InferUnary, Errors) {
  expect_error(infer(op_silu, {tensor(MICA_Q8_0, {32})}), "x is q8_0, not f32, f16 or bf16");
  const mica_scale_args args{1, HUGE_VALF};
  expect_error(infer(op_scale, {f32({4})}, &args), "bias is not finite");
  const Outcome packed = infer(op_gelu, {transposed(f32({5, 3}))});
  EXPECT_TRUE(packed.out.contiguous());
  expect_shape(packed, MICA_F32, {3, 5});
}

TEST(InferNorm, Errors) {
  mica_layer_norm_args args{1e-5f};
  expect_shape(infer(op_layer_norm, {f32({8, 3}, 1), kAbsent, tensor(MICA_F16, {8})}, &args),
               MICA_F32, {8, 3}, 1);
  expect_error(infer(op_layer_norm, {f32({8, 3}), f32({7}), kAbsent}, &args),
               "weight is [7], rows of x have 8 elements");
  expect_error(infer(op_layer_norm, {f32({8, 3}), kAbsent, f32({8, 3})}, &args),
               "bias is [8, 3], rows of x have 8 elements");
  expect_error(infer(op_rms_norm, {f32({8}, 1), kAbsent}, &args),
               "x has rank 1 and an extent (maximum 8): its rows have no fixed length");
  args.eps = -1;
  expect_error(infer(op_rms_norm, {f32({8}), kAbsent}, &args), "eps is negative");
  args.eps = NAN;
  expect_error(infer(op_rms_norm, {f32({8}), kAbsent}, &args), "eps is not finite");
}

TEST(InferSoftmax, Mask) {
  const mica_softmax_args args{1};
  expect_shape(infer(op_softmax, {f32({8, 3, 4}, 1), tensor(MICA_F16, {8, 1, 4}, 1)}, &args),
               MICA_F32, {8, 3, 4}, 1);
  expect_error(infer(op_softmax, {f32({8, 3}), f32({1, 3})}, &args),
               "mask has rows of 1 elements, x of 8");
  expect_error(infer(op_softmax, {f32({8, 3}), f32({8, 2})}, &args),
               "mask [8, 2] does not repeat over x [8, 3]: dim[1] is 2, x's is 3");
}

// --- views --------------------------------------------------------------------------------------

TEST(InferView, Errors) {
  mica_view_args args{2, {4, 2, 1, 1}, {5, 0, 0, 0}};
  expect_error(infer(op_view, {f32({8, 3})}, &args),
               "elements 5 to 8 of dim[0] are not all in x [8, 3]");
  args = {1, {4, 1, 1, 1}, {0, 3, 0, 0}};
  expect_error(infer(op_view, {f32({8, 3})}, &args),
               "elements 3 to 3 of dim[1] are not all in x [8, 3]");
  args = {2, {8, 2, 1, 1}, {0, 0, 0, 0}};
  expect_error(infer(op_view, {f32({8, 3}, 1)}, &args),
               "dim[1] of x [8, 3] is an extent: it can only be taken whole, with rank 2");
  args = {2, {48, 3, 1, 1}, {0, 0, 0, 0}};
  expect_error(infer(op_view, {tensor(MICA_Q8_0, {64, 3})}, &args),
               "dim[0] is 48, not a multiple of 32, the block of q8_0");
  args = {2, {32, 3, 1, 1}, {16, 0, 0, 0}};
  expect_error(infer(op_view, {tensor(MICA_Q8_0, {64, 3})}, &args),
               "start[0] is 16, not a multiple of 32, the block of q8_0");
  args = {5, {1, 1, 1, 1}, {0, 0, 0, 0}};
  expect_error(infer(op_view, {f32({8, 3})}, &args), "rank is 5, not 1 to 4");
  args = {2, {8, 0, 1, 1}, {0, 0, 0, 0}};
  expect_error(infer(op_view, {f32({8, 3})}, &args), "dim[1] is 0, less than 1");
}

TEST(InferView, QuantizedOffset) {
  const mica_view_args args{2, {32, 2, 1, 1}, {64, 1, 0, 0}};
  const std::vector<Desc> in = {tensor(MICA_Q4_0, {128, 3})};
  Error error;
  Desc out;
  const InferCall call{in.data(), 1, &args, out, error};
  ASSERT_EQ(op_view.infer(call), MICA_OK);
  EXPECT_EQ(op_view.view_offset(call), 4 * 18 + 2 * 18);
  EXPECT_EQ(out.stride[1], 4 * 18);
}

TEST(InferReshape, Errors) {
  mica_reshape_args args{2, {6, 5, 1, 1}};
  expect_error(infer(op_reshape, {f32({8, 3})}, &args),
               "x [8, 3] and [6, 5] do not have the same number of elements");
  args = {2, {12, 2, 1, 1}};
  expect_error(
      infer(op_reshape, {f32({8, 3}, 1)}, &args),
      "dim[1] of x [8, 3] is an extent and must stay the last dimension, the result is [12, 2]");
  expect_error(infer(op_reshape, {transposed(f32({8, 3}))}, &args),
               "x [3, 8] is not packed enough in memory to become [12, 2]: mica_copy it first");
  args = {4, {UINT32_MAX, UINT32_MAX, UINT32_MAX, 1}};
  EXPECT_EQ(infer(op_reshape, {f32({8, 3})}, &args).status, MICA_INVALID_ARGUMENT);
  args = {3, {4, 2, 3, 1}};
  expect_shape(infer(op_reshape, {f32({8, 3}, 1)}, &args), MICA_F32, {4, 2, 3}, 1);
  args = {2, {16, 12, 1, 1}};
  expect_error(infer(op_reshape, {tensor(MICA_Q8_0, {64, 3})}, &args),
               "dim[0] is 16, not a multiple of 32, the block of q8_0");
}

TEST(InferPermute, Errors) {
  mica_permute_args args{{0, 2, 1, 3}};
  expect_shape(infer(op_permute, {f32({8, 3}, 1)}, &args), MICA_F32, {8, 1, 3}, 1);
  expect_error(infer(op_permute, {f32({8, 3, 2}, 1)}, &args),
               "dim[2] of x [8, 3, 2] is an extent and must stay the last dimension");
  args = {{1, 0, 2, 3}};
  expect_shape(infer(op_permute, {f32({8})}, &args), MICA_F32, {1, 8});
  expect_error(infer(op_permute, {tensor(MICA_Q4_0, {32, 2})}, &args),
               "x is q4_0, whose blocks lie along dim[0]: it must stay dim[0]");
  args = {{0, 1, 1, 3}};
  expect_error(infer(op_permute, {f32({8, 3})}, &args),
               "(0, 1, 1, 3) is not a permutation of 0 to 3");
}

// Byte offsets of all elements, in order.
std::vector<int64_t> offsets(const Desc& x) {
  std::vector<int64_t> list;
  for (int64_t i3 = 0; i3 < x.dim[3]; ++i3)
    for (int64_t i2 = 0; i2 < x.dim[2]; ++i2)
      for (int64_t i1 = 0; i1 < x.dim[1]; ++i1)
        for (int64_t i0 = 0; i0 < x.dim[0]; ++i0)
          list.push_back(i0 * x.stride[0] + i1 * x.stride[1] + i2 * x.stride[2] + i3 * x.stride[3]);
  return list;
}

// Whether any strides make dimensions `dim` give these offsets.
bool expressible(const std::vector<int64_t>& wanted, const uint32_t (&dim)[4]) {
  Desc candidate;
  candidate.rank = 4;
  int64_t step = 1;
  for (uint32_t i = 0; i < 4; ++i) {
    candidate.dim[i] = dim[i];
    candidate.stride[i] = dim[i] > 1 ? wanted[static_cast<size_t>(step)] : 0;
    step *= dim[i];
  }
  return offsets(candidate) == wanted;
}

// Random permuted slices and random new shapes: reshape says yes exactly when it can be done, and
// then keeps every element in its place.
TEST(InferReshape, AgreesWithBruteForce) {
  std::mt19937 random(7);
  const uint32_t factors[] = {1, 1, 2, 2, 3};
  int possible = 0, impossible = 0;
  for (int i_try = 0; i_try < 4000; ++i_try) {
    int64_t dim[4] = {1, 1, 1, 1};
    mica_reshape_args args{4, {1, 1, 1, 1}};
    for (int i = 0; i < 5; ++i) {
      const uint32_t factor = factors[random() % 5];
      dim[random() % 4] *= factor;
      args.dim[random() % 4] *= factor;
    }
    int64_t whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = dim[i] + (random() % 3 == 0 ? 1 : 0);
    Desc x = make_desc(MICA_F32, 4, whole);
    std::memcpy(x.dim, dim, sizeof dim);
    for (uint32_t i = 3; i > 0 && random() % 2 == 0; --i) {
      const uint32_t j = static_cast<uint32_t>(random() % (i + 1));
      std::swap(x.dim[i], x.dim[j]);
      std::swap(x.stride[i], x.stride[j]);
    }
    const std::vector<int64_t> wanted = offsets(x);
    const Outcome outcome = infer(op_reshape, {x}, &args);
    const bool can = expressible(wanted, args.dim);
    ASSERT_EQ(outcome.status == MICA_OK, can) << outcome.text;
    if (can) {
      ASSERT_EQ(offsets(outcome.out), wanted);
    }
    (can ? possible : impossible) += 1;
  }
  EXPECT_GT(possible, 500);
  EXPECT_GT(impossible, 500);
}

}  // namespace
}  // namespace mica
