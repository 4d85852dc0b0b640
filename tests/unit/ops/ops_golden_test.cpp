// References of ops against vectors made with NumPy (tests/golden/make_ops.py), called directly.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/graph/op.h"

namespace mica {
namespace {

using nlohmann::json;
using Bytes = std::vector<unsigned char>;

Bytes from_hex(const std::string& text) {
  Bytes bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<unsigned char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

// A tensor of a case, with the bytes it lies in.
struct Stored {
  Bytes bytes;
  HostTensor tensor;
};

Stored read_tensor(const json& j) {
  Stored stored;
  if (j.is_null()) return stored;
  stored.bytes = from_hex(j.at("data"));
  int64_t dim[4] = {1, 1, 1, 1};
  const auto rank = static_cast<uint32_t>(j.at("dim").size());
  for (uint32_t i = 0; i < rank; ++i) dim[i] = j.at("dim")[i];
  const mica_dtype_info* info = mica_dtype_find(j.at("dtype").get<std::string>().c_str());
  Desc desc = make_desc(info->dtype, rank, dim);
  if (j.contains("stride")) {
    for (uint32_t i = 0; i < rank; ++i) desc.stride[i] = j.at("stride")[i];
  }
  HostTensor& t = stored.tensor;
  t.dtype = desc.dtype;
  std::memcpy(t.dim, desc.dim, sizeof t.dim);
  std::memcpy(t.stride, desc.stride, sizeof t.stride);
  t.data = stored.bytes.data() + j.value("offset", 0);
  return stored;
}

Bytes read_args(const json& list) {
  Bytes args(list.size() * 4 + 4);  // never empty
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].contains("f")) {
      const float value = list[i].at("f");
      std::memcpy(args.data() + 4 * i, &value, 4);
    } else {
      const uint32_t value = list[i].at("u");
      std::memcpy(args.data() + 4 * i, &value, 4);
    }
  }
  return args;
}

mica_numerics read_numerics(const std::string& name) {
  const std::map<std::string, mica_numerics> names = {{"f64", MICA_NUM_F64},
                                                      {"f16", MICA_NUM_F16},
                                                      {"bf16", MICA_NUM_BF16},
                                                      {"q8_32", MICA_NUM_Q8_32},
                                                      {"q8_256", MICA_NUM_Q8_256}};
  return names.at(name);
}

// Steps between two floats of a plain type of `bytes` bytes, 0 for two NaNs.
int64_t distance(const HostTensor& a, const HostTensor& b, int64_t i, size_t bytes) {
  uint32_t bits[2] = {0, 0};
  std::memcpy(&bits[0], static_cast<char*>(a.data) + static_cast<size_t>(i) * bytes, bytes);
  std::memcpy(&bits[1], static_cast<char*>(b.data) + static_cast<size_t>(i) * bytes, bytes);
  const uint32_t sign = bytes == 4 ? 0x80000000u : 0x8000u;
  int64_t place[2];
  for (int j = 0; j < 2; ++j) {
    place[j] = bits[j] & ~sign;
    if ((bits[j] & sign) != 0) place[j] = -place[j];
  }
  return std::abs(place[0] - place[1]);
}

void compare(const HostTensor& got, const HostTensor& want, size_t n_bytes, int64_t ulps) {
  const mica_dtype_info& info = *mica_dtype_get(want.dtype);
  if (info.is_quantized != 0 || want.dtype == MICA_I32 || want.dtype == MICA_I64) {
    EXPECT_EQ(std::memcmp(got.data, want.data, n_bytes), 0);
    return;
  }
  for (int64_t i = 0; i < want.elements(); ++i) {
    const int64_t i0 = i % want.dim[0], i_row = i / want.dim[0];
    const int64_t i1 = i_row % want.dim[1], i2 = i_row / want.dim[1] % want.dim[2];
    const int64_t i3 = i_row / want.dim[1] / want.dim[2];
    const double a = got.at(i0, i1, i2, i3), b = want.at(i0, i1, i2, i3);
    ASSERT_EQ(std::isnan(a), std::isnan(b)) << "element " << i << ": " << a << ", not " << b;
    if (std::isnan(b)) continue;
    ASSERT_LE(distance(got, want, i, info.block_bytes), ulps)
        << "element " << i << ": " << a << ", not " << b;
    ASSERT_EQ(std::signbit(a), std::signbit(b)) << "element " << i << ": " << a << ", not " << b;
  }
}

// What the conformance bounds rely on: no element is larger than the terms it is the sum of.
void check_terms(const HostTensor& out, const std::vector<double>& magnitude, double n_terms) {
  EXPECT_GE(n_terms, 1);
  if (out.dtype == MICA_I32 || out.dtype == MICA_I64) return;  // rounded by more than a share
  const int64_t n = out.dim[0];
  for (int64_t i = 0; i < out.elements(); ++i) {
    const int64_t i_row = i / n;
    const double value = out.at(i % n, i_row % out.dim[1], i_row / out.dim[1] % out.dim[2],
                                i_row / out.dim[1] / out.dim[2]);
    if (!std::isfinite(value)) continue;
    // 2^-8: the value is rounded to BF16 at the coarsest, the magnitude is not; 2^-24: to F16.
    ASSERT_GE(magnitude[static_cast<size_t>(i)] * (1 + 0x1p-8) + 0x1p-24, std::fabs(value))
        << "element " << i;
  }
}

