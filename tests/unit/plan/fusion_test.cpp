// The fusions' patterns: what they match and in which order, when a region may not be made, and
// that random graphs compute the same with and without them.
#include "core/plan/fusion.h"

#include <algorithm>
#include <map>
#include <optional>

#include "tests/unit/base/borrowed_backend.h"
#include "tests/unit/graph/random_blocks.h"
#include "tests/unit/plan/plan_checker.h"

namespace {

using namespace mica::test;

constexpr auto kStream = static_cast<size_t>(BlockWeights::kEmbd * Blocks::kTokens);

class FusionTest : public testing::Test {
 protected:
  FusionTest() {
    borrowed = {};
    EXPECT_EQ(mica_context_add_backend(context.get(), borrowed_backend()), MICA_OK);
    open("borrowed:f64,fused");
  }
  void open(const char* name) {
    g.reset();
    cache.reset();
    weights.reset();
    device = open_device(context, name);
    weights = std::make_unique<BlockWeights>(device);
    cache = block_cache(device, RandomBlocks::kLayers);
    g = make_graph(context);
    b = std::make_unique<Blocks>(g.get(), weights->get(), cache.get());
    x = input(g.get(), "x", {BlockWeights::kEmbd, Blocks::kTokens}, b->n_tokens);
  }
  const mica_plan& compile() {
    EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
    session.reset();  // a cache has one session at a time
    session = make_session(device, cache.get());
    mica_graph* const graphs[] = {g.get()};
    mica_plan* plan = nullptr;
    EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK)
        << mica_context_error(context.get());
    text = explain(plan);
    return *plan;
  }
  // "norm_qkv: rms_norm matmul …" of every region, in the order in which they were claimed.
  static std::vector<std::string> regions(const mica_plan& p) {
    std::vector<std::string> list;
    for (const mica_b_region& r : p.regions) {
      std::string line = std::string(r.fusion) + ":";
      for (uint32_t i = 0; i < r.n_members; ++i)
        line += std::string(" ") + mica::find_op(p.nodes[r.members[i]].op)->name;
      list.push_back(line);
    }
    return list;
  }
  static uint32_t storage(const mica_plan& p, mica_tensor t) { return p.values[t.index].storage; }
  void output(mica_tensor t, const char* name = "y") { mica_output(g.get(), t, name); }
  // q, k, v in this order, each with RoPE and appended as the flags say.
  mica_tensor attention(mica_tensor h, bool bias, bool rope, uint32_t layer = 0) {
    const mica_kv kv = b->kv(layer);
    q = b->heads(b->biased("q", h, bias), 2);
    mica_tensor k = b->heads(b->biased("k", h, bias), 1);
    const mica_tensor v = b->heads(b->biased("v", h, bias), 1);
    if (rope) q = mica_rope(g.get(), q, kv.positions, nullptr);
    if (rope) k = mica_rope(g.get(), k, kv.positions, nullptr);
    mica_kv_append(g.get(), &kv, k, v);
    return b->attend(layer, q);
  }
  static mica_rope_params default_rope() { return MICA_ROPE_PARAMS_INIT; }
  // Q and K go through RoPE where they have parameters, K with positions of its own if there are.
  void ropes(mica_tensor h, std::optional<mica_rope_params> of_q,
             std::optional<mica_rope_params> of_k, mica_tensor k_positions = {}) {
    const mica_kv kv = b->kv(0);
    if (k_positions.graph == 0) k_positions = kv.positions;
    q = b->heads(b->linear("q", h), 2);
    mica_tensor k = b->heads(b->linear("k", h), 1);
    if (of_q) q = mica_rope(g.get(), q, kv.positions, &*of_q);
    if (of_k) k = mica_rope(g.get(), k, k_positions, &*of_k);
    mica_kv_append(g.get(), &kv, k, b->heads(b->linear("v", h), 1));
    output(b->attend(0, q));
  }
  mica_tensor state_input() {
    ids = input(g.get(), "ids", {3}, {}, MICA_I32);
    rows = input(g.get(), "rows", {BlockWeights::kEmbd, 3});
    return input(g.get(), "state", {BlockWeights::kEmbd, Blocks::kTokens});
  }

