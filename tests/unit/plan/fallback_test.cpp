// Opt-in fallback: what the device refuses runs elsewhere with the same results, and nothing else
// changes. Backends that refuse chosen nodes stand in for devices that lack kernels.
// Long because one small world of devices, weights and wrappers serves all of its cases.
#include <algorithm>
#include <cmath>
#include <functional>

#include "core/plan/session.h"
#include "tests/unit/plan/tiny_session.h"

namespace {

using namespace mica::test;

// --- Backends that refuse -----------------------------------------------------------------------

struct PickyState {
  // Asked with the op's name and the node's scope: the reason, or nullptr when it runs.
  std::function<const char*(const std::string& op, const std::string& scope)> refuse;
  uint64_t buffer_bytes = 0;  // of all buffers created
  std::function<mica_status()> before_submit, after_wait;
  uint32_t n_submits = 0;
  uint64_t read_bytes = 0, written_bytes = 0;
  uint64_t workspace_bytes = 0;  // what query() asks for
};

// The base's table under another name.
template <int kId>
struct Picky {
  static inline PickyState state;
  static inline const mica_backend* base = nullptr;
  static const mica_backend* make(const mica_backend* of, const char* name) {
    static mica_backend table;
    state = {};
    base = of;
    table = *of;
    table.name = name;
    table.supports = [](mica_b_device* device, const mica_b_partition* p, uint32_t node,
                        char* reason, size_t capacity) {
      const mica_b_node& n = p->nodes[node];
      const char* why = state.refuse ? state.refuse(mica::find_op(n.op)->name, n.name) : nullptr;
      if (why == nullptr) return base->supports(device, p, node, reason, capacity);
      mica::Writer(reason, capacity).put(why);
      return MICA_UNSUPPORTED;
    };
    table.claims = [](mica_b_device*, const mica_b_partition*, uint32_t, char* reason, size_t n) {
      mica::Writer(reason, n).put("it claims nothing");
      return MICA_UNSUPPORTED;
    };
    table.buffer_create = [](mica_b_device* device, uint64_t bytes, mica_b_buffer** out) {
      state.buffer_bytes += bytes;
      return base->buffer_create(device, bytes, out);
    };
    table.buffer_read = [](mica_b_buffer* b, uint64_t offset, void* dst, uint64_t bytes) {
      state.read_bytes += bytes;
      return base->buffer_read(b, offset, dst, bytes);
    };
    table.buffer_write = [](mica_b_buffer* b, uint64_t offset, const void* src, uint64_t bytes) {
      state.written_bytes += bytes;
      return base->buffer_write(b, offset, src, bytes);
    };
    table.query = [](mica_b_device* device, const mica_b_partition* p, uint32_t unit,
                     mica_b_need* need) {
      const mica_status status = base->query(device, p, unit, need);
      need->workspace_bytes += state.workspace_bytes;
      return status;
    };
    table.submit = [](mica_b_plan* plan) {
      ++state.n_submits;
      const mica_status status = state.before_submit ? state.before_submit() : MICA_OK;
      return status != MICA_OK ? status : base->submit(plan);
    };
    table.wait = [](mica_b_plan* plan) {
      const mica_status status = base->wait(plan);
      return status == MICA_OK && state.after_wait ? state.after_wait() : status;
    };
    return &table;
  }
};
using OnCpu = Picky<0>;   // "oncpu"
using OnRef = Picky<1>;   // "onref"
using Backup = Picky<2>;  // "backup": ref, as a fallback

void refuse_ops(PickyState& state, std::vector<std::string> ops, const char* reason = "not here") {
  state.refuse = [ops = std::move(ops), reason](const std::string& op, const std::string&) {
    for (const std::string& o : ops)
      if (o == op) return reason;
    return static_cast<const char*>(nullptr);
  };
}

class FallbackTest : public testing::Test {
 protected:
  FallbackTest() {
    add(OnCpu::make(mica_backend_cpu(), "oncpu"));
    add(OnRef::make(mica_backend_ref(), "onref"));
    add(Backup::make(mica_backend_ref(), "backup"));
    oncpu = open_device(context, "oncpu");
    onref = open_device(context, "onref");
    backup = open_device(context, "backup");
  }
  void add(const mica_backend* b) {
    EXPECT_EQ(mica_context_add_backend(context.get(), b), MICA_OK);
  }
  std::string error() const { return mica_context_error(context.get()); }
  mica_status compile(const Session& session, const Graph& g, mica_plan** plan) {
    mica_graph* const graphs[] = {g.get()};
    EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
    return mica_session_compile(session.get(), 1, graphs, plan);
  }
  // y = relu(silu(x) + x), scopes "a", "b", "c".
  Graph chain(int64_t n = 4) {
    Graph g = make_graph(context);
    const mica_tensor x = input(g.get(), "x", {n});
    mica_graph_scope(g.get(), "a");
    const mica_tensor s = mica_silu(g.get(), x);
    mica_graph_scope(g.get(), "b");
    const mica_tensor sum = mica_add(g.get(), s, x);
    mica_graph_scope(g.get(), "c");
    mica_output(g.get(), mica_relu(g.get(), sum), "y");
    return g;
  }
  static std::vector<float> chain_of(const std::vector<float>& x) {
    std::vector<float> y;
    for (const float v : x) {
      const float silu = static_cast<float>(v / (1 + std::exp(-double{v})));
      y.push_back(std::max(0.0f, silu + v));
    }
    return y;
  }

