#include "tests/fuzz/graph_run.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>

namespace mica::fuzz {
namespace {

struct Failure {
  mica_status status;
  std::string text;
};

// A device of a context of its own, which the runs of all cases in a process share: opening one
// takes as long as many a case.
struct Opened {
  mica_context* context = nullptr;
  mica_device* device = nullptr;
};
Opened opened(const RunSettings& o, uint32_t n_threads) {
  using Key = std::tuple<pid_t, const mica_backend*, std::string, conformance::Role, uint32_t>;
  static std::map<Key, Opened> all;
  const mica_backend* const backend = conformance::guarded(o.backend, o.role);
  Opened& here = all[{getpid(), o.backend, o.device, o.role, n_threads}];
  if (here.device != nullptr) return here;
  mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
  params.n_threads = n_threads;
  mica_status status =
      here.context == nullptr ? mica_context_create(&params, &here.context) : MICA_OK;
  if (status == MICA_OK) status = mica_context_add_backend(here.context, backend);
  if (status == MICA_OK) status = mica_device_open(here.context, o.device.c_str(), &here.device);
  if (status != MICA_OK) throw Failure{status, "the device cannot be opened"};
  return here;
}

// A value of an extent: often at its ends.
int64_t live_of(Rng& rng, int64_t max) {
  switch (rng.in(0, 6)) {
    case 0:
      return 0;
    case 1:
      return 1;
    case 2:
      return max - 1;
    case 3:
    case 4:
      return max;
    default:
      return rng.in(0, max);
  }
}

class World {
 public:
  World(const RunSettings& settings, RunResult& result) : o_(settings), r_(result) {}
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() {
    mica_session_release(session_);
    for (mica_graph* g : graphs_) mica_graph_release(g);
    mica_kv_cache_release(shared_.cache);
    mica_weights_release(shared_.weights);
    r_.log = std::move(shared_.log);
    r_.pieces = std::move(shared_.pieces);
  }

  void all() {
    choose();
    open();
    build();
    if (o_.build_only) return;
    r_.stage = RunResult::kCompile;
    compile();
    r_.stage = RunResult::kRun;
    load();
    check(mica_session_allocate(session_));
    for (int64_t i = 0; i < n_rounds_; ++i) round(i);
    r_.stage = RunResult::kDone;
  }

 private:
  void check(mica_status status) const {
    if (status != MICA_OK)
      throw Failure{status, context_ != nullptr ? mica_context_error(context_) : "no context"};
  }

  // What does not depend on the graphs.
  void choose() {
    Rng rng(o_.seed, 2000000);
    shared_.seed = o_.seed;
    shared_.skip = o_.skip;
    shared_.wild = rng.chance(20);
    n_threads_ = rng.chance(15) ? 3 : 1;
    n_plans_ = rng.of(std::vector<int64_t>{1, 1, 1, 1, 2, 2, 3});
    n_rounds_ = rng.in(1, 3);
    static const std::vector<int64_t> maxima = {1, 2, 3, 4, 5, 8, 13, 24};
    shared_.extents = {{"n", rng.of(maxima), 0}, {"m", rng.of(maxima), 0}};
    if (!rng.chance(40)) return;
    n_rounds_ = rng.in(2, 4);
    static const std::vector<int64_t> tokens = {1, 1, 2, 3, 5, 7, 9, 16, 16, 33, 70};
    for (int64_t p = 0; p < n_plans_; ++p)
      shared_.extents.push_back({"tokens" + std::to_string(p), rng.of(tokens), 0});
    choose_layers(rng);
  }

  void choose_layers(Rng& rng) {
    static const std::vector<uint32_t> dims = {8, 16, 20, 32, 32, 40, 64};
    static const std::vector<mica_dtype> dtypes = {MICA_F32,  MICA_F32,  MICA_F16,
                                                   MICA_BF16, MICA_Q8_0, MICA_Q4_0,
                                                   MICA_Q4_1, MICA_Q5_0, MICA_Q5_1};
    const int64_t n = rng.in(1, 3);
    for (int64_t i = 0; i < n; ++i) {
      mica_kv_layer l = MICA_KV_LAYER_INIT;
      l.n_kv_heads = rng.of(std::vector<uint32_t>{1, 1, 2, 3});
      l.head_dim_k = rng.of(dims);
      l.head_dim_v = rng.chance(80) ? l.head_dim_k : rng.of(dims);
      l.dtype_k = rng.of(dtypes);
      l.dtype_v = rng.chance(50) ? l.dtype_k : rng.of(dtypes);
      if (rng.chance(35)) l.window = static_cast<uint32_t>(rng.in(1, 40));
      if (l.window > 0 && rng.chance(40)) l.n_first = static_cast<uint32_t>(rng.in(1, 9));
      if (i > 0 && rng.chance(30)) {
        const mica_kv_layer& before = shared_.layers.back();
        l = before;
        if (before.source == MICA_KV_NO_SOURCE) l.source = static_cast<uint32_t>(i - 1);
      }
      shared_.layers.push_back(l);
    }
    cells_ = static_cast<uint32_t>(rng.in(2, 3)) * 64;
  }