  Context context = make_context();
  Device device;
  std::unique_ptr<BlockWeights> weights;
  Cache cache;
  Graph g;
  std::unique_ptr<Blocks> b;
  Session session;
  std::string text;
  mica_tensor x{}, q{}, ids{}, rows{};
};

using Lines = std::vector<std::string>;

// --- What matches -------------------------------------------------------------------------------

TEST_F(FusionTest, ALayerBecomesFiveUnits) {
  const mica_tensor h = b->norm(x);
  mica_tensor y = mica_add(g.get(), x, b->linear("o", attention(h, false, true)));
  const mica_tensor f = b->norm(y);
  const mica_tensor glu = mica_swiglu(g.get(), b->linear("gate", f), b->linear("up", f));
  output(mica_add(g.get(), b->linear("down", glu), y));
  const mica_plan& p = compile();
  EXPECT_EQ(regions(p),
            (Lines{"norm_qkv: rms_norm matmul rope matmul rope matmul kv_append kv_append",
                   "norm_glu: rms_norm matmul matmul silu mul", "matmul_add: matmul add",
                   "matmul_add: matmul add"}));
  EXPECT_EQ(p.units.size(), 6u) << text;  // RoPE's angles are of no layer
  EXPECT_EQ(storage(p, h), static_cast<uint32_t>(MICA_B_UNPLACED));
  EXPECT_EQ(storage(p, f), static_cast<uint32_t>(MICA_B_UNPLACED));
  EXPECT_EQ(storage(p, q), static_cast<uint32_t>(MICA_B_TEMP));
  EXPECT_EQ(storage(p, glu), static_cast<uint32_t>(MICA_B_TEMP));
  PlanChecker(p).check();
}

TEST_F(FusionTest, BiasesFollowTheirMatmul) {
  output(attention(b->norm(x), true, true));
  EXPECT_EQ(regions(compile()),
            Lines{"norm_qkv: rms_norm matmul add rope matmul add rope matmul add kv_append "
                  "kv_append"});
}

TEST_F(FusionTest, QkvWithoutRope) {
  output(attention(b->norm(x), false, false));
  EXPECT_EQ(regions(compile()),
            Lines{"norm_qkv: rms_norm matmul matmul matmul kv_append kv_append"});
}

// Members come in the order of their roles, whatever order the graph was built in.
TEST_F(FusionTest, RolesDoNotDependOnBuildOrder) {
  const mica_tensor h = b->norm(x);
  const mica_kv kv = b->kv(0);
  const mica_tensor v = b->heads(b->linear("v", h), 1);
  mica_tensor k = mica_rope(g.get(), b->heads(b->biased("k", h, true), 1), kv.positions, nullptr);
  q = mica_rope(g.get(), b->heads(b->linear("q", h), 2), kv.positions, nullptr);
  mica_kv_append(g.get(), &kv, k, v);
  output(b->attend(0, q));
  const mica_plan& p = compile();
  ASSERT_EQ(regions(p), Lines{"norm_qkv: rms_norm matmul rope matmul add rope matmul kv_append "
                              "kv_append"});
  const uint32_t* m = p.regions[0].members;
  EXPECT_EQ(p.values[p.nodes[m[1]].output].dim[0], BlockWeights::kEmbd);  // Q
  EXPECT_LT(m[7], m[8]);                                                  // K, V
  EXPECT_GT(m[1], m[6]) << "Q was built last";
}

// RoPE of Q alone: K's cells hold what was not turned yet.
TEST_F(FusionTest, RopeOfQAloneClaimsNormQkvOnCpu) {
  for (const char* name : {"borrowed:f64,fused", "cpu:plain", "cpu:avx2", "cpu:avx512"}) {
    if (open_device(context, name) == nullptr) continue;
    open(name);
    ropes(b->norm(x), default_rope(), std::nullopt);
    const mica_plan& p = compile();
    EXPECT_EQ(regions(p), Lines{"norm_qkv: rms_norm matmul rope matmul matmul kv_append kv_append"})
        << name << "\n"
        << text;
    EXPECT_TRUE(has(text, "norm_qkv (7 nodes)")) << text;
    EXPECT_EQ(storage(p, q), static_cast<uint32_t>(MICA_B_TEMP));
  }
}