  Context context = make_context();
  Device oncpu, onref, backup;
};

// --- Placement ----------------------------------------------------------------------------------

TEST_F(FallbackTest, StrictUnlessAsked) {
  refuse_ops(OnRef::state, {"silu"}, "no exponentials here");
  const Graph g = chain();
  mica_plan* plan = nullptr;
  EXPECT_EQ(compile(make_session(onref), g, &plan), MICA_UNSUPPORTED);
  EXPECT_EQ(error(), "silu 'a': onref cannot run it: no exponentials here");
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  EXPECT_EQ(compile(session, g, &plan), MICA_OK) << error();
}

TEST_F(FallbackTest, NothingFallsBackThatTheDeviceRuns) {
  const Graph g = chain();
  const Session session = make_session(oncpu, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  EXPECT_TRUE(plan->islands.empty());
  EXPECT_EQ(plan->segments.size(), 1u);
  EXPECT_FALSE(has(explain(plan), "fallback")) << explain(plan);
  mica_memory memory;
  ASSERT_EQ(mica_session_memory(session.get(), &memory), MICA_OK);
  EXPECT_EQ(memory.fallback_bytes, 0u);
  EXPECT_EQ(Backup::state.buffer_bytes, 0u);
}

// Every single node, and every pair, of a chain: at its start, inside, at its end, and the whole.
TEST_F(FallbackTest, EveryCutOfAChain) {
  const std::vector<std::string> ops = {"silu", "add", "relu"};
  const std::vector<size_t> n_islands = {0, 1, 1, 1, 1, 2, 1, 1},
                            n_segments = {1, 2, 3, 2, 2, 3, 2, 1};
  for (uint32_t mask = 0; mask < 8; ++mask) {
    SCOPED_TRACE(mask);
    std::vector<std::string> refused;
    for (uint32_t i = 0; i < 3; ++i)
      if ((mask >> i & 1) != 0) refused.push_back(ops[i]);
    refuse_ops(OnCpu::state, refused);
    const Graph g = chain(64);
    const Session session = make_session(oncpu, nullptr, false, {backup.get()});
    mica_plan* plan = ready(context, session, g);
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(plan->islands.size(), n_islands[mask]);
    EXPECT_EQ(plan->segments.size(), n_segments[mask]);
    const std::vector<float> x = randoms(64, mask + 1, 3);
    for (int round = 0; round < 2; ++round) {
      set(session, "x", x);
      ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
      const std::vector<float> y = read(plan, "y", 64), want = chain_of(x);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], want[i], 1e-6) << i;
    }
  }
}

