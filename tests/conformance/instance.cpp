// Builds, fills and runs one case on one device.
#include "tests/conformance/instance.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "tests/conformance/recycler.h"
#include "tests/conformance/values.h"

namespace mica::conformance {
namespace {

struct Failure {
  mica_status status;
  std::string text;
  bool unsupported = false;  // the device may say so of weights, caches and graphs
};

// A weight, or an input as one graph has it.
struct Leaf {
  std::string name;
  mica_dtype dtype;
  std::vector<int64_t> dim;
  Values values;
  uint32_t extent;
  size_t plan;
  std::vector<unsigned char> bytes;  // as last written
};

struct LiveExtent {
  std::string name;
  mica_extent extent;
  int64_t live;
  size_t plan;
  int64_t max;
};

struct Named {
  std::string name;
  size_t plan;
  bool is_far;
};

constexpr const char* kTokens = "n_tokens";  // the extent of a cache's tokens

class Instance final : public CaseBuilder {
 public:
  Instance(const Case& c, const RunOptions& options) : case_(c), options_(options) {}
  void open() {
    if (options_.opened != nullptr && !case_.other_weights_before) {
      context_ = options_.context;
      device_ = options_.opened;
    } else {
      open_own();
    }
    check(mica_weights_create(device_, &weights_));
    next_graph(Compiled::kAtOnce);
  }
  // The whole case with other values, of which nothing is left behind it but the device.
  void run_before() {
    RunResult nobody_reads;
    seed_ = ~options_.seed;
    run(nobody_reads);
    seed_ = options_.seed;
    release();
    check(mica_weights_create(device_, &weights_));
    next_graph(Compiled::kAtOnce);
    take_numerics(options_.role);
  }
  ~Instance() override {
    release();
    if (device_ == options_.opened && device_ != nullptr) return;
    mica_device_release(device_);
    mica_context_release(context_);
  }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  mica_graph* graph() override { return graphs_.back(); }
  mica_graph* next_graph(Compiled when) override {
    graphs_.push_back(nullptr);
    check(mica_graph_create(context_, &graphs_.back()));
    if (when == Compiled::kAtOnce) n_at_once_ = graphs_.size();
    return graphs_.back();
  }
  mica_extent extent(const char* name, int64_t max, int64_t live) override {
    const mica_extent e = mica_graph_extent(graph(), name, max);
    extents_.push_back({name, e, live, last(), max});
    return e;
  }
  mica_tensor input(const char* name, mica_dtype dtype, std::vector<int64_t> dim, Values values,
                    mica_extent extent) override {
    const mica_tensor t =
        mica_input(graph(), name, dtype, static_cast<uint32_t>(dim.size()), dim.data(), extent);
    inputs_.push_back({name, dtype, std::move(dim), std::move(values), extent.index, last(), {}});
    return t;
  }
  mica_tensor weight(const char* name, mica_dtype dtype, std::vector<int64_t> dim,
                     Values values) override {
    const auto same = [&](const Leaf& leaf) { return leaf.name == name; };
    if (std::none_of(leaves_.begin(), leaves_.end(), same)) {
      check_supported(mica_weights_describe(weights_, name, dtype,
                                            static_cast<uint32_t>(dim.size()), dim.data()));
      leaves_.push_back({name, dtype, std::move(dim), std::move(values), 0, last(), {}});
    }
    return mica_weight(graph(), weights_, name);
  }
  mica_kv_cache* cache(const mica_kv_params& params, std::vector<Step> steps) override {
    check_supported(mica_kv_cache_create(device_, &params, &cache_));
    steps_ = std::move(steps);
    max_tokens_ = params.max_step_tokens;
    return cache_;
  }
  mica_extent n_tokens(int64_t max) override {
    for (const LiveExtent& e : extents_)
      if (e.plan == last() && e.name == kTokens) return e.extent;
    return extent(kTokens, max > 0 ? max : max_tokens_, 0);
  }
  void output(mica_tensor tensor) override { add_output(tensor, false); }
  void far_output(mica_tensor tensor) override { add_output(tensor, true); }
  void written(const char* input) override { written_.push_back({input, last(), false}); }