TEST_F(FusionTest, RopeOfKAlone) {
  ropes(b->norm(x), std::nullopt, default_rope());
  EXPECT_EQ(regions(compile()),
            Lines{"norm_qkv: rms_norm matmul matmul rope matmul kv_append kv_append"});
}

TEST_F(FusionTest, RopesMayDiffer) {
  const mica_tensor positions =
      input(g.get(), "k.positions", {Blocks::kTokens}, b->n_tokens, MICA_I32);
  mica_rope_params params = default_rope();
  params.base = 500;
  params.n_rot = 4;
  ropes(b->norm(x), default_rope(), params, positions);
  EXPECT_EQ(regions(compile()),
            Lines{"norm_qkv: rms_norm matmul rope matmul rope matmul kv_append kv_append"});
}

TEST_F(FusionTest, RopeOfVIsNoPartOfQkv) {
  const mica_kv kv = b->kv(0);
  const mica_tensor h = b->norm(x);
  q = b->heads(b->linear("q", h), 2);
  const mica_tensor v = mica_rope(g.get(), b->heads(b->linear("v", h), 1), kv.positions, nullptr);
  mica_kv_append(g.get(), &kv, b->heads(b->linear("k", h), 1), v);
  output(b->attend(0, q));
  EXPECT_EQ(regions(compile()), Lines{"norm_matmul: rms_norm matmul matmul matmul"});
  EXPECT_TRUE(has(text, "V goes through RoPE")) << text;
}

// What RoPE sees as heads is Q's own matter; of K it is the cache's.
TEST_F(FusionTest, RopeOfOtherHeads) {
  constexpr int64_t kDim = BlockWeights::kHeadDim;
  for (const bool of_q : {true, false}) {
    open("borrowed:f64,fused");
    const mica_kv kv = b->kv(0);
    const mica_tensor h = b->norm(x);
    const auto turned = [&](mica_tensor y, int64_t n_heads, bool halved) {
      const int64_t dim = halved ? kDim / 2 : kDim, n = kDim * n_heads / dim;
      y = mica_rope(g.get(), reshape(g.get(), y, {dim, n, Blocks::kTokens}), kv.positions, nullptr);
      return reshape(g.get(), y, {kDim, n_heads, Blocks::kTokens});
    };
    q = turned(b->linear("q", h), 2, of_q);
    const mica_tensor k = turned(b->linear("k", h), 1, !of_q);
    mica_kv_append(g.get(), &kv, k, b->heads(b->linear("v", h), 1));
    output(b->attend(0, q));
    compile();
    EXPECT_EQ(of_q, has(text, "norm_qkv (8 nodes)")) << text;
    EXPECT_EQ(!of_q, has(text, "K is appended in other heads than RoPE turned")) << text;
  }
}

// Where Q is read twice it is an output of the region; its chain ends there.
TEST_F(FusionTest, ValuesThatOthersReadStayPlaced) {
  const mica_tensor h = b->norm(x);
  output(attention(h, false, false));
  output(reshape(g.get(), q, {BlockWeights::kEmbd, Blocks::kTokens}), "q");
  output(mica_copy(g.get(), h), "h");
  const mica_plan& p = compile();
  EXPECT_EQ(regions(p)[0], "norm_qkv: rms_norm matmul matmul matmul kv_append kv_append");
  EXPECT_EQ(storage(p, h), static_cast<uint32_t>(MICA_B_TEMP));
  EXPECT_EQ(storage(p, q), static_cast<uint32_t>(MICA_B_TEMP));
  EXPECT_TRUE(has(text,
                  "norm_qkv (6 nodes) -> f32 [32, <=6], f32 [32, <=6], f16 [16, 1, 64], "
                  "f16 [16, 1, 64]"))
      << text;
}

