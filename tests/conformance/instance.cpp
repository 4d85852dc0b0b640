// Builds, fills and runs one case on one device.
#include "tests/conformance/instance.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>

namespace mica::conformance {
namespace {

struct Failure {
  mica_status status;
  std::string text;
  bool unsupported = false;  // the device may say so of weights, caches and graphs
};

struct Leaf {
  std::string name;
  mica_dtype dtype;
  std::vector<int64_t> dim;
  Values values;
  uint32_t extent;
  std::vector<unsigned char> bytes;  // as last written
};

struct LiveExtent {
  std::string name;
  uint32_t index;
  int64_t live;
};

uint64_t mix(uint64_t seed, const std::string& text, uint64_t step) {
  uint64_t h = 0xcbf29ce484222325ull ^ (seed * 0x9e3779b97f4a7c15ull) ^ step;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h ^ (h >> 31);
}

std::vector<float> make_values(const Values& v, size_t n, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> gauss(v.a, v.b);
  std::uniform_real_distribution<double> flat(v.a, v.b);
  std::uniform_int_distribution<int64_t> whole(static_cast<int64_t>(v.a),
                                               static_cast<int64_t>(v.b < v.a ? v.a : v.b));
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    double x = 0;
    switch (v.kind) {
      case Values::kNormal:
        x = gauss(rng);
        break;
      case Values::kUniform:
        x = flat(rng);
        break;
      case Values::kIntegers:
        x = static_cast<double>(whole(rng));
        break;
      case Values::kIota:
        x = v.a + v.b * static_cast<double>(i);
        break;
      case Values::kList:
        x = v.list[i % v.list.size()];
        break;
    }
    out[i] = static_cast<float>(x);
  }
  return out;
}

std::vector<unsigned char> encode(mica_dtype dtype, const std::vector<float>& values) {
  const mica_dtype_info* info = mica_dtype_get(dtype);
  std::vector<unsigned char> bytes(values.size() / info->block_elems * info->block_bytes);
  if (dtype == MICA_I32 || dtype == MICA_I64) {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto wide = static_cast<int64_t>(values[i]);
      const auto narrow = static_cast<int32_t>(wide);
      if (dtype == MICA_I32) std::memcpy(&bytes[i * 4], &narrow, 4);
      if (dtype == MICA_I64) std::memcpy(&bytes[i * 8], &wide, 8);
    }
    return bytes;
  }
  const mica_status status = mica_dtype_encode(dtype, values.data(), bytes.data(), values.size());
  if (status != MICA_OK) throw Failure{status, "the case's values cannot be encoded"};
  return bytes;
}

size_t elements(const std::vector<int64_t>& dim) {
  size_t n = 1;
  for (const int64_t d : dim) n *= static_cast<size_t>(d);
  return n;
}

class Instance final : public CaseBuilder {
 public:
  Instance(const Case& c, const RunOptions& options) : case_(c), options_(options) {}
  void open() {
    check(mica_context_create(nullptr, &context_));
    check(mica_context_add_backend(context_, options_.backend));
    check(mica_device_open(context_, options_.device.c_str(), &device_));
    check(mica_weights_create(device_, &weights_));
    check(mica_graph_create(context_, &graph_));
  }
  ~Instance() override {
    mica_session_release(session_);
    mica_graph_release(graph_);
    mica_kv_cache_release(cache_);
    mica_weights_release(weights_);
    mica_device_release(device_);
    mica_context_release(context_);
  }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  mica_graph* graph() override { return graph_; }
  mica_extent extent(const char* name, int64_t max, int64_t live) override {
    const mica_extent e = mica_graph_extent(graph_, name, max);
    extents_.push_back({name, e.index, live});
    return e;
  }
  mica_tensor input(const char* name, mica_dtype dtype, std::vector<int64_t> dim, Values values,
                    mica_extent extent) override {
    const mica_tensor t =
        mica_input(graph_, name, dtype, static_cast<uint32_t>(dim.size()), dim.data(), extent);
    inputs_.push_back({name, dtype, std::move(dim), std::move(values), extent.index, {}});
    return t;
  }
  mica_tensor weight(const char* name, mica_dtype dtype, std::vector<int64_t> dim,
                     Values values) override {
    check_supported(mica_weights_describe(weights_, name, dtype, static_cast<uint32_t>(dim.size()),
                                          dim.data()));
    leaves_.push_back({name, dtype, std::move(dim), std::move(values), 0, {}});
    return mica_weight(graph_, weights_, name);
  }
  mica_kv_cache* cache(const mica_kv_params& params, std::vector<Step> steps) override {
    check_supported(mica_kv_cache_create(device_, &params, &cache_));
    steps_ = std::move(steps);
    n_tokens_ = extent("n_tokens", params.max_step_tokens, 0);
    return cache_;
  }
  mica_extent n_tokens() override { return n_tokens_; }
  void output(mica_tensor tensor) override {
    outputs_.push_back("out" + std::to_string(outputs_.size()));
    mica_output(graph_, tensor, outputs_.back().c_str());
  }
  void far_output(mica_tensor tensor) override {
    output(tensor);
    far_.push_back(outputs_.back());
  }
  void written(const char* input) override { written_.push_back(input); }