  void run(RunResult& result) {
    case_.build(*this);
    result.n_graphs = graphs_.size();
    for (const mica_graph* g : graphs_) {
      const char* text = nullptr;
      if (const mica_status status = mica_graph_status(g, &text); status != MICA_OK)
        throw Failure{status, text};
    }
    mica_session_params params = MICA_SESSION_PARAMS_INIT;
    params.cache = cache_;
    params.variant = options_.variant.empty() ? nullptr : options_.variant.c_str();
    params.unfused = options_.unfused ? 1 : 0;
    check(mica_session_create(device_, &params, &session_));
    compile(options_.plan_only ? graphs_.size() : n_at_once_);
    if (options_.plan_only) return explain(result);
    load_weights();
    check(mica_session_allocate(session_));
    if (steps_.empty()) default_steps();
    if (options_.other == RunOptions::kBefore) run_other(result);
    for (size_t i = 0; i < steps_.size(); ++i)
      result.steps.push_back(run_step(steps_[i], i, result));
    if (options_.other == RunOptions::kAfter) run_other(result);
    if (options_.other == RunOptions::kAfter && cache_ == nullptr) repeat(result);
    if (options_.role == Role::kTested && result.changed.empty()) result.changed = changed_weight();
  }

 private:
  void open_own() {
    mica_context_params params = MICA_CONTEXT_PARAMS_INIT;
    if (case_.other_weights_before) params.allocator = recycler_.allocator();
    check(mica_context_create(&params, &context_));
    check(mica_context_add_backend(context_, options_.backend));
    check(mica_device_open(context_, options_.device.c_str(), &device_));
  }
  void release() {
    mica_session_release(std::exchange(session_, nullptr));
    for (mica_graph* g : graphs_) mica_graph_release(g);
    mica_kv_cache_release(std::exchange(cache_, nullptr));
    mica_weights_release(std::exchange(weights_, nullptr));
    graphs_.clear(), plans_.clear(), inputs_.clear(), leaves_.clear(), extents_.clear();
    outputs_.clear(), written_.clear(), steps_.clear();
  }
  void check(mica_status status) const {
    if (status != MICA_OK)
      throw Failure{status, context_ != nullptr ? mica_context_error(context_) : "no context"};
  }
  void check_supported(mica_status status) const {
    if (status == MICA_UNSUPPORTED) throw Failure{status, mica_context_error(context_), true};
    check(status);
  }

  size_t last() const { return graphs_.size() - 1; }
  void add_output(mica_tensor tensor, bool is_far) {
    outputs_.push_back({"out" + std::to_string(outputs_.size()), last(), is_far});
    mica_output(graph(), tensor, outputs_.back().name.c_str());
  }

  // The graphs up to number `end` that are not compiled yet.
  void compile(size_t end) {
    const size_t first = plans_.size();
    plans_.resize(end);
    check_supported(mica_session_compile(session_, static_cast<uint32_t>(end - first),
                                         graphs_.data() + first, plans_.data() + first));
  }
  // Each plan, and the first again.
  void default_steps() {
    steps_.resize(graphs_.size() > 1 ? graphs_.size() + 1 : 1);
    for (size_t i = 0; i < graphs_.size(); ++i) steps_[i].plan = i;
  }

  void explain(RunResult& result) const {
    for (const mica_plan* plan : plans_) {
      size_t size = 0;
      check(mica_plan_explain(plan, nullptr, 0, &size));
      std::string text(size + 1, '\0');
      check(mica_plan_explain(plan, text.data(), text.size(), &size));
      text.resize(size);
      result.explain += text;
    }
  }

  void load_weights() {
    for (Leaf& leaf : leaves_) fill(leaf, 0);
    const mica_weight_source source = {
        this,
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          *out = static_cast<Instance*>(user)->leaves_[i].bytes.data() + offset;
          return MICA_OK;
        },
        nullptr};
    check(mica_weights_load(weights_, &source));
  }

  int64_t live_of(uint32_t extent, size_t plan) const {
    for (const LiveExtent& e : extents_)
      if (e.extent.index == extent && e.plan == plan) return e.live;
    return 0;
  }

  void fill(Leaf& leaf, size_t step) const {
    leaf.bytes = leaf_bytes(leaf.name, leaf.dtype, leaf.dim, leaf.values, seed_, step);
    if (leaf.bytes.empty()) throw Failure{MICA_INTERNAL, "the case's values cannot be encoded"};
  }
  // Values that must not matter: NaN, of other bits than the guard's fill, or numbers that are
  // among the largest of their dtype; and in either case no index.
  void spoil(Leaf& in, size_t from) const {
    const bool wide = in.dtype == MICA_F32 || in.dtype == MICA_BF16;
    const int low = !options_.large_dead_rows ? 0xc4 : wide ? 0x61 : 0xff;
    const int high = !options_.large_dead_rows || wide ? 0x7f : 0x7b;
    for (size_t i = from; i < in.bytes.size(); ++i)
      in.bytes[i] = static_cast<unsigned char>(i % 2 != 0 ? high : low);
  }
  void set(const Leaf& in) const {
    check(mica_session_set(session_, in.name.c_str(), 0, in.bytes.data(), in.bytes.size()));
  }

