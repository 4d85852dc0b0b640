// attention, kv_append, rope, argmax, top_k and sample: references against vectors made with NumPy
// (tests/golden/make_ops2.py), and validation, called directly.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/vec.h"
#include "core/graph/graph.h"
#include "core/graph/op.h"
#include "mica/kv_cache.h"
#include "ops/attention/attention_args.h"
#include "ops/philox.h"
#include "ops/rope.h"
#include "ops/rope_args.h"
#include "ops/top_k_args.h"
#include "tests/unit/world.h"

namespace mica {
namespace {

using nlohmann::json;

double number(const json& j) {
  return j.is_string() ? std::stod(j.get<std::string>()) : j.get<double>();
}

// A tensor with its memory; rows are padded to whole blocks and lie `gap` bytes apart.
struct Stored {
  std::vector<char> bytes;
  HostTensor tensor;

  Stored() = default;
  Stored(mica_dtype dtype, const std::vector<int64_t>& dim, int64_t gap = 0) {
    const mica_dtype_info& info = *mica_dtype_get(dtype);
    tensor.dtype = dtype;
    for (size_t i = 0; i < dim.size(); ++i) tensor.dim[i] = dim[i];
    tensor.stride[0] = info.block_bytes;
    tensor.stride[1] = (dim[0] + info.block_elems - 1) / info.block_elems * info.block_bytes + gap;
    for (int i = 2; i < 4; ++i) tensor.stride[i] = tensor.stride[i - 1] * tensor.dim[i - 1];
    bytes.assign(static_cast<size_t>(tensor.stride[3] * tensor.dim[3]), '\x7f');
    tensor.data = bytes.data();
  }
  Stored(Stored&&) = default;
  Stored& operator=(Stored&&) = default;
  void set(int64_t i, double value) {  // in packed order
    const int64_t* d = tensor.dim;
    tensor.set(value, i % d[0], i / d[0] % d[1], i / d[0] / d[1] % d[2], i / d[0] / d[1] / d[2]);
  }
  double get(int64_t i) const {
    const int64_t* d = tensor.dim;
    return tensor.at(i % d[0], i / d[0] % d[1], i / d[0] / d[1] % d[2], i / d[0] / d[1] / d[2]);
  }
};

Stored read_tensor(const json& j, int64_t gap) {
  if (j.is_null()) return {};
  const mica_dtype dtype = mica_dtype_find(j.at("dtype").get<std::string>().c_str())->dtype;
  Stored s(dtype, j.at("dim").get<std::vector<int64_t>>(), gap);
  const json& data = j.at("data");
  if (!j.contains("cells")) {
    EXPECT_EQ(s.tensor.elements(), static_cast<int64_t>(data.size()));
    for (size_t i = 0; i < data.size(); ++i) s.set(static_cast<int64_t>(i), number(data[i]));
    return s;
  }
  // A state: what is not named is not-a-number, and must not matter.
  for (int64_t i = 0; i < s.tensor.elements(); ++i) s.set(i, std::nan(""));
  const int64_t row = s.tensor.dim[0] * s.tensor.dim[1];
  size_t next = 0;
  for (const int64_t cell : j.at("cells"))
    for (int64_t i = 0; i < row; ++i) s.set(cell * row + i, number(data[next++]));
  EXPECT_EQ(next, data.size());
  return s;
}

mica_attention_args attention_args(const json& a) {
  return {a.at("scale"),
          a.at("softcap"),
          a.at("causal"),
          a.at("window"),
          a.at("n_first"),
          a.at("max_seqs"),
          0,
          0,
          0,
          0};
}

void check_case(const OpDef& op, const json& c, const void* args, double tolerance) {
  SCOPED_TRACE(c.at("name").get<std::string>());
  for (const int64_t gap : {0, 8}) {
    std::vector<Stored> stored(op.n_inputs);
    std::vector<HostTensor> in(op.n_inputs);
    for (size_t i = 0; i < c.at("inputs").size(); ++i) {
      // Only rows may lie apart, not what must be packed.
      const json& j = c.at("inputs")[i];
      stored[i] = read_tensor(j, !j.is_null() && j.at("dtype") != "i32" && i < 3 ? gap : 0);
      in[i] = stored[i].tensor;
    }
    const Stored expected = read_tensor(c.at("out"), 0);
    std::vector<int64_t> dim(expected.tensor.dim, expected.tensor.dim + 4);
    Stored out(expected.tensor.dtype, dim);
    const auto n = static_cast<size_t>(expected.tensor.elements());
    std::vector<double> magnitude(n, -1);
    double n_terms = 0;
    RefCall call{in.data(), op.n_inputs, out.tensor, args, &default_allocator()};
    call.magnitude = magnitude.data();
    call.n_terms = &n_terms;
    ASSERT_EQ(op.reference(call), MICA_OK);
    for (size_t i = 0; i < n; ++i) {
      const double want = expected.get(static_cast<int64_t>(i));
      const double got = out.get(static_cast<int64_t>(i));
      ASSERT_NEAR(got, want, tolerance * std::fmax(1, std::fabs(want))) << "element " << i;
      ASSERT_GE(magnitude[i] * (1 + 1e-6), tolerance == 0 ? 0 : std::fabs(got)) << "element " << i;
    }
    EXPECT_GE(n_terms, 1);
  }
}

json load(const char* op) {
  std::ifstream file(std::string(MICA_GOLDEN_DIR "/ops2/") + op + ".json");
  EXPECT_TRUE(file.good()) << op;
  return json::parse(file, nullptr, false);
}

TEST(Ops2Golden, Attention) {
  const json cases = load("attention");
  ASSERT_GE(cases.size(), 15u);
  for (const json& c : cases) {
    const mica_attention_args args = attention_args(c.at("args"));
    check_case(op_attention, c, &args, 2e-7);
  }
}

// As a program builds it: the builder computes the magnitude.
mica_tensor rope_of(mica_graph* g, const json& inputs, const json& a) {
  const auto dim = [&](size_t i) { return inputs[i].at("dim").get<std::vector<int64_t>>(); };
  mica_rope_params p = MICA_ROPE_PARAMS_INIT;
  p.n_rot = a.at("n_rot");
  p.offset = a.at("offset");
  p.pairing = static_cast<mica_rope_pairing>(a.at("pairing").get<int>());
  p.base = a.at("base");
  p.linear_scale = a.at("linear_scale");
  p.ext_factor = a.at("ext_factor");
  p.attn_factor = a.at("attn_factor");
  p.beta_fast = a.at("beta_fast");
  p.beta_slow = a.at("beta_slow");
  p.n_ctx_orig = a.at("n_ctx_orig");
  const mica_extent none = MICA_NO_EXTENT;
  const mica_dtype dtype = inputs[0].at("dtype") == "f16" ? MICA_F16 : MICA_F32;
  const mica_tensor x = mica_input(g, "x", dtype, 3, dim(0).data(), none);
  const mica_tensor positions = mica_input(g, "positions", MICA_I32, 1, dim(1).data(), none);
  if (inputs.size() > 2)
    p.freq_factors = mica_input(g, "factors", MICA_F32, 1, dim(2).data(), none);
  return mica_rope(g, x, positions, &p);
}
// The reference's result of the graph's first node.
json angles_of(const mica_graph* g, const json& inputs) {
  const GraphNode& node = g->nodes[0];
  EXPECT_EQ(node.op, &op_rope_angles);
  const Stored positions = read_tensor(inputs[1], 0);
  const Stored factors = inputs.size() > 2 ? read_tensor(inputs[2], 0) : Stored();
  const HostTensor in[] = {positions.tensor, factors.tensor};
  const int64_t* const dim = g->values[node.out].desc.dim;
  const Stored out(MICA_F32, {dim[0], dim[1]});
  const RefCall call{in, 2, out.tensor, &g->args[node.args], &default_allocator()};
  EXPECT_EQ(op_rope_angles.reference(call), MICA_OK);
  json data;
  for (int64_t i = 0; i < dim[0] * dim[1]; ++i) data.push_back(out.get(i));
  return {{"dtype", "f32"}, {"dim", {dim[0], dim[1]}}, {"data", data}};
}

TEST(Ops2Golden, Rope) {
  const json cases = load("rope");
  ASSERT_GE(cases.size(), 14u);
  for (json c : cases) {
    const json inputs = c.at("inputs");
    const test::Context context = test::make_context();
    const test::Graph g = test::make_graph(context);
    rope_of(g.get(), inputs, c.at("args"));
    ASSERT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << test::graph_error(g);
    ASSERT_EQ(g->nodes.size(), 2u);
    ASSERT_EQ(g->nodes[1].op, &op_rope);
    c["inputs"] = {inputs[0], angles_of(g.get(), inputs)};
    const bool is_half = c.at("out").at("dtype") == "f16";
    check_case(op_rope, c, &g->args[g->nodes[1].args], is_half ? 1e-3 : 2e-7);
  }
}

TEST(Ops2Golden, ArgmaxTopKSample) {
  for (const json& c : load("argmax")) check_case(op_argmax, c, nullptr, 0);
  for (const json& c : load("top_k")) {
    const mica_top_k_args args = {c.at("args").at("k")};
    check_case(op_top_k, c, &args, 0);
  }
  for (const json& c : load("sample")) check_case(op_sample, c, nullptr, 0);
}

// Known answers of the authors' Random123, file kat_vectors.
TEST(Philox, KnownAnswers) {
  const auto check = [](mica_philox_bits counter, uint32_t k0, uint32_t k1, mica_philox_bits want) {
    const mica_philox_bits got = mica_philox4x32_10(counter, k0, k1);
    EXPECT_EQ(got.x, want.x);
    EXPECT_EQ(got.y, want.y);
    EXPECT_EQ(got.z, want.z);
    EXPECT_EQ(got.w, want.w);
  };
  const uint32_t ones = 0xffffffffu;
  check({0, 0, 0, 0}, 0, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  check({ones, ones, ones, ones}, ones, ones, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  check({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0xa4093822u, 0x299f31d0u,
        {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST(KvAppend, EncodesOnlyTheNamedCells) {
  for (const mica_dtype dtype : {MICA_F32, MICA_F16, MICA_BF16, MICA_Q8_0, MICA_Q4_0}) {
    const int64_t head_dim = 40, n_heads = 2, n_cells = 5;
    Stored state(dtype, {head_dim, n_heads, n_cells});
    const std::vector<char> before = state.bytes;
    Stored rows(MICA_F32, {head_dim, n_heads, 4}, 12);
    for (int64_t i = 0; i < rows.tensor.elements(); ++i)
      rows.set(i, std::sin(static_cast<double>(i * i)));
    Stored slots(MICA_I32, {4});
    const int64_t to[] = {3, -1, 5, 0};
    for (int64_t i = 0; i < 4; ++i) slots.set(i, static_cast<double>(to[i]));
    const HostTensor in[] = {state.tensor, rows.tensor, slots.tensor};
    ASSERT_EQ(op_kv_append.reference({in, 3, state.tensor, nullptr, &default_allocator()}),
              MICA_OK);
    const auto row_bytes = static_cast<size_t>(state.tensor.stride[1]);
    for (int64_t cell = 0; cell < n_cells; ++cell) {
      const int64_t token = cell == 3 ? 0 : cell == 0 ? 3 : -1;
      for (int64_t h = 0; h < n_heads; ++h) {
        std::vector<char> want(before.begin(), before.begin() + static_cast<ptrdiff_t>(row_bytes));
        if (token >= 0) {
          float padded[64] = {};
          for (int64_t d = 0; d < head_dim; ++d)
            padded[d] = static_cast<float>(rows.tensor.at(d, h, token));
          const mica_dtype_info& info = *mica_dtype_get(dtype);
          const size_t n = info.is_quantized != 0 ? 64 : 40;
          ASSERT_EQ(mica_dtype_encode(dtype, padded, want.data(), n), MICA_OK);
        }
        EXPECT_EQ(std::memcmp(state.tensor.row(h, cell), want.data(), row_bytes), 0)
            << mica_dtype_get(dtype)->name << " cell " << cell;
      }
    }
  }
}

struct Outcome {
  mica_status status;
  std::string text;
  Desc out;
};
Outcome infer(const OpDef& op, std::vector<Desc> in, const void* args) {
  in.resize(op.n_inputs);
  Error error;
  Desc out;
  const mica_status status = op.infer({in.data(), op.n_inputs, args, out, error});
  return {status, error.text(), out};
}
Desc desc(mica_dtype dtype, std::vector<int64_t> dim, uint32_t extent = 0) {
  return make_desc(dtype, static_cast<uint32_t>(dim.size()), dim.data(), extent);
}

struct AttentionDescs {
  mica_attention_args args = {0.125f, 0, 1, 0, 0, 2, 0, 0, 0, 0};
  std::vector<Desc> in = {desc(MICA_F32, {64, 6, 16}, 1), desc(MICA_F16, {64, 3, 128}),
                          desc(MICA_Q8_0, {32, 3, 128}), desc(MICA_I32, {16}, 1),
                          desc(MICA_I32, {57})};
  Outcome run() { return infer(op_attention, in, &args); }
};

TEST(AttentionInfer, GivesTheShape) {
  AttentionDescs a;
  const Outcome o = a.run();
  ASSERT_EQ(o.status, MICA_OK) << o.text;
  EXPECT_EQ(o.out.dtype, MICA_F32);
  EXPECT_EQ(o.out.rank, 3u);
  EXPECT_EQ(o.out.dim[0], 32);
  EXPECT_EQ(o.out.dim[1], 6);
  EXPECT_EQ(o.out.dim[2], 16);
  EXPECT_EQ(o.out.extent, 1u);
  a.in.push_back(desc(MICA_F16, {200, 16}, 1));
  a.in.push_back(desc(MICA_F32, {6}));
  EXPECT_EQ(a.run().status, MICA_OK);
  a.in[5] = desc(MICA_F32, {200, 16, 6});
  EXPECT_EQ(a.run().status, MICA_OK);
}

TEST(AttentionInfer, NamesWhatIsWrong) {
  const auto wrong = [](const char* text, auto change) {
    AttentionDescs a;
    a.in.resize(7);
    change(a);
    const Outcome o = a.run();
    EXPECT_EQ(o.status, MICA_INVALID_ARGUMENT) << text;
    EXPECT_NE(o.text.find(text), std::string::npos) << o.text;
  };
  wrong("k has 3 kv heads, 7 query heads are not a multiple", [](auto& a) {
    a.in[0] = desc(MICA_F32, {64, 7, 16}, 1);
  });
  wrong("q is q8_0, not f32", [](auto& a) { a.in[0].dtype = MICA_Q8_0; });
  wrong("q has heads of 32 elements, k of 64", [](auto& a) {
    a.in[0] = desc(MICA_F32, {32, 6, 16}, 1);
  });
  wrong("k is i32, not a float or quantized type", [](auto& a) { a.in[1].dtype = MICA_I32; });
  wrong("have different heads or cells", [](auto& a) { a.in[2].dim[2] = 64; });
  wrong("v [32, 3] is not [head_dim", [](auto& a) { a.in[2] = desc(MICA_F16, {32, 3}); });
  wrong("positions are i64", [](auto& a) { a.in[3] = desc(MICA_I64, {16}, 1); });
  wrong("do not have the same tokens", [](auto& a) { a.in[3].extent = 0; });
  wrong("table is i32 [6], not i32 of at least 7", [](auto& a) { a.in[4] = desc(MICA_I32, {6}); });
  wrong("mask is bf16, not f32 or f16", [](auto& a) { a.in[5] = desc(MICA_BF16, {200, 16}, 1); });
  wrong("mask [200, 15] is not [n_kv_max, 16, 6 or 1]", [](auto& a) {
    a.in[5] = desc(MICA_F32, {200, 15});
  });
  wrong("has an extent that is not q's", [](auto& a) { a.in[5] = desc(MICA_F32, {200, 16}, 2); });
  wrong("sinks are f32 [5], not f32 [6]", [](auto& a) { a.in[6] = desc(MICA_F32, {5}); });
  wrong("scale is not finite", [](auto& a) { a.args.scale = HUGE_VALF; });
  wrong("softcap is -1, less than 0", [](auto& a) { a.args.softcap = -1; });
}

TEST(RopeInfer, NamesWhatIsWrong) {
  const auto wrong = [](const char* text, auto change) {
    mica_rope_args args = {64, 0, 0, 1};
    std::vector<Desc> in = {desc(MICA_F16, {64, 6, 16}, 1), desc(MICA_F32, {64, 16}, 1)};
    ASSERT_EQ(infer(op_rope, in, &args).status, MICA_OK);
    change(in, args);
    const Outcome o = infer(op_rope, in, &args);
    EXPECT_EQ(o.status, MICA_INVALID_ARGUMENT) << text;
    EXPECT_NE(o.text.find(text), std::string::npos) << o.text;
  };
  wrong("x is i32", [](auto& in, auto&) { in[0].dtype = MICA_I32; });
  wrong("is not [head_dim, n_heads, n_tokens]", [](auto& in, auto&) {
    in[0] = desc(MICA_F32, {64, 16}, 1);
  });
  wrong("do not have the same tokens", [](auto& in, auto&) {
    in[1] = desc(MICA_F32, {64, 15}, 1);
  });
  wrong("do not have the same tokens", [](auto& in, auto&) { in[1] = desc(MICA_F32, {64, 16}); });
  wrong("angles are f16 [64, 16], not f32 [64, n_tokens]",
        [](auto& in, auto&) { in[1].dtype = MICA_F16; });
  wrong("angles are f32 [64, 16], not f32 [62, n_tokens]", [](auto&, auto& a) { a.n_rot = 62; });
  wrong("n_rot 64 behind offset 2 does not fit", [](auto&, auto& a) { a.offset = 2; });
  wrong("pairing is 2", [](auto&, auto& a) { a.pairing = 2; });
  wrong("the magnitude is not finite", [](auto&, auto& a) { a.magnitude = HUGE_VALF; });
}

TEST(RopeAnglesInfer, NamesWhatIsWrong) {
  const auto wrong = [](const char* text, auto change) {
    mica_rope_angles_args args = {64, 0, 10000, 1, 0, 32, 1};
    std::vector<Desc> in = {desc(MICA_I32, {16}, 1), Desc{}};
    ASSERT_EQ(infer(op_rope_angles, in, &args).status, MICA_OK);
    change(in, args);
    const Outcome o = infer(op_rope_angles, in, &args);
    EXPECT_EQ(o.status, MICA_INVALID_ARGUMENT) << text;
    EXPECT_NE(o.text.find(text), std::string::npos) << o.text;
  };
  wrong("positions are f32 [16]", [](auto& in, auto&) { in[0].dtype = MICA_F32; });
  wrong("n_rot is 7, not an even number", [](auto&, auto& a) { a.n_rot = 7; });
  wrong("freq_factors are f32 [31], not f32 [32]",
        [](auto& in, auto&) { in[1] = desc(MICA_F32, {31}); });
  wrong("base is 0, not above 0", [](auto&, auto& a) { a.base = 0; });
  wrong("linear_scale is -1", [](auto&, auto& a) { a.linear_scale = -1; });
  wrong("YaRN needs", [](auto&, auto& a) { a.ext_factor = 1; });
}

TEST(ChoiceInfer, NamesWhatIsWrong) {
  mica_top_k_args args = {5};
  EXPECT_EQ(infer(op_top_k, {desc(MICA_F32, {4, 3})}, &args).text, "k is 5, not 1 to 4");
  args.k = 0;
  EXPECT_EQ(infer(op_top_k, {desc(MICA_F32, {4, 3})}, &args).text, "k is 0, not 1 to 4");
  EXPECT_EQ(infer(op_argmax, {desc(MICA_F16, {4, 3})}, nullptr).text, "x is f16, not f32");
  EXPECT_EQ(infer(op_argmax, {desc(MICA_F32, {4}, 1)}, nullptr).status, MICA_INVALID_ARGUMENT);
  const Outcome o = infer(op_argmax, {desc(MICA_F32, {4, 3, 2}, 1)}, nullptr);
  EXPECT_EQ(o.out.rank, 2u);
  EXPECT_EQ(o.out.dim[0], 3);
  EXPECT_EQ(o.out.extent, 1u);
  EXPECT_EQ(infer(op_argmax, {desc(MICA_F32, {4})}, nullptr).out.rank, 1u);
  const Desc logits = desc(MICA_F32, {100, 3}, 1);
  EXPECT_EQ(
      infer(op_sample, {logits, desc(MICA_F32, {4, 3}, 1), desc(MICA_I32, {4, 3}, 1)}, nullptr)
          .status,
      MICA_OK);
  EXPECT_EQ(
      infer(op_sample, {logits, desc(MICA_F32, {4, 3}), desc(MICA_I32, {4, 3}, 1)}, nullptr).text,
      "params are f32 [4, 3], not f32 [4, 3], packed, with the extent of logits");
  EXPECT_EQ(
      infer(op_sample, {logits, desc(MICA_F32, {4, 3}, 1), desc(MICA_I32, {2, 3}, 1)}, nullptr)
          .text,
      "keys are i32 [2, 3], not i32 [4, 3], packed, with the extent of logits");
}

TEST(KvAppendInfer, NamesWhatIsWrong) {
  const Desc state = desc(MICA_Q8_0, {64, 3, 128});
  const Desc rows = desc(MICA_F32, {64, 3, 16}, 1);
  const Desc slots = desc(MICA_I32, {16}, 1);
  EXPECT_EQ(infer(op_kv_append, {state, rows, slots}, nullptr).status, MICA_OK);
  EXPECT_EQ(infer(op_kv_append, {state, desc(MICA_F32, {64, 2, 16}, 1), slots}, nullptr).text,
            "rows [64, 2, 16] are not [64, 3, n_tokens] as the cache has them");
  EXPECT_EQ(infer(op_kv_append, {state, desc(MICA_Q8_0, {64, 3, 16}, 1), slots}, nullptr).status,
            MICA_INVALID_ARGUMENT);
  EXPECT_EQ(infer(op_kv_append, {state, rows, desc(MICA_I32, {16})}, nullptr).text,
            "rows [64, 3, 16] and slots [16] do not have the same tokens");
}

// A kernel that rounds q to F16 is compared with a reference that does the same.
TEST(AttentionNumerics, RoundsQ) {
  const json c = load("attention")[1];
  const mica_attention_args args = attention_args(c.at("args"));
  std::vector<Stored> stored(op_attention.n_inputs);
  std::vector<HostTensor> in(op_attention.n_inputs);
  for (size_t i = 0; i < c.at("inputs").size(); ++i) {
    stored[i] = read_tensor(c.at("inputs")[i], 0);
    in[i] = stored[i].tensor;
  }
  const auto run = [&](mica_numerics numerics) {
    Stored out(MICA_F32, c.at("out").at("dim").get<std::vector<int64_t>>());
    RefCall call{in.data(), op_attention.n_inputs, out.tensor, &args, &default_allocator()};
    call.numerics = numerics;
    EXPECT_EQ(op_attention.reference(call), MICA_OK);
    return out.bytes;
  };
  const std::vector<char> exact = run(MICA_NUM_F64);
  EXPECT_EQ(run(MICA_NUM_F32), exact);
  const std::vector<char> rounded = run(MICA_NUM_BF16);
  EXPECT_NE(rounded, exact);
  Stored q(MICA_BF16, c.at("inputs")[0].at("dim").get<std::vector<int64_t>>());
  for (int64_t i = 0; i < q.tensor.elements(); ++i) q.set(i, stored[0].get(i));
  in[0] = q.tensor;
  EXPECT_EQ(run(MICA_NUM_F64), rounded);
}

}  // namespace
}  // namespace mica