TEST_F(FusionTest, GluNeedsItsInnerValuesToItself) {
  const mica_tensor f = b->norm(x);
  const mica_tensor act = mica_silu(g.get(), b->linear("gate", f));
  output(mica_mul(g.get(), act, b->linear("up", f)));
  output(act, "act");
  EXPECT_EQ(regions(compile()), Lines{"norm_matmul: rms_norm matmul matmul"});
}

TEST_F(FusionTest, GegluAndUnbracketedGatesMatch) {
  mica_tensor f = b->norm(x);
  output(mica_geglu(g.get(), b->linear("gate", f), b->linear("up", f)));
  f = b->norm(mica_tanh(g.get(), x));
  const mica_tensor up = b->linear("up", f);
  output(mica_mul(g.get(), mica_silu(g.get(), b->linear("gate", f)), up), "z");
  EXPECT_EQ(regions(compile()), (Lines{"norm_glu: rms_norm matmul matmul gelu mul",
                                       "norm_glu: rms_norm matmul matmul silu mul"}));
}

TEST_F(FusionTest, AddNormKeepsTheSumThatOthersRead) {
  const mica_tensor sum = mica_add(g.get(), x, mica_tanh(g.get(), x));
  output(b->norm(sum), "normed");
  output(mica_relu(g.get(), sum));
  const mica_plan& p = compile();
  EXPECT_EQ(regions(p), Lines{"add_norm: add rms_norm"});
  EXPECT_EQ(storage(p, sum), static_cast<uint32_t>(MICA_B_TEMP));
}

TEST_F(FusionTest, MoreThanFourProjectionsAreNoNormMatmul) {
  const mica_tensor h = b->norm(x);
  for (int i = 0; i < 5; ++i)
    output(b->linear(i % 2 == 0 ? "q" : "k", h), ("y" + std::to_string(i)).c_str());
  EXPECT_EQ(regions(compile()), Lines{});
}

// --- Order of preference ------------------------------------------------------------------------

TEST_F(FusionTest, WhatIsRefusedGoesOnToSmallerPatterns) {
  open("borrowed");
  const mica_tensor f = b->norm(mica_add(g.get(), x, attention(b->norm(x), false, true)));
  output(mica_swiglu(g.get(), b->linear("gate", f), b->linear("up", f)));
  for (const char* claimed : {"norm_qkv", "norm_glu", "norm_matmul", "add_norm", "swiglu"}) {
    borrowed.claimed = claimed;
    const mica_plan& p = compile();
    size_t n = 0;
    for (const std::string& r : regions(p)) n += r.rfind(claimed, 0) == 0 ? 1 : 0;
    EXPECT_EQ(n, std::string(claimed) == "norm_matmul" ? 2u : 1u) << text;
    EXPECT_EQ(regions(p).size(), n);
    EXPECT_TRUE(has(text, "not claimed:\n")) << text;
  }
}

TEST_F(FusionTest, RefusalsAreCountedByReason) {
  open("borrowed");
  mica_tensor y = x;
  for (int i = 0; i < 3; ++i) {
    mica_graph_scope(g.get(), ("blk." + std::to_string(i)).c_str());
    y = b->linear("q", b->norm(y));
  }
  output(y);
  compile();
  EXPECT_TRUE(has(text, "norm_matmul at 'blk.0' and 2 more: the reference runs plain ops only\n"))
      << text;
}

// --- Where a region may stand -------------------------------------------------------------------

// Something between the members that reads one of them: the others move before it.
TEST_F(FusionTest, AReaderInBetweenComesAfter) {
  const mica_tensor h = b->norm(x);
  const mica_tensor y = b->linear("q", h);
  const mica_tensor between = mica_tanh(g.get(), y);
  output(b->linear("k", h), "z");
  output(between);
  const mica_plan& p = compile();
  EXPECT_EQ(regions(p), Lines{"norm_matmul: rms_norm matmul matmul"});
  ASSERT_EQ(p.units.size(), 2u);
  EXPECT_EQ(p.nodes[p.units[1].node].op, static_cast<uint32_t>(MICA_OP_tanh));
}

