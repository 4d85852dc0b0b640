// Random graphs of unary, binary, view, matmul, concat, norm and state ops on tiny tensors.
#pragma once
#include <algorithm>

#include "tests/unit/world.h"

namespace mica::test {

// A random graph; the same for the same seed, whichever values are outputs.
class RandomGraph {
 public:
  RandomGraph(mica_graph* g, uint64_t seed, bool all_outputs)
      : g_(g), rng_(seed), all_outputs_(all_outputs) {}

  void build() {
    const int n_inputs = pick(1, 4);
    for (int i = 0; i < n_inputs; ++i) {
      const std::string name = "in" + std::to_string(i);
      const Dims dim = {pick(1, 6), pick(1, 5), pick(0, 1) == 0 ? 1 : pick(1, 3)};
      add_leaf(name, dim);
    }
    state_ = {input(g_, "state", {4, 5}), {4, 5, 1}, true, true};
    const int64_t n_ids = 3;
    ids_ = mica_input(g_, "ids", MICA_I32, 1, &n_ids, {});
    const int n_nodes = pick(3, 40);
    for (int i = 0; i < n_nodes; ++i) step();
    push(mica_copy(g_, values_.back().t), values_.back().dim);  // one output at least is computed
    const auto last = static_cast<int>(values_.size()) - 1;
    for (int i = last; i >= 0 && i > last - 3; --i) wanted_.push_back(static_cast<size_t>(i));
    wanted_.push_back(static_cast<size_t>(pick(0, last)));
    std::sort(wanted_.begin(), wanted_.end());
    wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
    for (size_t i = 0; i < values_.size(); ++i) {
      const bool wanted = std::binary_search(wanted_.begin(), wanted_.end(), i);
      if (wanted || all_outputs_) output(i);
    }
  }
  struct Output {
    std::string name;
    size_t n;
  };
  std::vector<Output> wanted() const {
    std::vector<Output> list;
    for (const size_t i : wanted_)
      if (values_[i].packed) list.push_back({name_of(i), elements(values_[i])});
    return list;
  }
  std::vector<Output> inputs() const { return inputs_; }

 private:
  struct Value {
    mica_tensor t;
    Dims dim;      // 3
    bool packed;   // can be an output
    bool rows_ok;  // elements of a row are adjacent
  };
  int pick(int a, int b) { return std::uniform_int_distribution<int>(a, b)(rng_); }
  const Value& any() {
    return values_[static_cast<size_t>(pick(0, static_cast<int>(values_.size()) - 1))];
  }
  static size_t elements(const Value& v) {
    return static_cast<size_t>(v.dim[0] * v.dim[1] * v.dim[2]);
  }
  static std::string name_of(size_t i) { return "v" + std::to_string(i); }
  void output(size_t i) {
    if (values_[i].packed) mica_output(g_, values_[i].t, name_of(i).c_str());
  }
  void add_leaf(const std::string& name, const Dims& dim) {
    values_.push_back({input(g_, name.c_str(), dim), dim, true, true});
    inputs_.push_back({name, elements(values_.back())});
  }
  void push(mica_tensor t, Dims dim, bool packed = true, bool rows_ok = true) {
    values_.push_back({t, std::move(dim), packed, rows_ok});
  }
  const Value* like(const Value& a, bool rows_ok, bool (*fits)(const Value& a, const Value& b)) {
    std::vector<const Value*> found;
    for (const Value& b : values_)
      if ((b.rows_ok || !rows_ok) && fits(a, b)) found.push_back(&b);
    return found.empty() ? nullptr
                         : found[static_cast<size_t>(pick(0, static_cast<int>(found.size()) - 1))];
  }