void run_case(const OpDef& op, const json& j) {
  SCOPED_TRACE(std::string(op.name) + " " + j.at("name").get<std::string>());
  std::vector<Stored> inputs;
  for (const json& in : j.at("in")) inputs.push_back(read_tensor(in));
  const std::vector<Stored> before = inputs;
  std::vector<HostTensor> in;
  for (Stored& s : inputs) in.push_back(s.tensor);
  const Stored want = read_tensor(j.at("out"));
  Stored got = read_tensor(j.at("out"));
  std::memset(got.bytes.data(), 0xa5, got.bytes.size());
  const Bytes args = read_args(j.value("args", json::array()));

  RefCall call{};
  call.in = in.data();
  call.n_in = static_cast<uint32_t>(in.size());
  call.out = (op.flags & kOpState) != 0 ? in[0] : got.tensor;
  call.args = args.data();
  call.allocator = &default_allocator();
  call.numerics = read_numerics(j.value("numerics", "f64"));
  std::vector<double> magnitude(static_cast<size_t>(call.out.elements()),
                                std::nan(""));  // each is to be written
  double n_terms = 0;
  call.magnitude = magnitude.data();
  call.n_terms = &n_terms;
  ASSERT_EQ(op.reference(call), MICA_OK);
  compare(call.out, want.tensor, want.bytes.size(), j.value("ulps", 0));
  check_terms(call.out, magnitude, n_terms);
  for (size_t i = (op.flags & kOpState) != 0 ? 1 : 0; i < inputs.size(); ++i) {
    EXPECT_EQ(inputs[i].bytes, before[i].bytes) << "input " << i << " was changed";
  }
}

class OpsGolden : public testing::TestWithParam<const char*> {};

TEST_P(OpsGolden, ReferenceAgreesWithNumPy) {
  const std::string name = GetParam();
  std::ifstream file(std::string(MICA_GOLDEN_DIR) + "/ops/" + name + ".json");
  ASSERT_TRUE(file) << name;
  const json cases = json::parse(file);
  ASSERT_FALSE(cases.empty());
  const OpDef* op = nullptr;
  for (const OpDef* const* p = all_ops(); *p != nullptr; ++p) {
    if (name == (*p)->name) op = *p;
  }
  ASSERT_NE(op, nullptr);
  for (const json& j : cases) run_case(*op, j);
}

INSTANTIATE_TEST_SUITE_P(All, OpsGolden,
                         testing::Values("matmul", "get_rows", "set_rows", "copy", "concat", "add",
                                         "sub", "mul", "div", "scale", "silu", "gelu", "gelu_erf",
                                         "tanh", "relu", "sigmoid", "rms_norm", "layer_norm",
                                         "softmax"),
                         [](const auto& p) { return std::string(p.param); });

// A double between two F16 numbers, a hair above their middle: F32 in between would make it a tie.
TEST(HostTensor, RoundsOnce) {
  uint16_t half = 0;
  HostTensor t;
  t.data = &half;
  t.dtype = MICA_F16;
  t.stride[0] = 2;
  for (const double sign : {1.0, -1.0}) {
    t.set(sign * (1 + 0x1p-11 + 0x1p-40), 0);
    EXPECT_EQ(t.at(0), sign * (1 + 0x1p-10));
    t.set(sign * (1 + 0x1p-11), 0);
    EXPECT_EQ(t.at(0), sign);
    t.set(sign * (1 + 0x1p-11 - 0x1p-40), 0);
    EXPECT_EQ(t.at(0), sign);
    t.set(sign * (0x1p-25 + 0x1p-60), 0);
    EXPECT_EQ(t.at(0), sign * 0x1p-24);
    t.set(sign * 0x1p-25, 0);
    EXPECT_EQ(t.at(0), 0);
    t.set(sign * 65520 * (1 - 0x1p-40), 0);
    EXPECT_EQ(t.at(0), sign * 65504);
    t.set(sign * 1e300, 0);
    EXPECT_EQ(t.at(0), sign * HUGE_VAL);
  }
  t.dtype = MICA_BF16;
  t.set(1 + 0x1p-8 + 0x1p-50, 0);
  EXPECT_EQ(t.at(0), 1 + 0x1p-7);
  t.set(0x1p-134 + 0x1p-160, 0);
  EXPECT_EQ(t.at(0), 0x1p-133);
}

TEST(HostTensor, IntegersSaturate) {
  int64_t value = 0;
  HostTensor t;
  t.data = &value;
  t.dtype = MICA_I64;
  t.stride[0] = 8;
  t.set(1e30, 0);
  EXPECT_EQ(t.int_at(0), INT64_MAX);
  t.set(-1e30, 0);
  EXPECT_EQ(t.int_at(0), INT64_MIN);
  t.set(std::nan(""), 0);
  EXPECT_EQ(t.int_at(0), 0);
  t.set(-2.5, 0);
  EXPECT_EQ(t.int_at(0), -2);
  t.dtype = MICA_I32;
  t.set(2147483647.5, 0);
  EXPECT_EQ(t.int_at(0), INT32_MAX);
}

TEST(Ops, TableIsConsistent) {
  size_t n = 0;
  for (const OpDef* const* p = all_ops(); *p != nullptr; ++p, ++n) {
    const OpDef& op = **p;
    EXPECT_EQ(find_op(op.id), &op);
    EXPECT_LE(op.n_required, op.n_inputs) << op.name;
    EXPECT_LE(op.n_inputs, static_cast<uint32_t>(MICA_B_MAX_INPUTS)) << op.name;
    EXPECT_LT(op.inplace, static_cast<int32_t>(op.n_inputs)) << op.name;
    EXPECT_EQ(op.reference == nullptr, (op.flags & kOpView) != 0) << op.name;
    EXPECT_NE(op.infer, nullptr) << op.name;
  }
  EXPECT_GE(n, 28u);
  EXPECT_EQ(find_op(0), nullptr);
  EXPECT_EQ(find_op(12345), nullptr);
}

}  // namespace
}  // namespace mica