// A node that needs a member and that another member needs.
TEST_F(FusionTest, ADependencyThatLeavesAndReturnsForbids) {
  const mica_kv kv = b->kv(0);
  const mica_tensor h = b->norm(x);
  q = b->heads(b->linear("q", h), 2);
  const mica_tensor k = b->heads(b->linear("k", h), 1);
  const mica_tensor before = b->attend(0, q);  // of the cells before the appends
  mica_kv_append(g.get(), &kv, k, b->heads(b->linear("v", h), 1));
  output(b->attend(0, q));
  output(before, "before");
  EXPECT_EQ(regions(compile()), Lines{"norm_matmul: rms_norm matmul matmul matmul"});
  EXPECT_TRUE(has(text, "norm_qkv at '': a node between them must run after some, before others"))
      << text;
}

TEST_F(FusionTest, AViewsReaderThatAMemberNeedsForbids) {
  const mica_tensor y = b->linear("q", x);
  const int64_t dim[] = {BlockWeights::kEmbd, 3};
  const mica_tensor state = state_input();
  const mica_tensor part = mica_view(g.get(), state, 2, dim, nullptr);
  const mica_tensor h = b->norm(part);          // reads the state's old rows,
  (void)mica_set_rows(g.get(), state, h, ids);  // which then change
  const mica_tensor late = mica_add(g.get(), state, b->linear("q", state));
  output(b->linear("k", h), "z");
  output(late, "late");
  output(y);
  // The norm must be before set_rows, which needs it; its matmul can move there.
  EXPECT_EQ(regions(compile()), (Lines{"norm_matmul: rms_norm matmul", "matmul_add: matmul add"}));
}

// A node that neither reads nor writes what the members touch may stand in between.
TEST_F(FusionTest, AStrangerInBetweenDoesNot) {
  const mica_tensor h = b->norm(x);
  const mica_tensor y = b->linear("q", h);
  output(mica_tanh(g.get(), x), "stranger");
  output(b->linear("k", h), "z");
  output(y);
  EXPECT_EQ(regions(compile()), Lines{"norm_matmul: rms_norm matmul matmul"});
}

// The sum reads the old rows as its residual, and the matmul the new ones.
TEST_F(FusionTest, AWriterOfWhatOneMemberReadsAndAnotherNeedsForbids) {
  const mica_tensor state = state_input();
  const mica_tensor sum = mica_add(g.get(), state, mica_tanh(g.get(), state));
  const int64_t dim[] = {BlockWeights::kEmbd, 3};
  const mica_tensor now =
      mica_set_rows(g.get(), state, mica_view(g.get(), sum, 2, dim, nullptr), ids);
  output(mica_add(g.get(), b->linear("q", now), mica_copy(g.get(), now)));
  output(b->norm(sum), "normed");
  EXPECT_EQ(regions(compile()), (Lines{"matmul_add: matmul add", "add_norm: add rms_norm"}));
}

// A region that already moved counts where it now stands: the sum could go back to its matmul only
// if the norm, its residual, had not been put off.
TEST_F(FusionTest, RegionsCountWhereTheyStand) {
  const mica_tensor state = state_input();
  const mica_tensor z = input(g.get(), "z", {BlockWeights::kEmbd, Blocks::kTokens});
  const mica_tensor h = b->norm(z);
  const mica_tensor product = b->linear("q", state);
  output(b->linear("k", h));
  (void)mica_set_rows(g.get(), state, rows, ids);
  output(mica_add(g.get(), product, h), "sum");
  EXPECT_EQ(regions(compile()), Lines{"norm_matmul: rms_norm matmul"});
}