  void step() {
    const Value a = any();
    switch (pick(0, 11)) {
      case 0:
        return push(mica_relu(g_, a.t), a.dim);
      case 1:
        return push(mica_scale(g_, a.t, 0.5f, 0.25f), a.dim);
      case 2:
        return push(mica_tanh(g_, a.t), a.dim);
      case 3:
      case 4:
        return binary(a);
      case 5:
        return view(a);
      case 6:
        return permute(a);
      case 7:
        return reshape_packed(a);
      case 8:
        return push(mica_copy(g_, a.t), a.dim);
      case 9:
        return matmul(a);
      case 10:
        return concat(a);
      default:
        return pick(0, 2) == 0 ? write_state(a) : norm(a);
    }
  }
  void binary(const Value& a) {
    const Value* b = like(a, false, [](const Value& x, const Value& y) {
      for (size_t i = 0; i < 3; ++i)
        if (y.dim[i] != 1 && y.dim[i] != x.dim[i]) return false;
      return true;
    });
    const mica_tensor t = pick(0, 1) == 0 ? mica_add(g_, a.t, b->t) : mica_mul(g_, a.t, b->t);
    push(t, a.dim);
  }
  void view(const Value& a) {
    int64_t dim[3], start[4] = {0, 0, 0, 0};
    for (int i = 0; i < 3; ++i) {
      const auto n = static_cast<int>(a.dim[static_cast<size_t>(i)]);
      start[i] = pick(0, n - 1);
      dim[i] = pick(1, n - static_cast<int>(start[i]));
    }
    push(mica_view(g_, a.t, 3, dim, start), {dim[0], dim[1], dim[2]}, false, a.rows_ok);
  }
  void permute(const Value& a) {
    const bool swap = pick(0, 1) == 0;
    const mica_tensor t =
        swap ? mica_permute(g_, a.t, 1, 0, 2, 3) : mica_permute(g_, a.t, 0, 2, 1, 3);
    const Dims dim = swap ? Dims{a.dim[1], a.dim[0], a.dim[2]} : Dims{a.dim[0], a.dim[2], a.dim[1]};
    push(t, dim, false, !swap && a.rows_ok);
  }
  void reshape_packed(const Value& a) {
    if (!a.packed) return push(mica_copy(g_, a.t), a.dim);
    const Dims dim = {a.dim[0] * a.dim[1], a.dim[2], 1};
    push(reshape(g_, a.t, dim), dim);
  }
  void matmul(const Value& a) {
    if (!a.rows_ok) return;
    const Value* w = like(a, true, [](const Value& x, const Value& y) {
      return y.dim[0] == x.dim[0] && x.dim[2] % y.dim[2] == 0;
    });
    push(mica_scale(g_, mica_matmul(g_, w->t, a.t), 0.1f, 0), {w->dim[1], a.dim[1], a.dim[2]});
  }
  void concat(const Value& a) {
    const Value* b = like(a, false, [](const Value& x, const Value& y) {
      return y.dim[1] == x.dim[1] && y.dim[2] == x.dim[2] && x.dim[0] + y.dim[0] < 20;
    });
    if (b == nullptr) return;
    push(mica_concat(g_, a.t, b->t, 0), {a.dim[0] + b->dim[0], a.dim[1], a.dim[2]});
  }
  void norm(const Value& a) {
    if (!a.rows_ok) return;
    push(pick(0, 1) == 0 ? mica_rms_norm(g_, a.t, MICA_NO_TENSOR, 1e-3f)
                         : mica_softmax(g_, a.t, MICA_NO_TENSOR, 1),
         a.dim);
  }
  // Rows of a, padded or cut to the state's width, go into the state; then the state is read.
  void write_state(const Value& a) {
    if (a.dim[0] < 4 || a.dim[1] < 3 || !a.rows_ok) return;
    const int64_t dim[] = {4, 3};
    const mica_tensor rows = mica_view(g_, a.t, 2, dim, nullptr);
    state_.t = mica_set_rows(g_, state_.t, rows, ids_);
    push(mica_scale(g_, state_.t, 0.9f, 0.1f), state_.dim);
  }

  mica_graph* g_;
  std::mt19937_64 rng_;
  bool all_outputs_;
  std::vector<Value> values_;
  std::vector<Output> inputs_;
  std::vector<size_t> wanted_;
  Value state_{};
  mica_tensor ids_{};
};

}  // namespace mica::test