TEST_F(FallbackTest, ExplainSaysWhereAndWhy) {
  refuse_ops(OnCpu::state, {"silu", "relu"}, "no such kernel");
  const Graph g = chain();
  const Session session = make_session(oncpu, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  const std::string text = explain(plan);
  EXPECT_TRUE(has(text, "silu 'a' -> f32 [4]  [reference] on backup\n")) << text;
  EXPECT_TRUE(has(text, "relu 'c' -> f32 [4]  [reference] on backup\n")) << text;
  EXPECT_TRUE(has(text,
                  "fallback, in 2 islands:\n"
                  "silu 'a': oncpu cannot run it: no such kernel; it runs on backup\n"
                  "relu 'c': oncpu cannot run it: no such kernel; it runs on backup\n"))
      << text;
  EXPECT_FALSE(has(text, "add 'b': ")) << text;
  uint32_t numerics = 99;
  ASSERT_EQ(mica_plan_output_numerics(plan, "y", &numerics), MICA_OK);
  EXPECT_EQ(numerics, static_cast<uint32_t>(MICA_NUM_F64));
}

TEST_F(FallbackTest, DevicesAreTriedInOrder) {
  refuse_ops(OnCpu::state, {"silu", "add"}, "one");
  refuse_ops(OnRef::state, {"silu"}, "two");
  const Graph g = chain();
  const Session session = make_session(oncpu, nullptr, false, {onref.get(), backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(plan->islands.size(), 2u);  // neighbours, but on two devices
  EXPECT_EQ(plan->islands[0]->device, backup.get());
  EXPECT_EQ(plan->islands[1]->device, onref.get());
  EXPECT_TRUE(has(explain(plan),
                  "silu 'a': oncpu cannot run it: one; onref cannot run it: two; "
                  "it runs on backup\n"))
      << explain(plan);
  set<float>(session, "x", {1, -2, 3, -4});
  ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
  const std::vector<float> y = read(plan, "y", 4), want = chain_of({1, -2, 3, -4});
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], want[i], 1e-6);
}

TEST_F(FallbackTest, WhatNobodyRunsNamesAllReasons) {
  refuse_ops(OnCpu::state, {"add"}, "one");
  refuse_ops(OnRef::state, {"add"}, "two");
  refuse_ops(Backup::state, {"add"}, "");
  const Graph g = chain();
  const Session session = make_session(oncpu, nullptr, false, {onref.get(), backup.get()});
  mica_plan* plan = nullptr;
  EXPECT_EQ(compile(session, g, &plan), MICA_UNSUPPORTED);
  EXPECT_EQ(error(),
            "add 'b': oncpu cannot run it: one; onref cannot run it: two; "
            "backup cannot run it: no reason given");
  EXPECT_TRUE(session->copies.empty());
  refuse_ops(Backup::state, {});
  EXPECT_EQ(compile(session, g, &plan), MICA_OK) << error();
}

TEST_F(FallbackTest, OpsOnStateNeverFallBack) {
  const TinyModel model({});
  for (const char* op : {"kv_append", "attention"}) {
    refuse_ops(OnRef::state, {op});
    const Weights weights = load_tiny(context, onref, model);
    mica_kv_cache* c = nullptr;
    ASSERT_EQ(model.make_cache(onref.get(), &c), MICA_OK);
    const Cache cache(c);
    const Graph g = make_graph(context);
    model.build(g.get(), weights.get(), c, 4);
    const Session session = make_session(onref, c, false, {backup.get()});
    mica_plan* plan = nullptr;
    EXPECT_EQ(compile(session, g, &plan), MICA_UNSUPPORTED);
    EXPECT_EQ(error(), std::string(op) +
                           " 'blk.0': onref cannot run it: not here; it reads or writes a cache or "
                           "an input of the step, and such ops never fall back");
  }
  refuse_ops(OnRef::state, {"set_rows"});
  const Graph g = make_graph(context);
  const mica_tensor dst = input(g.get(), "dst", {4, 3});
  const mica_tensor ids = input(g.get(), "ids", {1}, {0}, MICA_I32);
  (void)mica_set_rows(g.get(), dst, input(g.get(), "x", {4, 1}), ids);
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = nullptr;
  EXPECT_EQ(compile(session, g, &plan), MICA_UNSUPPORTED);
  EXPECT_TRUE(has(error(), "set_rows: onref cannot run it: not here; it reads or writes"))
      << error();
}

TEST_F(FallbackTest, BadDevicesAreRefused) {
  mica_session_params params = MICA_SESSION_PARAMS_INIT;
  mica_session* s = nullptr;
  params.n_fallback = 1;
  EXPECT_EQ(mica_session_create(oncpu.get(), &params, &s), MICA_INVALID_ARGUMENT);
  mica_device* devices[] = {nullptr};
  params.fallback = devices;
  EXPECT_EQ(mica_session_create(oncpu.get(), &params, &s), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(error(), "session: a fallback device is NULL or of another context");
  const Context other = make_context();
  const Device foreign = open_device(other, "ref");
  devices[0] = foreign.get();
  EXPECT_EQ(mica_session_create(oncpu.get(), &params, &s), MICA_INVALID_ARGUMENT);
  EXPECT_EQ(s, nullptr);
}

// The session keeps its fallback devices.
TEST_F(FallbackTest, DevicesMayBeReleasedBeforeTheSession) {
  refuse_ops(OnCpu::state, {"silu"});
  const Graph g = chain();
  const Session session = make_session(oncpu, nullptr, false, {backup.get()});
  backup.reset();
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(mica_plan_run(plan), MICA_OK);
}

// --- Results ------------------------------------------------------------------------------------

// A whole model, each op (and several) elsewhere; ragged steps on a plan for 8 tokens, and a plan
// for one token with the same weights.
TEST_F(FallbackTest, AModelComputesTheSame) {
  TinyShape shape;
  shape.window = 16;
  shape.max_step_tokens = 8;
  const TinyModel model(shape);
  const Device ref = open_device(context, "ref");
  const Weights ref_weights = load_tiny(context, ref, model);
  TinySession want(context, ref, model, ref_weights.get(), {8, 1});
  const auto run = [](TinySession& s) {
    s.forget();
    std::vector<float> y = s.step(0, {3, 1, 4, 1, 5});
    for (const std::vector<int32_t>& ids :
         {std::vector<int32_t>{9, 2, 6, 5, 3, 5, 8, 9}, {7}, {9, 3}}) {
      const std::vector<float> more = s.step(ids.size() == 1 ? 1 : 0, ids);
      y.insert(y.end(), more.begin(), more.end());
    }
    return y;
  };
  const std::vector<float> expected = run(want);
  for (const std::vector<std::string>& ops : std::vector<std::vector<std::string>>{
           {"get_rows"},
           {"rms_norm"},
           {"matmul"},
           {"rope"},
           {"silu"},
           {"mul"},
           {"add"},
           {"rms_norm", "matmul"},
           {"silu", "mul"},
           {"get_rows", "rms_norm", "matmul", "rope", "silu", "mul", "add"}})
    for (const bool on_ref : {true, false}) {
      SCOPED_TRACE(ops[0] + std::to_string(ops.size()) + (on_ref ? " ref" : " cpu"));
      refuse_ops(on_ref ? OnRef::state : OnCpu::state, ops);
      const Device& device = on_ref ? onref : oncpu;
      const Weights weights = load_tiny(context, device, model);
      TinySession got(context, device, model, weights.get(), {8, 1}, {backup.get()});
      ASSERT_FALSE(got.plan()->islands.empty());
      const std::vector<float> y = run(got);
      ASSERT_EQ(y.size(), expected.size());
      for (size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], on_ref ? 0 : 3e-4 * (1 + std::fabs(expected[i]))) << i;
    }
}

struct Blocks {
  std::string name;
  mica_dtype dtype;
  Dims dim;
  std::vector<unsigned char> bytes;
};

Weights load_blocks(const Context& context, const Device& device, std::vector<Blocks>& all) {
  mica_weights* w = nullptr;
  EXPECT_EQ(mica_weights_create(device.get(), &w), MICA_OK);
  for (const Blocks& b : all)
    EXPECT_EQ(mica_weights_describe(w, b.name.c_str(), b.dtype, static_cast<uint32_t>(b.dim.size()),
                                    b.dim.data()),
              MICA_OK);
  const mica_weight_source source = {
      &all,
      [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
        *out = (*static_cast<std::vector<Blocks>*>(user))[i].bytes.data() + offset;
        return MICA_OK;
      },
      nullptr};
  EXPECT_EQ(mica_weights_load(w, &source), MICA_OK) << mica_context_error(context.get());
  return Weights(w);
}

Blocks encoded(mica_dtype dtype, Dims dim, uint64_t seed) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  const std::vector<float> v = randoms(static_cast<size_t>(dim[0] * dim[1]), seed);
  Blocks b{info->name, dtype, std::move(dim), {}};
  b.bytes.resize(v.size() / info->block_elems * info->block_bytes);
  EXPECT_EQ(mica_dtype_encode(dtype, v.data(), b.bytes.data(), v.size()), MICA_OK);
  return b;
}