  void run(RunResult& result) {
    case_.build(*this);
    const char* text = nullptr;
    if (const mica_status status = mica_graph_status(graph_, &text); status != MICA_OK)
      throw Failure{status, text};
    mica_session_params params = MICA_SESSION_PARAMS_INIT;
    params.cache = cache_;
    params.variant = options_.variant.empty() ? nullptr : options_.variant.c_str();
    params.unfused = options_.unfused ? 1 : 0;
    check(mica_session_create(device_, &params, &session_));
    check_supported(mica_session_compile(session_, 1, &graph_, &plan_));
    explain(result);
    if (options_.plan_only) return;
    load_weights();
    check(mica_session_allocate(session_));
    if (steps_.empty()) steps_.resize(1);
    for (size_t i = 0; i < steps_.size(); ++i) run_step(i, result);
    if (cache_ == nullptr && !options_.once) repeat(result);
  }

 private:
  void check(mica_status status) const {
    if (status != MICA_OK)
      throw Failure{status, context_ != nullptr ? mica_context_error(context_) : "no context"};
  }
  void check_supported(mica_status status) const {
    if (status == MICA_UNSUPPORTED) throw Failure{status, mica_context_error(context_), true};
    check(status);
  }

  void explain(RunResult& result) const {
    size_t size = 0;
    check(mica_plan_explain(plan_, nullptr, 0, &size));
    result.explain.resize(size + 1);
    check(mica_plan_explain(plan_, result.explain.data(), result.explain.size(), &size));
    result.explain.resize(size);
  }

  void load_weights() {
    for (Leaf& leaf : leaves_)
      leaf.bytes = encode(leaf.dtype, make_values(leaf.values, elements(leaf.dim),
                                                  mix(options_.seed, leaf.name, 0)));
    const mica_weight_source source = {
        this,
        [](void* user, uint32_t i, uint64_t offset, uint64_t, void*, const void** out) {
          *out = static_cast<Instance*>(user)->leaves_[i].bytes.data() + offset;
          return MICA_OK;
        },
        nullptr};
    check(mica_weights_load(weights_, &source));
  }

  int64_t live_of(uint32_t extent) const {
    for (const LiveExtent& e : extents_)
      if (e.index == extent) return e.live;
    return 0;
  }

  // Fresh values; rows beyond the live ones get values that must not matter: NaN, of other bits
  // than the guard's fill, and numbers that are no index.
  void write_inputs(size_t step) {
    for (Leaf& in : inputs_) {
      const size_t n = elements(in.dim);
      in.bytes = encode(in.dtype, make_values(in.values, n, mix(options_.seed, in.name, step + 1)));
      if (in.extent != 0) {
        const size_t row = in.bytes.size() / static_cast<size_t>(in.dim.back());
        const size_t live = row * static_cast<size_t>(live_of(in.extent));
        for (size_t i = live; i < in.bytes.size(); ++i) in.bytes[i] = i % 2 != 0 ? 0x7f : 0xc4;
      }
      check(mica_session_set(session_, in.name.c_str(), 0, in.bytes.data(), in.bytes.size()));
    }
  }