// Two appends of one layer cross: each region would have to run before the other.
TEST_F(FusionTest, CrossedAppendsForbid) {
  const mica_kv kv = b->kv(0);
  const mica_tensor h = b->norm(x), other = b->norm(mica_tanh(g.get(), x));
  q = b->heads(b->linear("q", h), 2);
  const mica_tensor q2 = b->heads(b->linear("q", other), 2);
  const auto rows_of = [&](const char* name, mica_tensor from) {
    return b->heads(b->linear(name, from), 1);
  };
  mica_kv_append(g.get(), &kv, rows_of("k", h), rows_of("v", other));
  mica_kv_append(g.get(), &kv, rows_of("k", other), rows_of("v", h));
  output(b->attend(0, q));
  output(b->attend(0, q2), "y2");
  compile();
  EXPECT_FALSE(has(text, "norm_qkv (")) << text;
}

// --- Random graphs ------------------------------------------------------------------------------

class RandomFusionTest : public FusionTest {
 protected:
  struct Run {
    std::vector<std::vector<float>> results;
    std::vector<std::string> names;
  };
  Run run(const Device& d, const BlockWeights& w, uint64_t seed, bool unfused = false) {
    Run r;
    const Cache kv = block_cache(d, RandomBlocks::kLayers);
    const Graph graph = make_graph(context);
    RandomBlocks random(graph.get(), w.get(), kv.get(), seed);
    random.build();
    const Session s = make_session(d, kv.get(), unfused);
    mica_plan* plan = ready(context, s, graph);
    if (plan == nullptr) return r;
    PlanChecker(*plan).check();
    for (const mica_b_region& region : plan->regions) ++n_regions[region.fusion];
    for (const mica::PlanRefusal& refusal : plan->refusals) n_refused += refusal.n;
    for (const mica_b_value& v : plan->values)
      n_private += v.storage == MICA_B_TEMP && v.layout != 0;
    const bool uses_cache = plan->cache != nullptr;
    set(s, "state", randoms(kStream, seed));
    set<int32_t>(s, "ids", {4, 0, 2});
    set(s, "rows", randoms(3 * BlockWeights::kEmbd, seed + 1));
    r.names = random.outputs();
    for (const uint32_t n : {6u, 4u}) {
      const mica_kv_span span = {0, n};
      const mica_status status = uses_cache ? mica_kv_reserve(kv.get(), 1, &span)
                                            : mica_session_set_extent(s.get(), "n_tokens", n);
      EXPECT_EQ(status, MICA_OK) << mica_context_error(context.get());
      set(s, "x0", randoms(kStream, seed + n));
      set(s, "x1", randoms(kStream, seed + n + 1));
      EXPECT_EQ(mica_plan_run(plan), MICA_OK) << mica_context_error(context.get());
      for (const std::string& name : r.names) {
        const mica_b_value& v = plan->values[output_of(*plan, name)];
        const size_t live = v.extent != MICA_B_NONE ? n : static_cast<size_t>(v.dim[1]);
        r.results.push_back(read(plan, name.c_str(), static_cast<size_t>(v.dim[0]) * live));
      }
      r.results.push_back(get(s, "state", kStream));
    }
    return r;
  }
  static uint32_t output_of(const mica_plan& p, const std::string& name) {
    for (const mica::PlanNamed& o : p.outputs)
      if (name == p.name_at(o.name)) return o.value;
    return 0;
  }
  void compare(const char* plain, const char* fused, uint64_t n_graphs) {
    const Device one = open_device(context, plain), other = open_device(context, fused);
    const BlockWeights one_weights(one), other_weights(other);
    for (uint64_t seed = 1; seed <= n_graphs && !HasFailure(); ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      const Run want = run(one, one_weights, seed, true);
      n_regions.clear();
      n_refused = 0;
      const Run got = run(other, other_weights, seed);
      for (const auto& [name, n] : n_regions) total[name] += n;
      total_refused += n_refused;
      ASSERT_EQ(got.results.size(), want.results.size());
      for (size_t i = 0; i < got.results.size(); ++i)
        ASSERT_EQ(0, std::memcmp(got.results[i].data(), want.results[i].data(),
                                 got.results[i].size() * sizeof(float)))
            << "output " << i << " of " << got.names.size();
    }
    // The generator does make what there are patterns for, and what keeps them from being made.
    for (const char* name : {"norm_qkv", "norm_glu", "norm_matmul", "matmul_add", "add_norm"})
      EXPECT_TRUE(total[name] > n_graphs / 200 || unclaimed == name) << name;
    EXPECT_GT(total_refused, n_graphs / 200);
  }
  std::string unclaimed;  // a fusion that the device does not claim
  std::map<std::string, uint64_t> n_regions, total;
  uint64_t n_refused = 0, total_refused = 0, n_private = 0;
};