constexpr mica_dtype kWeightTypes[] = {MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q4_0,
                                       MICA_Q4_1, MICA_Q5_0, MICA_Q5_1, MICA_Q8_0,
                                       MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};

// cpu packs weights in layouts of its own: an island gets the very bytes that were loaded.
TEST_F(FallbackTest, WeightsOfEveryTypeReachTheIsland) {
  std::vector<Blocks> blocks;
  for (const mica_dtype t : kWeightTypes)
    blocks.push_back(encoded(t, {512, 37}, blocks.size() + 1));
  const auto run = [&](const Device& device, const std::vector<mica_device*>& fallback) {
    const Weights weights = load_blocks(context, device, blocks);
    const Graph g = make_graph(context);
    const mica_extent n = mica_graph_extent(g.get(), "n", 5);
    const mica_tensor x = input(g.get(), "x", {512, 5}, n);
    const mica_tensor ids = input(g.get(), "ids", {5}, n, MICA_I32);
    for (const Blocks& b : blocks) {
      const mica_tensor w = mica_weight(g.get(), weights.get(), b.name.c_str());
      mica_output(g.get(), mica_matmul(g.get(), w, x), ("mm." + b.name).c_str());
      mica_output(g.get(), mica_get_rows(g.get(), w, ids), ("rows." + b.name).c_str());
    }
    const Session session = make_session(device, nullptr, false, fallback);
    mica_plan* plan = ready(context, session, g);
    std::vector<float> all;
    if (plan == nullptr) return all;
    set(session, "x", randoms(512 * 5, 99));
    set<int32_t>(session, "ids", {36, 0, 17, 5, 31});
    EXPECT_EQ(mica_session_set_extent(session.get(), "n", 4), MICA_OK);
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << error();
    for (const Blocks& b : blocks)
      for (const std::string& output : {"mm." + b.name, "rows." + b.name}) {
        const std::vector<float> y =
            read(plan, output.c_str(), output[0] == 'm' ? 37 * 4 : 512 * 4);
        all.insert(all.end(), y.begin(), y.end());
      }
    if (!fallback.empty()) {
      EXPECT_EQ(plan->islands.size(), 1u);
      EXPECT_EQ(session->copies.size(), std::size(kWeightTypes));  // matmul's is get_rows'
    }
    return all;
  };
  refuse_ops(OnCpu::state, {"matmul", "get_rows"});
  EXPECT_EQ(run(oncpu, {backup.get()}), run(backup, {}));
}

// A cpu island under a ref session: packed on the way.
TEST_F(FallbackTest, IslandsPackWeightsForTheirDevice) {
  std::vector<Blocks> blocks = {encoded(MICA_Q4_0, {512, 640}, 5)};
  const Device cpu = open_device(context, "cpu");
  const auto run = [&](const Device& device, const std::vector<mica_device*>& fallback) {
    const Weights weights = load_blocks(context, device, blocks);
    const Graph g = make_graph(context);
    const mica_tensor w = mica_weight(g.get(), weights.get(), "q4_0");
    mica_output(g.get(), mica_matmul(g.get(), w, input(g.get(), "x", {512, 3})), "y");
    const Session session = make_session(device, nullptr, false, fallback);
    mica_plan* plan = ready(context, session, g);
    set(session, "x", randoms(512 * 3, 98));
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << error();
    return read(plan, "y", 640 * 3);
  };
  refuse_ops(OnRef::state, {"matmul"});
  EXPECT_EQ(run(onref, {cpu.get()}), run(cpu, {}));
}