  void run_step(size_t i, RunResult& result) {
    const Step& step = steps_[i];
    if (cache_ != nullptr) {
      if (step.edit) check(step.edit(cache_));
      int64_t n = 0;
      for (const mica_kv_span& s : step.spans) n += s.n_tokens;
      for (LiveExtent& e : extents_)
        if (e.name == "n_tokens") e.live = n;
      check(step.shift ? mica_kv_reserve_shift(cache_, 0, nullptr)
                       : mica_kv_reserve(cache_, static_cast<uint32_t>(step.spans.size()),
                                         step.spans.data()));
    }
    for (const LiveExtent& e : extents_)
      check(mica_session_set_extent(session_, e.name.c_str(), e.live));
    write_inputs(i);
    check(mica_plan_run(plan_));
    result.steps.push_back(read_outputs());
    read_cells(result.steps.back());
    for (const Leaf& in : inputs_)
      if (result.changed.empty()) result.changed = changed(in);
    if (i == 0 && options_.role == Role::kTested && result.changed.empty())
      result.changed = changed_weight();
  }

  // Which byte of an input the step changed; "": none.
  std::string changed(const Leaf& in) const {
    for (const std::string& w : written_)
      if (w == in.name) return "";
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

  std::vector<OutputData> read_outputs() const {
    std::vector<OutputData> all;
    for (const std::string& name : outputs_) {
      mica_tensor_info info;
      check(mica_plan_output_info(plan_, name.c_str(), &info));
      if (info.extent.index != 0) info.dim[info.rank - 1] = live_of(info.extent.index);
      const int64_t n = info.dim[0] * info.dim[1] * info.dim[2] * info.dim[3];
      const mica_dtype_info* d = mica_dtype_get(info.dtype);
      OutputData data(name, info.dtype);
      data.bytes.resize(static_cast<size_t>(n) / d->block_elems * d->block_bytes);
      if (n > 0)
        check(mica_plan_read(plan_, name.c_str(), 0, data.bytes.data(), data.bytes.size()));
      std::copy_n(info.dim, 4, data.dim);
      check(mica_plan_output_numerics(plan_, name.c_str(), &data.numerics));
      for (const std::string& far : far_) data.is_far |= far == name;
      decode(data, n);
      all.push_back(std::move(data));
    }
    for (const std::string& name : written_)
      for (const Leaf& in : inputs_)
        if (in.name == name) {
          OutputData data(name, in.dtype);
          data.is_written_input = true;
          data.bytes.resize(in.bytes.size());
          check(mica_session_get(session_, name.c_str(), 0, data.bytes.data(), data.bytes.size()));
          all.push_back(std::move(data));
        }
    return all;
  }

  // The same step again: bit-equal results are required (determinism), and --perf times it.
  void repeat(RunResult& result) {
    write_inputs(0);
    check(mica_plan_run(plan_));
    const std::vector<OutputData> again = read_outputs();
    for (size_t i = 0; i < again.size(); ++i)
      if (again[i].bytes != result.steps[0][i].bytes)
        throw Failure{MICA_INTERNAL, "two equal runs gave different bits"};
    for (uint32_t i = 0; i < options_.n_timed; ++i) {
      const auto start = std::chrono::steady_clock::now();
      check(mica_plan_run(plan_));
      const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
      result.seconds.push_back(d.count());
    }
  }

  const Case& case_;
  const RunOptions& options_;
  mica_context* context_ = nullptr;
  mica_device* device_ = nullptr;
  mica_weights* weights_ = nullptr;
  mica_graph* graph_ = nullptr;
  mica_kv_cache* cache_ = nullptr;
  mica_session* session_ = nullptr;
  mica_plan* plan_ = nullptr;
  std::vector<Leaf> inputs_, leaves_;
  std::vector<LiveExtent> extents_;
  std::vector<std::string> outputs_, written_, far_;
  std::vector<Step> steps_;
  mica_extent n_tokens_{};
};

}  // namespace

RunResult run_case(const Case& c, const RunOptions& options) {
  RunResult result;
  take_numerics(options.role);
  try {
    Instance instance(c, options);
    instance.open();
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