TEST_F(RandomFusionTest, FusedAndUnfusedAreBitEqualOnRef) { compare("ref", "ref:f64,fused", 1500); }

// The CPU's fused kernels compute what its kernels of the members do, in the same order.
TEST_F(RandomFusionTest, FusedAndUnfusedAreBitEqualOnCpu) {
  unclaimed = "add_norm";
  for (const char* name : {"cpu:plain", "cpu:avx2", "cpu:avx512"}) {
    if (open_device(context, name) == nullptr) continue;
    n_private = 0;
    compare(name, name, 400);
    EXPECT_GT(n_private, 20u) << name;
  }
}

TEST_F(RandomFusionTest, PrivateLayoutsOverlapNothing) {
  borrowed.layouts = true;
  borrowed.workspaces = true;
  compare("ref", "borrowed:f64,fused", 500);
  EXPECT_GT(n_private, 500u);
}

// --- The boundary -------------------------------------------------------------------------------

TEST_F(FusionTest, LayoutsAreAskedOfTemporariesWithoutViewsAndNames) {
  const mica_tensor a = mica_tanh(g.get(), x), viewed = mica_relu(g.get(), a);
  const mica_tensor named = mica_scale(g.get(), a, 2, 0);
  output(mica_copy(g.get(), reshape(g.get(), viewed, {16, 2, Blocks::kTokens})));
  output(named, "named");
  borrowed.layouts = true;
  const mica_plan& p = compile();
  const auto plain = static_cast<uint64_t>(kStream * sizeof(float));
  EXPECT_EQ(p.values[a.index].layout, a.index % 3);
  EXPECT_NE(a.index % 3, 0u);
  EXPECT_EQ(p.values[a.index].bytes, plain + 100);
  EXPECT_EQ(p.values[viewed.index].layout + p.values[named.index].layout, 0u);
  EXPECT_EQ(p.values[viewed.index].bytes, plain);
  PlanChecker(p).check();
}

TEST_F(FusionTest, OptionsThatKernelsDoNotKnowAreUnsupported) {
  open("borrowed");
  mica_graph_scope(g.get(), "blk.4");
  const mica_kv kv = b->kv(0);
  output(mica_copy(g.get(), mica_rope(g.get(), b->heads(x, 2), kv.positions, nullptr)));
  borrowed.args_op = "rope";
  borrowed.args_bytes = 4;  // n_rot
  session = make_session(device, cache.get());
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_UNSUPPORTED);
  EXPECT_TRUE(
      has(mica_context_error(context.get()),
          "rope 'blk.4': borrowed cannot run it: its kernels of rope know the first 4 bytes "
          "of the options, and byte "))
      << mica_context_error(context.get());
  borrowed.args_bytes = MICA_B_NONE;
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK);
}

// Bytes that are zero need not be known; and a region with an option unknown is not offered.
TEST_F(FusionTest, RegionsWithUnknownOptionsAreNotClaimed) {
  output(b->linear("q", b->norm(x)));
  borrowed.args_op = "rms_norm";
  session = make_session(device, cache.get());
  mica_graph* const graphs[] = {g.get()};
  mica_plan* plan = nullptr;
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_UNSUPPORTED);
  EXPECT_EQ(borrowed.n_claims, 0u);
  borrowed.args_op = "matmul";  // has none
  EXPECT_EQ(mica_session_compile(session.get(), 1, graphs, &plan), MICA_OK);
  EXPECT_EQ(borrowed.n_claims, 1u);
}

}  // namespace