// Views of weights and of values, permuted, sliced and reshaped, into an island and inside it.
TEST_F(FallbackTest, ViewsAreSeenAsTheyAre) {
  std::vector<Blocks> blocks = {encoded(MICA_F32, {6, 4}, 3)};
  const auto run = [&](const Device& device, const std::vector<mica_device*>& fallback) {
    const Weights weights = load_blocks(context, device, blocks);
    const Graph g = make_graph(context);
    const mica_extent n = mica_graph_extent(g.get(), "n", 4);
    const mica_tensor w = mica_weight(g.get(), weights.get(), "f32");
    const mica_tensor x = input(g.get(), "x", {6, 4}, n);
    const mica_tensor a = mica_tanh(g.get(), x);
    const mica_tensor cube = reshape(g.get(), a, {3, 2, 4});
    const int64_t dim[] = {2, 2, 4}, start[] = {1, 0, 0, 0};
    const mica_tensor slice = mica_view(g.get(), cube, 3, dim, start);
    const mica_tensor b = mica_copy(g.get(), mica_permute(g.get(), slice, 1, 0, 2, 3));
    const mica_tensor row = reshape(g.get(), w, {24});
    const int64_t two[] = {2}, seven[] = {7, 0, 0, 0};
    const mica_tensor c = mica_add(g.get(), b, mica_view(g.get(), row, 1, two, seven));
    mica_output(g.get(), mica_silu(g.get(), mica_permute(g.get(), c, 1, 0, 2, 3)), "y");
    mica_output(g.get(), a, "a");
    const Session session = make_session(device, nullptr, false, fallback);
    mica_plan* plan = ready(context, session, g);
    std::vector<float> all;
    if (plan == nullptr) return all;
    set(session, "x", randoms(24, 97));
    EXPECT_EQ(mica_session_set_extent(session.get(), "n", 3), MICA_OK);
    EXPECT_EQ(mica_plan_run(plan), MICA_OK) << error();
    all = read(plan, "y", 4 * 3);
    const std::vector<float> more = read(plan, "a", 6 * 3);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<float> want = run(backup, {});
  for (const std::vector<std::string>& ops :
       std::vector<std::vector<std::string>>{{"tanh"},
                                             {"copy"},
                                             {"add"},
                                             {"silu"},
                                             {"tanh", "copy"},
                                             {"copy", "add"},
                                             {"tanh", "copy", "add", "silu"}}) {
    refuse_ops(OnRef::state, ops);
    EXPECT_EQ(run(onref, {backup.get()}), want) << ops[0] << ops.size();
  }
}

// Rows beyond an extent's value are neither carried nor written.
TEST_F(FallbackTest, DeadRowsStayAsTheyAre) {
  refuse_ops(OnRef::state, {"tanh"});
  const Graph g = make_graph(context);
  const mica_extent n = mica_graph_extent(g.get(), "n", 8);
  mica_output(g.get(), mica_tanh(g.get(), input(g.get(), "x", {2, 8}, n)), "y");
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set(session, "x", randoms(16, 1));
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  const std::vector<float> before = read(plan, "y", 16);
  set(session, "x", randoms(16, 2));
  for (const int64_t live : {0, 1, 5}) {
    ASSERT_EQ(mica_session_set_extent(session.get(), "n", live), MICA_OK);
    Backup::state.read_bytes = Backup::state.written_bytes = 0;
    ASSERT_EQ(mica_plan_run(plan), MICA_OK) << error();
    EXPECT_EQ(Backup::state.read_bytes, static_cast<uint64_t>(live) * 8);
    EXPECT_EQ(Backup::state.written_bytes, static_cast<uint64_t>(live) * 8 + 4);  // and "n"
    const std::vector<float> after = read(plan, "y", 16), x = randoms(16, 2);
    for (size_t i = 0; i < 16; ++i) {
      if (i < static_cast<size_t>(live) * 2) {
        EXPECT_FLOAT_EQ(after[i], std::tanh(x[i]));
      } else {
        EXPECT_EQ(after[i], before[i]) << i;
      }
    }
  }
}

// The island's own step block has the live count.
TEST_F(FallbackTest, IslandsComputeLiveRowsOnly) {
  refuse_ops(OnRef::state, {"scale"});
  const Graph g = make_graph(context);
  const mica_extent n = mica_graph_extent(g.get(), "n", 8);
  mica_output(g.get(), mica_scale(g.get(), input(g.get(), "x", {2, 8}, n), 1, 5), "y");
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(mica_session_set_extent(session.get(), "n", 3), MICA_OK);
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  const mica::Island& island = *plan->islands[0];
  const mica_b_value& y = island.values[island.nodes[0].output];
  float rows[16];
  std::memcpy(rows,
              static_cast<char*>(mica_backend_ref()->buffer_map(island.arena.handle())) + y.offset,
              sizeof rows);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(rows[i], i < 6 ? 5.0f : 0.0f) << i;
}

TEST_F(FallbackTest, WhatOnlyTheIslandReadsStaysThere) {
  refuse_ops(OnRef::state, {"silu", "add"});
  const Graph g = chain();
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  Backup::state.written_bytes = 0;
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(Backup::state.written_bytes, 16u);  // x, once
  EXPECT_EQ(Backup::state.read_bytes, 16u);     // the sum, not silu(x)
}

// An input that a state op writes: an island before it sees the old rows, one after it the new.
TEST_F(FallbackTest, IslandsReadStateInBuildOrder) {
  refuse_ops(OnRef::state, {"scale"});
  const Graph g = make_graph(context);
  const mica_tensor dst = input(g.get(), "dst", {2, 2});
  const mica_tensor ids = input(g.get(), "ids", {1}, {0}, MICA_I32);
  const mica_tensor before = mica_scale(g.get(), dst, 10, 0);
  const mica_tensor now = mica_set_rows(g.get(), dst, input(g.get(), "row", {2, 1}), ids);
  mica_output(g.get(), before, "before");
  mica_output(g.get(), mica_scale(g.get(), now, 10, 0), "after");
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->islands.size(), 2u);
  set<float>(session, "dst", {1, 2, 3, 4});
  set<float>(session, "row", {7, 8});
  set<int32_t>(session, "ids", {1});
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_EQ(read(plan, "before", 4), (std::vector<float>{10, 20, 30, 40}));
  EXPECT_EQ(read(plan, "after", 4), (std::vector<float>{10, 20, 70, 80}));
}

