// Builds the graphs of a random case through the public API. A graph is made in pieces, each with
// random numbers of its own, so that a case can be made again without some of them: when a builder
// refused one, and to find the smallest graph that still fails.
#pragma once
#include "tests/fuzz/graph_case.h"

namespace mica::fuzz {

constexpr int kPlanPieces = 100;    // piece p * 100 + i of graph p
constexpr int kLayerPiece = 10000;  // + i: layer i of the cache, in all graphs that have it

// What the graphs of a case share.
struct Shared {
  uint64_t seed = 0;
  std::set<int> skip;  // pieces that are left out
  bool wild = false;   // odd operands are frequent
  std::vector<CaseExtent> extents;
  mica_weights* weights = nullptr;
  mica_kv_cache* cache = nullptr;
  std::vector<mica_kv_layer> layers;
  std::vector<Leaf> inputs, weight_leaves;
  std::vector<std::string> log;
  std::set<int> pieces;  // made
};

struct Output {
  std::string name;
  bool exact;
  int extent;
};

class Maker {
 public:
  Maker(Shared& shared, mica_graph* graph, int plan, int tokens_extent);
  // Throws Refused.
  void build();
  std::vector<Output> outputs;
  std::vector<std::string> written;  // inputs

 private:
  using Test = std::function<bool(const Item&)>;

  // --- graph_maker.cpp: values and leaves
  mica_extent extent_of(int extent);
  // `same_memory`: a view.
  Item add(mica_tensor t, const Item& like, const std::string& call, bool same_memory = false);
  void check();
  const Item* pick(const Test& test);
  Item value(const Test& test);  // or a fresh input that passes
  Item input(mica_dtype dtype, const Dims& dim, const Fill& fill, int extent = -1,
             bool writable = false);
  Item weight(mica_dtype dtype, const Dims& dim, const Fill& fill = {Fill::kNormal, 0, 1});
  Item operand(const Dims& dim, const Fill& fill, int extent);  // an input or a weight
  Item tame(Item x);                                            // not too large to go on with
  mica_dtype any_float();
  mica_dtype weight_type(int64_t k);
  int64_t any_dim();
  Dims shape(int extent);
  std::string name(const Item& x) const;
  std::string use(const Item& x);
  void finish();

  // --- graph_ops.cpp: single ops
  void step();
  void unary();
  void binary();
  void norm();
  void softmax();
  void matmul();
  Item matmul_operand(const Item& x);
  void get_rows();
  void concat();
  void rope();
  void glu();
  void cast();
  void view();
  void reshape();
  void permute();
  void set_rows();
  void choose();
  Item unary_of(const Item& x, int which);
  Item binary_of(const Item& a, const Item& b, int which);
  Item copy_of(const Item& x);
  Item reshaped(const Item& x, const Dims& dim);
  Item permuted(const Item& x, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3);
  Item product(const Item& w, const Item& x);
  Item rms(const Item& x, const Item* weight);
  Item rotated(const Item& x, mica_tensor positions, const mica_rope_params& params,
               const std::string& text);
  mica_rope_params rope_params(int64_t head_dim, std::string& text);
  Dims split(const Item& x);  // other dimensions for the same elements

  // --- graph_patterns.cpp: what nearly is a region of the core's fusions
  void norm_projections();
  void norm_glu();
  void residual();
  Item maybe_seen(const Item& x, bool& changed);  // through a view, or as it is
  Item linear(const Item& x, int64_t n);
  Item biased(const Item& x);

  // --- graph_layers.cpp: layers of a cache
  void layer(int i);
  void append(int i, const mica_kv& kv, const Item& h);
  Item heads(const Item& h, int64_t head_dim, int64_t n_heads, bool other_heads);
  mica_rope_params layer_rope(std::string& text);
  mica_tensor layer_positions(const mica_kv& kv, std::string& text);
  void attend(int i, const mica_kv& kv, const Item& q);

  Shared& s_;
  mica_graph* g_;
  int plan_, tokens_;
  Rng rng_;
  mica_rope_params rope_ = MICA_ROPE_PARAMS_INIT;  // of the layer
  std::string rope_text_;
  int piece_ = -1;
  int n_named_ = 0;
  std::vector<Item> items_;
  std::set<std::string> named_;  // inputs of this graph
  std::map<int, mica_extent> extents_;
};

}  // namespace mica::fuzz