  void open() {
    const Opened here = opened(o_, n_threads_);
    context_ = here.context;
    device_ = here.device;
    check(mica_weights_create(device_, &shared_.weights));
    if (shared_.layers.empty()) return;
    mica_kv_params kv = MICA_KV_PARAMS_INIT;
    kv.n_layers = static_cast<uint32_t>(shared_.layers.size());
    kv.layers = shared_.layers.data();
    kv.n_cells = cells_;
    kv.max_seqs = 3;
    for (size_t i = 2; i < shared_.extents.size(); ++i)
      kv.max_step_tokens =
          std::max(i == 2 ? 1u : kv.max_step_tokens, static_cast<uint32_t>(shared_.extents[i].max));
    check(mica_kv_cache_create(device_, &kv, &shared_.cache));
    for (const mica_kv_layer& l : shared_.layers)
      shared_.log.push_back("layer: " + std::to_string(l.n_kv_heads) + " kv heads of " +
                            std::to_string(l.head_dim_k) + " " + mica_dtype_get(l.dtype_k)->name +
                            " and " + std::to_string(l.head_dim_v) + " " +
                            mica_dtype_get(l.dtype_v)->name + ", window " +
                            std::to_string(l.window) + ", first " + std::to_string(l.n_first) +
                            ", source " + std::to_string(static_cast<int>(l.source)));
  }

  void build() {
    for (int p = 0; p < n_plans_; ++p) {
      graphs_.push_back(nullptr);
      check(mica_graph_create(context_, &graphs_.back()));
      makers_.push_back(std::make_unique<Maker>(shared_, graphs_.back(), p,
                                                shared_.cache != nullptr ? 2 + p : -1));
      makers_.back()->build();
    }
  }

  void compile() {
    mica_session_params params = MICA_SESSION_PARAMS_INIT;
    params.cache = shared_.cache;
    params.unfused = o_.unfused ? 1 : 0;
    check(mica_session_create(device_, &params, &session_));
    plans_.resize(graphs_.size());
    check(mica_session_compile(session_, static_cast<uint32_t>(graphs_.size()), graphs_.data(),
                               plans_.data()));
  }

  void load() {
    for (Leaf& w : shared_.weight_leaves) w.bytes = leaf_bytes(w, o_.seed, 0);
    const mica_weight_source source = {
        this,
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          *out = static_cast<World*>(user)->shared_.weight_leaves[i].bytes.data() + offset;
          return MICA_OK;
        },
        nullptr};
    check(mica_weights_load(shared_.weights, &source));
  }

  bool uses_cache(int plan) const {
    for (const int piece : shared_.pieces)
      if (piece >= kLayerPiece) return shared_.cache != nullptr && plan >= 0;
    return false;
  }

  // Fresh values; rows beyond the live ones hold NaN and numbers that are no index.
  void write_inputs(int64_t i_round) {
    for (Leaf& in : shared_.inputs) {
      in.bytes = leaf_bytes(in, o_.seed, static_cast<uint64_t>(i_round) + 1);
      if (in.extent >= 0) {
        const size_t row = in.bytes.size() / static_cast<size_t>(in.dim.back());
        const int64_t live = shared_.extents[static_cast<size_t>(in.extent)].live;
        for (size_t i = row * static_cast<size_t>(live); i < in.bytes.size(); ++i)
          in.bytes[i] = i % 2 != 0 ? 0x7f : 0xc4;
      }
      set_optional(mica_session_set(session_, in.name.c_str(), 0, in.bytes.data(), in.bytes.size()),
                   in);
    }
  }
  // An input that no output needs is not in the plan.
  void set_optional(mica_status status, Leaf& in) const {
    if (status == MICA_NOT_FOUND) in.bytes.clear();
    if (status != MICA_NOT_FOUND) check(status);
  }