  // Values number `step` for the plan that runs; what it does not read is spoilt: rows beyond the
  // live ones, and the inputs of other plans.
  void write_inputs(size_t plan, size_t step) {
    for (Leaf& in : inputs_) {
      if (in.plan == plan || in.plan >= plans_.size()) continue;
      fill(in, step + 1);
      spoil(in, 0);
      set(in);
    }
    for (Leaf& in : inputs_) {
      if (in.plan != plan) continue;
      fill(in, step + 1);
      const size_t row = in.bytes.size() / static_cast<size_t>(in.dim.back());
      if (in.extent != 0) spoil(in, row * static_cast<size_t>(live_of(in.extent, plan)));
      set(in);
    }
  }

  void run_plan(size_t plan, size_t step, RunResult& result) {
    for (const LiveExtent& e : extents_)
      if (e.plan == plan) check(mica_session_set_extent(session_, e.name.c_str(), e.live));
    write_inputs(plan, step);
    check(mica_plan_run(plans_[plan]));
    for (const Leaf& in : inputs_)
      if (in.plan == plan && result.changed.empty()) result.changed = changed(in);
  }

  std::vector<OutputData> run_step(const Step& step, size_t i, RunResult& result) {
    if (step.plan >= plans_.size()) {
      compile(step.plan + 1);
      check(mica_session_allocate(session_));
    }
    if (cache_ != nullptr) {
      if (step.edit) check(step.edit(cache_));
      int64_t n = 0;
      for (const mica_kv_span& s : step.spans) n += s.n_tokens;
      for (LiveExtent& e : extents_)
        if (e.name == kTokens && e.plan == step.plan) e.live = n;
      check(step.shift ? mica_kv_reserve_shift(cache_, 0, nullptr)
                       : mica_kv_reserve(cache_, static_cast<uint32_t>(step.spans.size()),
                                         step.spans.data()));
    }
    run_plan(step.plan, i, result);
    std::vector<OutputData> outputs = read_outputs(step.plan);
    read_cells(outputs);
    return outputs;
  }

  // A step of the first step's plan with other inputs, and with about half as many rows, or a few
  // where there was none or one. Of cases with a cache only those of one step: others have a step
  // after a step.
  void run_other(RunResult& result) {
    if (cache_ != nullptr && (steps_.size() > 1 || steps_[0].shift)) return;
    const std::vector<LiveExtent> as_they_were = extents_;
    for (LiveExtent& e : extents_)
      e.live = e.live > 1 ? (e.live + 1) / 2 : std::min(e.max, e.live + 2);
    Step step = steps_[0];
    for (mica_kv_span& s : step.spans)
      if (s.n_tokens > 1) s.n_tokens = (s.n_tokens + 1) / 2;
    constexpr size_t kNumber = 1000;
    if (cache_ != nullptr) mica_kv_clear(cache_);
    result.other = run_step(step, kNumber, result);
    if (cache_ != nullptr) mica_kv_clear(cache_);
    extents_ = as_they_were;
  }

  // Which byte of an input the step changed; "": none.
  std::string changed(const Leaf& in) const {
    for (const Named& w : written_)
      if (w.name == in.name && w.plan == in.plan) return "";
    std::vector<unsigned char> now(in.bytes.size());
    check(mica_session_get(session_, in.name.c_str(), 0, now.data(), now.size()));
    return difference(in, now, "input", "the step changed it");
  }
  // Weights read back are what was loaded, bit by bit.
  std::string changed_weight() const {
    for (const Leaf& leaf : leaves_) {
      std::vector<unsigned char> now(leaf.bytes.size());
      check(mica_weights_read(weights_, leaf.name.c_str(), now.data(), now.size()));
      const std::string text =
          difference(leaf, now, "weight", "read back, it is not what was loaded");
      if (!text.empty()) return text;
    }
    return "";
  }
  static std::string difference(const Leaf& leaf, const std::vector<unsigned char>& now,
                                const char* kind, const char* what) {
    const auto at = std::mismatch(now.begin(), now.end(), leaf.bytes.begin()).first;
    if (at == now.end()) return "";
    return std::string(kind) + " '" + leaf.name + "', byte " + std::to_string(at - now.begin()) +
           ": " + what;
  }