// --- Memory -------------------------------------------------------------------------------------

TEST_F(FallbackTest, MemoryIsKnownBeforeAndSharedByPlans) {
  const TinyModel model({});
  refuse_ops(OnRef::state, {"matmul"});
  const Weights weights = load_tiny(context, onref, model);
  mica_kv_cache* c = nullptr;
  ASSERT_EQ(model.make_cache(onref.get(), &c), MICA_OK);
  const Cache cache(c);
  const Session session = make_session(onref, c, false, {backup.get()});
  const Graph one = make_graph(context), many = make_graph(context);
  model.build(one.get(), weights.get(), c, 1);
  model.build(many.get(), weights.get(), c, 8);
  mica_plan* plans[2] = {};
  ASSERT_EQ(compile(session, one, &plans[0]), MICA_OK) << error();
  mica_memory memory;
  ASSERT_EQ(mica_session_memory(session.get(), &memory), MICA_OK);
  uint64_t copied = 0, staging = 0;
  for (const mica::WeightCopy* copy : session->copies) copied += copy->value.bytes;
  EXPECT_EQ(copied, mica_weights_bytes(weights.get()) - 256);  // all but the norm
  EXPECT_EQ(memory.total_bytes, memory.weights_bytes + memory.kv_bytes + memory.activations_bytes +
                                    memory.step_bytes + memory.reserve_bytes +
                                    memory.fallback_bytes);
  const uint64_t before = Backup::state.buffer_bytes;
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
  for (const mica::Island* island : plans[0]->islands) staging += island->staging_bytes;
  EXPECT_EQ(Backup::state.buffer_bytes - before, memory.fallback_bytes - staging);
  // A later plan: islands of its own, no weight again.
  ASSERT_EQ(compile(session, many, &plans[1]), MICA_OK) << error();
  mica_memory after;
  ASSERT_EQ(mica_session_memory(session.get(), &after), MICA_OK);
  const uint64_t between = Backup::state.buffer_bytes;
  ASSERT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
  staging = 0;
  for (const mica::Island* island : plans[1]->islands) staging += island->staging_bytes;
  EXPECT_EQ(Backup::state.buffer_bytes - between,
            after.fallback_bytes - memory.fallback_bytes - staging);
  for (const mica::WeightCopy* copy : session->copies) EXPECT_GE(copy->n_ready, 2u);
}

TEST_F(FallbackTest, PlacesInAnIslandDoNotOverlap) {
  refuse_ops(OnRef::state, {"silu", "add", "relu"});
  Backup::state.workspace_bytes = 300;
  const Graph g = chain(100);
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(plan->islands.size(), 1u);
  const mica::Island& island = *plan->islands[0];
  std::vector<std::pair<uint64_t, uint64_t>> places;
  for (size_t i = 1; i < island.values.size(); ++i)
    places.emplace_back(island.values[i].offset, island.values[i].bytes);
  for (const mica_b_unit& u : island.units)
    places.emplace_back(u.workspace_offset, u.workspace_bytes);
  ASSERT_EQ(places.size(), 4u + 3u);
  std::sort(places.begin(), places.end());
  for (size_t i = 0; i < places.size(); ++i) {
    EXPECT_EQ(places[i].first % 256, 0u);
    const uint64_t end = i + 1 < places.size() ? places[i + 1].first : island.arena_bytes;
    EXPECT_LE(places[i].first + places[i].second, end);
  }
  EXPECT_EQ(plan->workspace_bytes, 0u);  // none of it in the session's arena
}