  void event(const std::string& what, mica_status status) {
    r_.events.push_back(what + ": " + mica_status_name(status));
    if (status != MICA_OK && status != MICA_INVALID_ARGUMENT && status != MICA_CACHE_FULL)
      throw Failure{status, what + ": " + mica_context_error(context_)};
  }

  void edit_cache(Rng& rng) {
    const auto seq = [&] { return static_cast<uint32_t>(rng.in(0, 2)); };
    const uint32_t a = seq(), b = seq();
    const int64_t from = rng.in(0, 40), to = rng.chance(30) ? -1 : from + rng.in(1, 60);
    const std::string range = " [" + std::to_string(from) + ", " + std::to_string(to) + ")";
    if (rng.chance(25))
      event("seq_cp " + std::to_string(a) + " to " + std::to_string(b),
            mica_kv_seq_cp(shared_.cache, a, b, 0, rng.chance(70) ? -1 : to));
    if (rng.chance(15))
      event("seq_rm " + std::to_string(a) + range, mica_kv_seq_rm(shared_.cache, a, from, to));
    if (rng.chance(10))
      event("seq_rm " + std::to_string(b), mica_kv_seq_rm(shared_.cache, b, 0, -1));
    if (rng.chance(3)) event("seq_keep " + std::to_string(a), mica_kv_seq_keep(shared_.cache, a));
  }

  static std::vector<mica_kv_span> spans_of(Rng& rng, int64_t most) {
    std::vector<mica_kv_span> spans;
    std::vector<uint32_t> seqs = {0, 1, 2};
    for (size_t i = 2; i > 0; --i)
      std::swap(seqs[i], seqs[static_cast<size_t>(rng.in(0, static_cast<int64_t>(i)))]);
    const int64_t n = rng.in(1, 3);
    for (int64_t i = 0; i < n && most > 0; ++i) {
      const int64_t tokens = rng.chance(35) ? 1 : rng.chance(40) ? most : rng.in(1, most);
      spans.push_back({seqs[static_cast<size_t>(i)], static_cast<uint32_t>(tokens)});
      most -= tokens;
    }
    return spans;
  }

  void round(int64_t i) {
    Rng rng(o_.seed, static_cast<uint64_t>(3000000 + i));
    for (size_t e = 0; e < 2; ++e) shared_.extents[e].live = live_of(rng, shared_.extents[e].max);
    std::vector<std::vector<mica_kv_span>> spans;
    for (size_t p = 0; p < plans_.size() && shared_.cache != nullptr; ++p) {
      spans.push_back(spans_of(rng, shared_.extents[2 + p].max));
      shared_.extents[2 + p].live = 0;
      for (const mica_kv_span& s : spans.back()) shared_.extents[2 + p].live += s.n_tokens;
    }
    write_inputs(i);
    for (size_t p = 0; p < plans_.size(); ++p) {
      std::string what = "run " + std::to_string(i) + ", graph " + std::to_string(p) + ":";
      if (uses_cache(static_cast<int>(p))) {
        edit_cache(rng);
        for (const mica_kv_span& s : spans[p])
          what += " " + std::to_string(s.n_tokens) + " of sequence " + std::to_string(s.seq);
        const mica_status status =
            mica_kv_reserve(shared_.cache, static_cast<uint32_t>(spans[p].size()), spans[p].data());
        event(what, status);
        if (status != MICA_OK) continue;
      } else {
        event(what, MICA_OK);
      }
      for (const CaseExtent& e : shared_.extents) {
        const mica_status status = mica_session_set_extent(session_, e.name.c_str(), e.live);
        if (status != MICA_NOT_FOUND) check(status);
        if (status == MICA_OK)
          r_.events.back() +=
              " " + e.name + "=" + std::to_string(e.live) + "/" + std::to_string(e.max);
      }
      check(mica_plan_run(plans_[p]));
      look(p);
    }
  }

