#include "tests/fuzz/graph_maker.h"

#include <algorithm>
#include <cmath>

namespace mica::fuzz {
namespace {

constexpr size_t kFewInputs = 3, kFewPieces = 1, kMostPieces = 9;
constexpr double kLarge = 64;  // beyond it values are scaled down: F16 ends at 65504

}  // namespace

Maker::Maker(Shared& shared, mica_graph* graph, int plan, int tokens_extent)
    : s_(shared), g_(graph), plan_(plan), tokens_(tokens_extent), rng_(shared.seed, 0) {}

mica_extent Maker::extent_of(int extent) {
  if (extent < 0) return {};
  const auto known = extents_.find(extent);
  if (known != extents_.end()) return known->second;
  const CaseExtent& e = s_.extents[static_cast<size_t>(extent)];
  return extents_[extent] = mica_graph_extent(g_, e.name.c_str(), e.max);
}

void Maker::check() {
  const char* text = nullptr;
  const mica_status status = mica_graph_status(g_, &text);
  if (status != MICA_OK) throw Refused{piece_, status, text};
}

std::string Maker::name(const Item& x) const {
  return "t" + std::to_string(plan_) + "." + std::to_string(x.t.index);
}

// Its name, as a call's operand.
std::string Maker::use(const Item& x) {
  for (Item& item : items_)
    if (item.t.index == x.t.index) ++item.reads;
  return name(x);
}

// Notes a value that a builder gave. `like`: what it keeps of what is known.
Item Maker::add(mica_tensor t, const Item& like, const std::string& call, bool same_memory) {
  Item item = like;
  item.t = t;
  item.reads = 0;
  item.is_leaf = false;
  item.of_weight = same_memory && like.of_weight;
  std::string line = "  [" + std::to_string(piece_) + "] " + name(item) + " = " + call;
  if (t.index == 0) s_.log.push_back(line + ": refused");
  check();
  mica_tensor_info info;
  if (mica_graph_tensor_info(g_, t, &info) != MICA_OK)
    throw Refused{piece_, MICA_INTERNAL, "no shape of a tensor"};
  item.dtype = info.dtype;
  item.rank = info.rank;
  std::copy_n(info.dim, 4, item.dim);
  item.extent = -1;
  for (const auto& [index, e] : extents_)
    if (info.extent.index != 0 && e.index == info.extent.index) item.extent = index;
  line += "  # " + std::string(mica_dtype_get(item.dtype)->name) + " " + text_of(item.dims());
  if (item.extent >= 0) line += " " + s_.extents[static_cast<size_t>(item.extent)].name;
  s_.log.push_back(line);
  items_.push_back(item);
  return item;
}

// A value that passes, rather one of the last.
const Item* Maker::pick(const Test& test) {
  std::vector<const Item*> found;
  for (const Item& item : items_)
    if (test(item)) found.push_back(&item);
  if (found.empty()) return nullptr;
  const size_t from = found.size() > 3 && rng_.chance(50) ? found.size() - 3 : 0;
  const auto at = static_cast<size_t>(
      rng_.in(static_cast<int64_t>(from), static_cast<int64_t>(found.size()) - 1));
  return found[at];
}

Item Maker::value(const Test& test) {
  if (const Item* found = pick(test); found != nullptr && !rng_.chance(15)) return *found;
  const int extent = rng_.chance(50) ? static_cast<int>(rng_.in(0, 1)) : -1;
  for (int i = 0; i < 4; ++i) {
    Item probe;
    const Dims dim = shape(extent);
    probe.rank = static_cast<uint32_t>(dim.size());
    std::copy(dim.begin(), dim.end(), probe.dim);
    probe.extent = extent;
    probe.dtype = i < 3 ? any_float() : MICA_F32;
    if (test(probe)) return input(probe.dtype, dim, {Fill::kNormal, 0, 1}, extent);
  }
  return input(MICA_F32, shape(-1), {Fill::kNormal, 0, 1});
}

// An input; of one kind and shape the plans of a case may share it.
Item Maker::input(mica_dtype dtype, const Dims& dim, const Fill& fill, int extent, bool writable) {
  const Leaf* leaf = nullptr;
  for (const Leaf& l : s_.inputs) {
    const bool alike = l.dtype == dtype && l.dim == dim && l.extent == extent &&
                       l.fill.kind == fill.kind && l.fill.a == fill.a && l.fill.b == fill.b &&
                       !l.written && !writable;
    if (alike && named_.count(l.name) == 0 && rng_.chance(70)) leaf = &l;
  }
  std::string called = leaf != nullptr ? leaf->name : "";
  if (leaf == nullptr) {
    called = "in" + std::to_string(plan_) + "_" + std::to_string(piece_) + "_" +
             std::to_string(n_named_++);
    s_.inputs.push_back({called, dtype, dim, fill, extent, writable, true, {}});
  }
  named_.insert(called);
  const mica_tensor t = mica_input(g_, called.c_str(), dtype, static_cast<uint32_t>(dim.size()),
                                   dim.data(), extent_of(extent));
  Item like;
  like.size = fill.size();
  Item item = add(t, like, "input '" + called + "'");
  items_.back().is_leaf = item.is_leaf = true;
  // What int8 activations make of infinities is unspecified: a mask is an operand by choice.
  if (fill.kind == Fill::kMask) items_.pop_back();
  return item;
}

Item Maker::weight(mica_dtype dtype, const Dims& dim, const Fill& fill) {
  std::string called;
  for (const Leaf& l : s_.weight_leaves)
    if (l.dtype == dtype && l.dim == dim && l.fill.kind == fill.kind && l.fill.a == fill.a &&
        l.fill.b == fill.b && rng_.chance(30))
      called = l.name;
  if (called.empty()) {
    called = "w" + std::to_string(plan_) + "_" + std::to_string(piece_) + "_" +
             std::to_string(n_named_++);
    const mica_status status = mica_weights_describe(s_.weights, called.c_str(), dtype,
                                                     static_cast<uint32_t>(dim.size()), dim.data());
    if (status != MICA_OK) throw Refused{piece_, status, "a weight is not described"};
    s_.weight_leaves.push_back({called, dtype, dim, fill, -1, false, true, {}});
  }
  Item like;
  like.size = fill.size();
  like.of_weight = true;
  const Item item =
      add(mica_weight(g_, s_.weights, called.c_str()), like, "weight '" + called + "'", true);
  // Weights are operands by choice, not whatever op comes: most devices keep them packed.
  if (!s_.wild || !rng_.chance(25)) items_.pop_back();
  return item;
}

Item Maker::operand(const Dims& dim, const Fill& fill, int extent) {
  const mica_dtype dtype = rng_.chance(80) ? MICA_F32 : any_float();
  const bool vector = dim.size() == 1;
  if (extent < 0 && rng_.chance(vector ? 60 : s_.wild ? 40 : 3)) return weight(dtype, dim, fill);
  return input(dtype, dim, fill, extent);
}

Item Maker::tame(Item x) {
  if (x.size <= kLarge || !is_float(x.dtype)) return x;
  const int power = static_cast<int>(std::ceil(std::log2(x.size)));
  const auto factor = static_cast<float>(std::ldexp(4, -power));
  Item y = add(mica_scale(g_, x.t, factor, 0), x,
               "mica_scale(" + use(x) + ", " + std::to_string(factor) + ", 0)");
  y.packed = y.rows = true;
  y.exact = false;
  y.size = 4;
  return items_.back() = y;
}

mica_dtype Maker::any_float() {
  return rng_.of(
      std::vector<mica_dtype>{MICA_F32, MICA_F32, MICA_F32, MICA_F32, MICA_F16, MICA_BF16});
}

// A dtype in which a row of k elements can be held.
mica_dtype Maker::weight_type(int64_t k) {
  static const std::vector<mica_dtype> all = {MICA_F32,  MICA_F32,  MICA_F16,  MICA_BF16, MICA_Q8_0,
                                              MICA_Q8_0, MICA_Q4_0, MICA_Q4_1, MICA_Q5_0, MICA_Q5_1,
                                              MICA_Q4_K, MICA_Q5_K, MICA_Q6_K};
  for (;;) {
    const mica_dtype d = rng_.of(all);
    if (k % block_of(d) == 0) return d;
  }
}

int64_t Maker::any_dim() {
  static const std::vector<int64_t> some = {1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 24, 31, 33, 40};
  return rng_.of(some);
}

// Few elements; rows often of whole blocks; the extent's maximum last.
Dims Maker::shape(int extent) {
  static const std::vector<int64_t> rows = {1,  2,  3,  5,  8,  16, 17, 31, 32, 32,  32,
                                            33, 40, 48, 64, 64, 64, 64, 96, 96, 256, 512};
  const int64_t rank = rng_.of(std::vector<int64_t>{1, 2, 2, 2, 2, 3, 3, 4});
  Dims dim = {rng_.of(rows)};
  int64_t elements = dim[0];
  for (int64_t i = 1; i < std::max<int64_t>(rank, extent >= 0 ? 2 : 1); ++i) {
    int64_t n = rng_.of(std::vector<int64_t>{1, 2, 2, 3, 4, 4, 5, 6, 8, 12, 17});
    if (elements * n > 1024) n = 2;
    dim.push_back(n);
    elements *= n;
  }
  if (extent >= 0) dim.back() = s_.extents[static_cast<size_t>(extent)].max;
  return dim;
}

void Maker::build() {
  const auto begin = [&](int piece) {
    piece_ = piece;
    n_named_ = 0;
    mica_graph_scope(g_, ("piece." + std::to_string(piece)).c_str());
    rng_ = Rng(s_.seed, static_cast<uint64_t>(piece >= kLayerPiece ? piece * 16 + plan_ : piece));
    if (s_.skip.count(piece) != 0) return false;
    s_.pieces.insert(piece);
    return true;
  };
  s_.log.push_back("graph " + std::to_string(plan_) + ":");
  rng_ = Rng(s_.seed, static_cast<uint64_t>(1000000 + plan_));
  const int64_t n_inputs = rng_.in(1, kFewInputs), n_pieces = rng_.in(kFewPieces, kMostPieces);
  const bool late_layers = rng_.chance(30);
  const auto layers = [&] {
    for (size_t i = 0; tokens_ >= 0 && i < s_.layers.size(); ++i)
      if (begin(kLayerPiece + static_cast<int>(i))) layer(static_cast<int>(i));
  };
  for (int i = 0; i < n_inputs; ++i) {
    if (!begin(plan_ * kPlanPieces + 50 + i)) continue;
    const int extent = rng_.chance(60) ? static_cast<int>(rng_.in(0, 1)) : -1;
    const mica_dtype dtype = any_float();
    input(dtype, shape(extent), {Fill::kNormal, 0, 1}, extent);
  }
  if (!late_layers) layers();
  for (int i = 0; i < n_pieces; ++i)
    if (begin(plan_ * kPlanPieces + i)) step();
  if (late_layers) layers();
  begin(plan_ * kPlanPieces + 99);
  finish();
  check();
}

// The values that nobody reads are outputs, and some others are.
void Maker::finish() {
  const size_t n = items_.size();
  for (size_t i = 0; i < n; ++i) {
    Item x = items_[i];
    if (x.is_leaf || !(i + 1 == n || rng_.chance(x.reads == 0 ? 80 : 12))) continue;
    if (!x.packed || x.of_weight || rng_.chance(5)) x = copy_of(x);
    const std::string called = "out" + std::to_string(outputs.size());
    mica_output(g_, x.t, called.c_str());
    s_.log.push_back("  output '" + called + "' = " + name(x));
    outputs.push_back({called, x.exact, x.extent});
  }
  if (!outputs.empty()) return;
  const Item x = copy_of(items_.empty() ? input(MICA_F32, {4}, {}) : items_.back());
  mica_output(g_, x.t, "out0");
  outputs.push_back({"out0", x.exact, x.extent});
}

}  // namespace mica::fuzz