  // What the step stored in the cache, as outputs.
  void read_cells(std::vector<OutputData>& all) const {
    if (cache_ == nullptr) return;
    for (StoredCells& c : stored_cells(options_.role)) {
      OutputData data(c.name, c.dtype);
      data.values = std::move(c.values);
      const int64_t cell = c.head_dim * c.n_kv_heads;
      const int64_t dim[4] = {c.head_dim, c.n_kv_heads,
                              static_cast<int64_t>(data.values.size()) / cell, 1};
      std::copy_n(dim, 4, data.dim);
      data.is_cells = true;
      data.steps = std::move(c.steps);
      all.push_back(std::move(data));
    }
  }

  static void decode(OutputData& data, int64_t n) {
    data.values.resize(static_cast<size_t>(n));
    if (n == 0) return;
    std::vector<float> floats(data.values.size());
    if (mica_dtype_decode(data.dtype, data.bytes.data(), floats.data(), floats.size()) != MICA_OK)
      throw Failure{MICA_INTERNAL, "an output cannot be decoded"};
    for (size_t i = 0; i < floats.size(); ++i) data.values[i] = static_cast<double>(floats[i]);
  }

  std::vector<OutputData> read_outputs(size_t i_plan) const {
    std::vector<OutputData> all;
    mica_plan* const plan = plans_[i_plan];
    for (const Named& out : outputs_) {
      if (out.plan != i_plan) continue;
      const char* const name = out.name.c_str();
      mica_tensor_info info;
      check(mica_plan_output_info(plan, name, &info));
      if (info.extent.index != 0) info.dim[info.rank - 1] = live_of(info.extent.index, i_plan);
      const int64_t n = info.dim[0] * info.dim[1] * info.dim[2] * info.dim[3];
      const mica_dtype_info* d = mica_dtype_get(info.dtype);
      OutputData data(out.name, info.dtype);
      data.bytes.resize(static_cast<size_t>(n) / d->block_elems * d->block_bytes);
      if (n > 0) check(mica_plan_read(plan, name, 0, data.bytes.data(), data.bytes.size()));
      std::copy_n(info.dim, 4, data.dim);
      check(mica_plan_output_numerics(plan, name, &data.numerics));
      data.is_far = out.is_far;
      decode(data, n);
      all.push_back(std::move(data));
    }
    for (const Named& w : written_)
      for (const Leaf& in : inputs_)
        if (in.name == w.name && w.plan == i_plan && in.plan == i_plan) {
          OutputData data(in.name, in.dtype);
          data.is_written_input = true;
          data.bytes.resize(in.bytes.size());
          check(
              mica_session_get(session_, in.name.c_str(), 0, data.bytes.data(), data.bytes.size()));
          all.push_back(std::move(data));
        }
    return all;
  }

  // The first step again: bit-equal results are required (determinism), and --perf times it.
  void repeat(RunResult& result) {
    run_plan(0, 0, result);
    const std::vector<OutputData> again = read_outputs(0);
    for (size_t i = 0; i < again.size(); ++i)
      if (again[i].bytes != result.steps[0][i].bytes)
        throw Failure{MICA_INTERNAL, "the first step, run again, gave different bits"};
    for (uint32_t i = 0; i < options_.n_timed; ++i) {
      const auto start = std::chrono::steady_clock::now();
      check(mica_plan_run(plans_[0]));
      const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
      result.seconds.push_back(d.count());
    }
  }

  const Case& case_;
  const RunOptions& options_;
  uint64_t seed_ = options_.seed;
  Recycler recycler_;  // of cases with other weights before
  mica_context* context_ = nullptr;
  mica_device* device_ = nullptr;
  mica_weights* weights_ = nullptr;
  std::vector<mica_graph*> graphs_;
  size_t n_at_once_ = 1;  // graphs that are compiled before the first step
  mica_kv_cache* cache_ = nullptr;
  int64_t max_tokens_ = 0;
  mica_session* session_ = nullptr;
  std::vector<mica_plan*> plans_;
  std::vector<Leaf> inputs_, leaves_;  // an input once a graph
  std::vector<LiveExtent> extents_;
  std::vector<Named> outputs_, written_;
  std::vector<Step> steps_;
};

}  // namespace

RunResult run_case(const Case& c, const RunOptions& options) {
  RunResult result;
  take_numerics(options.role);
  try {
    Instance instance(c, options);
    instance.open();
    if (c.other_weights_before && options.role == Role::kTested && !options.plan_only)
      instance.run_before();
    instance.run(result);
    result.numerics = take_numerics(options.role);
  } catch (const Failure& f) {
    result.status = f.status;
    result.text = f.text;
    result.unsupported = f.unsupported;
  }
  return result;
}

}  // namespace mica::conformance