  void look(size_t plan) {
    std::vector<Seen> seen;
    const std::string prefix = "graph " + std::to_string(plan) + " ";
    for (const Output& out : makers_[plan]->outputs) {
      mica_tensor_info info;
      check(mica_plan_output_info(plans_[plan], out.name.c_str(), &info));
      if (out.extent >= 0)
        info.dim[info.rank - 1] = shared_.extents[static_cast<size_t>(out.extent)].live;
      Seen s{prefix + out.name, info.dtype, out.exact, false, {}, {}, {}, {1, 1, 1, 1}};
      std::copy_n(info.dim, 4, s.dim);
      s.bytes.resize(bytes_of(info));
      if (!s.bytes.empty())
        check(mica_plan_read(plans_[plan], out.name.c_str(), 0, s.bytes.data(), s.bytes.size()));
      seen.push_back(std::move(s));
    }
    for (const Leaf& in : shared_.inputs) {
      if (in.bytes.empty()) continue;
      Seen s{"input " + in.name, in.dtype, in.exact, false, {}, {}, {}, {1, 1, 1, 1}};
      std::copy(in.dim.begin(), in.dim.end(), s.dim);
      s.bytes.resize(in.bytes.size());
      check(mica_session_get(session_, in.name.c_str(), 0, s.bytes.data(), s.bytes.size()));
      if (in.written)
        seen.push_back(std::move(s));
      else if (s.bytes != in.bytes && r_.complaint.empty())
        r_.complaint = "the step changed the input '" + in.name + "'";
    }
    for (Seen& s : seen) decode(s);
    for (conformance::StoredCells& c : conformance::stored_cells(o_.role)) {
      Seen s{prefix + c.name,
             c.dtype,
             false,
             true,
             std::move(c.bytes),
             std::move(c.values),
             std::move(c.steps),
             {c.head_dim, c.n_kv_heads, 1, 1}};
      s.dim[2] = static_cast<int64_t>(s.values.size()) / (c.head_dim * c.n_kv_heads);
      seen.push_back(std::move(s));
    }
    if (r_.complaint.empty()) r_.complaint = conformance::guards_complaint(o_.role);
    r_.runs.push_back(std::move(seen));
    r_.labels.push_back(r_.events.back());
  }

  static size_t bytes_of(const mica_tensor_info& info) {
    const mica_dtype_info& d = *mica_dtype_get(info.dtype);
    return static_cast<size_t>(info.dim[0] * info.dim[1] * info.dim[2] * info.dim[3]) /
           d.block_elems * d.block_bytes;
  }

  static void decode(Seen& s) {
    std::vector<float> floats(static_cast<size_t>(s.dim[0] * s.dim[1] * s.dim[2] * s.dim[3]));
    if (!floats.empty() &&
        mica_dtype_decode(s.dtype, s.bytes.data(), floats.data(), floats.size()) != MICA_OK)
      throw Failure{MICA_INTERNAL, "an output cannot be decoded"};
    s.values.assign(floats.begin(), floats.end());
  }

  const RunSettings& o_;
  RunResult& r_;
  Shared shared_;
  uint32_t n_threads_ = 1, cells_ = 128;
  int64_t n_plans_ = 1, n_rounds_ = 1;
  mica_context* context_ = nullptr;
  mica_device* device_ = nullptr;
  mica_session* session_ = nullptr;
  std::vector<mica_graph*> graphs_;
  std::vector<std::unique_ptr<Maker>> makers_;
  std::vector<mica_plan*> plans_;
};

// The piece that a device's sentence names: by a node's scope, or by a weight.
int piece_in(const std::string& text) {
  const size_t scope = text.find("piece.");
  if (scope != std::string::npos) return std::atoi(text.c_str() + scope + 6);
  size_t at = text.find("'w");
  if (at != std::string::npos) at = text.find('_', at);
  return at != std::string::npos ? std::atoi(text.c_str() + at + 1) : -1;
}

}  // namespace

RunResult run(const RunSettings& settings) {
  RunResult result;
  conformance::take_numerics(settings.role);
  conformance::guards_complaint(settings.role);
  conformance::impose_numerics(settings.role, settings.imposed);
  impose_cells(settings.cells);
  try {
    World world(settings, result);
    world.all();
    result.numerics = conformance::take_numerics(settings.role);
  } catch (const Refused& r) {
    result.status = r.status;
    result.text = r.text;
    result.piece = r.piece;
  } catch (const Failure& f) {
    result.status = f.status;
    result.text = f.text;
    result.piece = piece_in(f.text);
  }
  if (result.complaint.empty()) result.complaint = conformance::guards_complaint(settings.role);
  return result;
}

}  // namespace mica::fuzz