TEST_F(FallbackTest, TheBudgetCountsIslands) {
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.memory_budget_bytes = 100000;
  const Context small = make_context(&params);
  EXPECT_EQ(mica_context_add_backend(small.get(), OnRef::make(mica_backend_ref(), "onref")),
            MICA_OK);
  const Device device = open_device(small, "onref"), ref = open_device(small, "ref");
  refuse_ops(OnRef::state, {"tanh"});
  const Graph g = make_graph(small);
  mica_output(g.get(), mica_tanh(g.get(), input(g.get(), "x", {5000})), "y");
  const Session session = make_session(device, nullptr, false, {ref.get()});
  mica_plan* plan = nullptr;
  ASSERT_EQ(compile(session, g, &plan), MICA_OK);
  EXPECT_EQ(mica_session_allocate(session.get()), MICA_OVER_BUDGET);
  EXPECT_TRUE(has(mica_context_error(small.get()), ", fallback 59.0 KiB), the budget is 97.7 KiB"))
      << mica_context_error(small.get());
}

// Out of memory at every request of compile, allocate and run: a status, nothing leaks, and the
// same call works afterwards.
TEST(FallbackOutOfMemory, AtEveryRequest) {
  std::vector<Blocks> blocks = {encoded(MICA_Q4_0, {64, 8}, 5), encoded(MICA_F32, {8, 4}, 6)};
  CountingAllocator allocator;
  std::vector<float> expected;
  int64_t n_requests = 0, n_first = 0;
  for (int64_t fail = -1; fail < n_requests; ++fail) {
    SCOPED_TRACE(fail);
    {
      mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
      params.allocator = allocator.get();
      const Context context = make_context(&params);
      const mica_backend* backend = OnCpu::make(mica_backend_cpu(), "oncpu");
      refuse_ops(OnCpu::state, {"matmul", "silu"});
      ASSERT_EQ(mica_context_add_backend(context.get(), backend), MICA_OK);
      const Device device = open_device(context, "oncpu"), cpu = open_device(context, "cpu");
      const Weights weights = load_blocks(context, device, blocks);
      const Graph g = make_graph(context);
      const mica_tensor x = input(g.get(), "x", {64});
      const mica_tensor h = mica_matmul(g.get(), mica_weight(g.get(), weights.get(), "q4_0"), x);
      const mica_tensor t = mica_tanh(g.get(), mica_silu(g.get(), h));
      mica_output(g.get(), mica_matmul(g.get(), mica_weight(g.get(), weights.get(), "f32"), t),
                  "y");
      const int64_t start = allocator.n_requests();
      if (fail < 0) n_first = start;
      if (fail >= 0) allocator.fail_at(fail, false);
      mica_session_params sp = MICA_SESSION_PARAMS_INIT;
      mica_device* const fallback[] = {cpu.get()};
      sp.fallback = fallback;
      sp.n_fallback = 1;
      mica_session* raw = nullptr;
      mica_plan* plan = nullptr;
      mica_graph* const graphs[] = {g.get()};
      const std::vector<float> v = randoms(64, 4);
      const std::function<mica_status()> stages[] = {
          [&] { return mica_session_create(device.get(), &sp, &raw); },
          [&] { return mica_session_compile(raw, 1, graphs, &plan); },
          [&] { return mica_session_allocate(raw); },
          [&] { return mica_session_set(raw, "x", 0, v.data(), 256); },
          [&] { return mica_plan_run(plan); },
      };
      for (const auto& stage : stages) {
        mica_status status = stage();
        if (status == MICA_OK) continue;
        ASSERT_EQ(status, MICA_OUT_OF_MEMORY) << mica_context_error(context.get());
        ASSERT_GT(allocator.n_failed(), 0);
        allocator.never_fail();
        for (size_t i = 0; raw != nullptr && i < raw->copies.size(); ++i)
          ASSERT_EQ(raw->copies[i]->buffer.handle(), nullptr);  // nothing is kept
        status = stage();
        ASSERT_EQ(status, MICA_OK) << mica_context_error(context.get());
      }
      allocator.never_fail();
      const Session session(raw);
      ASSERT_EQ(plan->islands.size(), 2u);
      const std::vector<float> y = read(plan, "y", 4);
      if (fail < 0) {
        expected = y;
        n_requests = allocator.n_requests() - n_first;
        const int64_t now = allocator.n_requests();
        ASSERT_EQ(mica_plan_run(plan), MICA_OK);
        EXPECT_EQ(allocator.n_requests(), now);  // a step asks for nothing
      }
      ASSERT_EQ(y, expected);
    }
    ASSERT_EQ(allocator.n_live(), 0);
    ASSERT_FALSE(allocator.wrong_size());
  }
  EXPECT_GT(n_requests, 30);
}

// --- Steps that fail ----------------------------------------------------------------------------

TEST_F(FallbackTest, SubmitRunsAllButTheLastSegment) {
  refuse_ops(OnRef::state, {"add"});
  const Graph g = chain();
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "x", {1, 2, 3, 4});
  ASSERT_EQ(mica_plan_submit(plan), MICA_OK);
  EXPECT_EQ(OnRef::state.n_submits, 2u);
  EXPECT_EQ(Backup::state.n_submits, 1u);
  EXPECT_EQ(mica_session_set(session.get(), "x", 0, "", 1), MICA_BUSY);
  ASSERT_EQ(mica_plan_wait(plan), MICA_OK);
  EXPECT_NEAR(read(plan, "y", 4)[0], chain_of({1})[0], 1e-6);
  ASSERT_EQ(mica_plan_submit(plan), MICA_OK);  // released while in flight: no trouble
}

TEST_F(FallbackTest, AFailingIslandIsNamed) {
  refuse_ops(OnRef::state, {"silu", "add"});
  const Graph g = chain();
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  set<float>(session, "x", {1, 2, 3, 4});
  Backup::state.before_submit = [] { return MICA_INTERNAL; };
  EXPECT_EQ(mica_plan_run(plan), MICA_INTERNAL);
  EXPECT_EQ(error(), "silu 'a', a fallback on backup, failed: a defect in mica; please report it");
  Backup::state.before_submit = nullptr;
  Backup::state.after_wait = [] { return MICA_OUT_OF_MEMORY; };
  EXPECT_EQ(mica_plan_run(plan), MICA_OUT_OF_MEMORY);
  EXPECT_TRUE(has(error(), "silu 'a', a fallback on backup, failed: out of memory")) << error();
  Backup::state.after_wait = nullptr;
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_NEAR(read(plan, "y", 4)[3], chain_of({4})[0], 1e-6);
}

TEST_F(FallbackTest, ALostFallbackDeviceIsNotTheSessions) {
  refuse_ops(OnRef::state, {"silu"});
  const Graph g = chain();
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  Backup::state.before_submit = [] { return MICA_DEVICE_LOST; };
  EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
  EXPECT_TRUE(has(error(), "silu 'a', a fallback on backup")) << error();
  EXPECT_FALSE(onref->lost);
  EXPECT_TRUE(backup->lost);
  EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
  EXPECT_EQ(error(), "the fallback device backup was lost; release what is on it");
  // The other way round.
  const Device other = open_device(context, "backup");
  const Session again = make_session(onref, nullptr, false, {other.get()});
  plan = ready(context, again, g);
  ASSERT_NE(plan, nullptr);
  Backup::state.before_submit = nullptr;
  OnRef::state.before_submit = [] { return MICA_DEVICE_LOST; };
  EXPECT_EQ(mica_plan_run(plan), MICA_DEVICE_LOST);
  EXPECT_TRUE(onref->lost);
  EXPECT_FALSE(other->lost);
}

// Cancelled between two segments: the cache is as it was, and the step can be taken again.
TEST_F(FallbackTest, CancelBetweenSegmentsLeavesTheCache) {
  volatile int32_t cancel = 0;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.cancel = &cancel;
  const Context c = make_context(&params);
  for (const mica_backend* b :
       {OnRef::make(mica_backend_ref(), "onref"), Backup::make(mica_backend_ref(), "backup")})
    ASSERT_EQ(mica_context_add_backend(c.get(), b), MICA_OK);
  const Device device = open_device(c, "onref"), other = open_device(c, "backup");
  refuse_ops(OnRef::state, {"rope"});
  const TinyModel model({});
  const Weights weights = load_tiny(c, device, model);
  TinySession s(c, device, model, weights.get(), {4}, {other.get()});
  ASSERT_EQ(s.prepare({1, 2, 3}), MICA_OK);
  Backup::state.after_wait = [&] {
    cancel = 1;
    return MICA_OK;
  };
  EXPECT_EQ(mica_plan_run(s.plan()), MICA_CANCELLED);
  EXPECT_STREQ(mica_context_error(c.get()), "the step was cancelled");
  EXPECT_EQ(OnRef::state.n_submits, 1u);  // the segment after the island was not begun
  EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 0);
  EXPECT_EQ(mica_plan_run(s.plan()), MICA_CANCELLED);
  cancel = 0;
  Backup::state.after_wait = nullptr;
  const std::vector<float> got = s.step(0, {1, 2, 3});
  EXPECT_EQ(mica_kv_seq_next(s.cache(), 0), 3);
  refuse_ops(OnRef::state, {});
  TinySession fresh(c, device, model, weights.get(), {4});
  EXPECT_EQ(got, fresh.step(0, {1, 2, 3}));
}

// A composite that nobody claims falls back member by member.
TEST_F(FallbackTest, OneMemberOfAComposite) {
  refuse_ops(OnRef::state, {"silu"});
  const Graph g = make_graph(context);
  const mica_tensor gate = input(g.get(), "gate", {8}), up = input(g.get(), "up", {8});
  mica_output(g.get(), mica_swiglu(g.get(), gate, up), "y");
  const Session session = make_session(onref, nullptr, false, {backup.get()});
  mica_plan* plan = ready(context, session, g);
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(plan->islands.size(), 1u);
  EXPECT_EQ(plan->islands[0]->nodes.size(), 1u);
  set<float>(session, "gate", std::vector<float>(8, 1));
  set<float>(session, "up", std::vector<float>(8, 2));
  ASSERT_EQ(mica_plan_run(plan), MICA_OK);
  EXPECT_NEAR(read(plan, "y", 8)[0], 2 / (1 + std::exp(-1.0)), 1e-6);
}

}  // namespace
