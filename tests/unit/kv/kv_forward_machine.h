// The network of kv_forward_oracle.h in a session, as a program would have it.
#pragma once
#include <thread>

#include "core/state/kv_state.h"
#include "tests/unit/kv/kv_forward_oracle.h"
#include "tests/unit/world.h"

namespace mica::kv_test {

using namespace mica::test;
using Bytes = std::vector<uint8_t>;
using Spans = std::vector<mica_kv_span>;

struct Kinds {
  mica_kv_keys keys = MICA_KV_KEYS_ROTATED;
  mica_dtype k = MICA_F32, v = MICA_F32;
};

// What a step gave.
struct Step {
  std::vector<int32_t> positions, key_positions;
  std::array<std::vector<int32_t>, kLayers> slots;
  std::array<std::vector<float>, kLayers> x, k, y;  // of k those of layers that own storage
};

class Machine {
 public:
  static constexpr uint32_t kSeqs = 4, kTokens = 150, kCells = 64 * 10;

  Machine(const char* backend, const Net& net, const Kinds& cells, uint32_t max_turns)
      : kinds(cells), net_(net) {
    mica_context_params cp = MICA_CONTEXT_PARAMS_INIT;
    cp.cancel = &cancel_;
    cp.n_threads = 1;
    context = make_context(&cp);
    device = open_device(context, backend);
    std::array<mica_kv_layer, kLayers> layers = net.layers;
    for (mica_kv_layer& l : layers) {
      l.n_kv_heads = kKvHeads;
      l.head_dim_k = l.head_dim_v = net.head_dim;
      l.dtype_k = kinds.k;
      l.dtype_v = kinds.v;
    }
    mica_kv_params p = MICA_KV_PARAMS_INIT;
    p.n_layers = kLayers;
    p.layers = layers.data();
    p.n_cells = kCells;
    p.max_seqs = kSeqs;
    p.max_step_tokens = kTokens;
    p.max_entries = net.max_entries;
    p.keys = kinds.keys;
    p.max_turns = max_turns;
    mica_kv_cache* c = nullptr;
    EXPECT_EQ(mica_kv_cache_create(device.get(), &p, &c), MICA_OK) << error();
    cache.reset(c);
    session = make_session(device, c);
    const Graph step = step_graph(), shift = shift_graph();
    mica_graph* const graphs[] = {step.get(), shift.get()};
    for (const Graph& g : {std::cref(step), std::cref(shift)})
      EXPECT_EQ(mica_graph_status(g.get(), nullptr), MICA_OK) << graph_error(g);
    EXPECT_EQ(mica_session_compile(session.get(), 2, graphs, plans_), MICA_OK) << error();
    EXPECT_EQ(mica_session_allocate(session.get()), MICA_OK) << error();
    if (!net.factors.empty()) set(session, "factors", net.factors);
  }

  std::string error() const { return mica_context_error(context.get()); }
  mica_status reserve(const Spans& spans) {
    return mica_kv_reserve(cache.get(), static_cast<uint32_t>(spans.size()), spans.data());
  }
  // What was reserved, with the layers' own inputs; the cancel flag is set meanwhile: -1 never, 0
  // before the step, else so many microseconds after its start.
  mica_status run(const std::array<std::vector<float>, kLayers>& in, int cancel_after) {
    for (uint32_t i = 0; i < kLayers; ++i) set(session, name("in", i).c_str(), in[i]);
    return run(plans_[0], cancel_after);
  }
  mica_status run_shift(int cancel_after) { return run(plans_[1], cancel_after); }

  Step read_step(size_t n) {
    Step s;
    s.positions = read<int32_t>(plans_[0], "positions", n);
    s.key_positions = read<int32_t>(plans_[0], "key_positions", n);
    for (uint32_t i = 0; i < kLayers; ++i) {
      s.slots[i] = read<int32_t>(plans_[0], name("slots", i).c_str(), n);
      s.x[i] = read(plans_[0], name("x", i).c_str(), n * net_.x_size());
      s.y[i] = read(plans_[0], name("y", i).c_str(), n * net_.x_size());
      if (net_.owns(i)) s.k[i] = read(plans_[0], name("k", i).c_str(), n * net_.kv_size());
    }
    return s;
  }

  Bytes save(uint32_t seq = MICA_KV_ALL_SEQS) {
    Bytes out;
    const mica_kv_writer writer = {[](void* user, const void* data, uint64_t n) {
                                     const auto* p = static_cast<const uint8_t*>(data);
                                     auto& bytes = *static_cast<Bytes*>(user);
                                     bytes.insert(bytes.end(), p, p + n);
                                     return MICA_OK;
                                   },
                                   &out};
    EXPECT_EQ(mica_kv_save_to(session.get(), seq, 7, &writer), MICA_OK) << error();
    return out;
  }
  mica_status load(const Bytes& bytes, uint32_t seq, mica_kv_loaded* out) {
    const uint8_t* at = bytes.data();
    const mica_kv_reader reader = {[](void* user, void* dst, uint64_t n) {
                                     const uint8_t*& from = *static_cast<const uint8_t**>(user);
                                     std::copy_n(from, n, static_cast<uint8_t*>(dst));
                                     from += n;
                                     return MICA_OK;
                                   },
                                   &at, bytes.size()};
    return mica_kv_load_from(session.get(), seq, 7, &reader, out);
  }

  // K or V of a page's 64 cells as they are stored, decoded: [cell][kKvHeads][head_dim].
  std::vector<float> page(uint32_t layer, bool is_v, int32_t page) {
    const StateHalf half = state_half(cache->layers[layer], is_v);
    const mica_dtype_info& info = *mica_dtype_get(half.desc.dtype);
    const uint64_t head_bytes = state_cell_bytes(half.desc.dtype, net_.head_dim, 1);
    Bytes bytes(head_bytes * kKvHeads * 64);
    EXPECT_EQ(device->backend->kv_unpack(
                  device->handle, &half.desc, session->kv.handle(),
                  half.offset + static_cast<uint64_t>(page) * half.page_bytes, bytes.data()),
              MICA_OK);
    std::vector<float> row(head_bytes / info.block_bytes * info.block_elems), out;
    for (size_t i = 0; i < size_t{kKvHeads} * 64; ++i) {
      (void)mica_dtype_decode(half.desc.dtype, bytes.data() + i * head_bytes, row.data(),
                              row.size());
      out.insert(out.end(), row.begin(), row.begin() + net_.head_dim);
    }
    return out;
  }

  const Kinds kinds;
  Context context;
  Device device;
  Cache cache;
  Session session;

 private:
  static std::string name(const char* of, uint32_t layer) { return of + std::to_string(layer); }

  mica_status run(mica_plan* plan, int cancel_after) {
    const auto store = [this](int32_t v) { __atomic_store_n(&cancel_, v, __ATOMIC_RELAXED); };
    std::thread late;
    if (cancel_after == 0) store(1);
    if (cancel_after > 0)
      late = std::thread([=] {
        std::this_thread::sleep_for(std::chrono::microseconds(cancel_after));
        store(1);
      });
    const mica_status status = mica_plan_run(plan);
    if (late.joinable()) late.join();
    store(0);
    return status;
  }
  // Those of the layers, in a graph.
  std::array<mica_rope_params, kLayers> ropes_in(mica_graph* g) const {
    std::array<mica_rope_params, kLayers> ropes = net_.rope;
    if (net_.factors.empty()) return ropes;
    const mica_tensor factors = input(g, "factors", {static_cast<int64_t>(net_.factors.size())});
    for (mica_rope_params& p : ropes) p.freq_factors = factors;
    return ropes;
  }
  Graph step_graph() const {
    Graph graph = make_graph(context);
    mica_graph* g = graph.get();
    const mica_extent n = mica_graph_extent(g, "n_tokens", kTokens);
    const bool ropes = kinds.keys != MICA_KV_KEYS_NONE;
    const int64_t dim = net_.head_dim;
    const std::array<mica_rope_params, kLayers> rope = ropes_in(g);
    mica_tensor y = MICA_NO_TENSOR;
    for (uint32_t i = 0; i < kLayers; ++i) {
      const mica_tensor in = input(g, name("in", i).c_str(), {dim, kHeads, kTokens}, n);
      const mica_tensor x = i == 0 ? mica_copy(g, in) : mica_add(g, in, y);
      const mica_kv kv = mica_graph_kv(g, cache.get(), i, n);
      const mica_rope_params& p = rope[i];
      mica_attention_params attention = MICA_ATTENTION_PARAMS_INIT;
      attention.rope = ropes ? &p : nullptr;
      if (i == 0) {
        mica_output(g, mica_copy(g, kv.positions), "positions");
        mica_output(g, mica_copy(g, kv.key_positions), "key_positions");
      }
      if (net_.owns(i)) {
        const int64_t half[] = {dim, kKvHeads, kTokens}, at[] = {0, kKvHeads, 0, 0};
        mica_tensor k = mica_view(g, x, 3, half, nullptr);
        k = ropes ? mica_rope(g, k, kv.key_positions, &p) : mica_copy(g, k);
        mica_kv_append(g, &kv, k, mica_view(g, x, 3, half, at));
        mica_output(g, k, name("k", i).c_str());
      }
      y = mica_attention(g, ropes ? mica_rope(g, x, kv.positions, &p) : x, &kv, &attention);
      mica_output(g, x, name("x", i).c_str());
      mica_output(g, y, name("y", i).c_str());
      mica_output(g, mica_copy(g, kv.slots), name("slots", i).c_str());
    }
    return graph;
  }
  Graph shift_graph() const {
    Graph g = make_graph(context);
    const mica_extent one = mica_graph_extent(g.get(), "n_tokens", 1);
    const std::array<mica_rope_params, kLayers> rope = ropes_in(g.get());
    for (uint32_t i = 0; i < kLayers; ++i) {
      const mica_kv kv = mica_graph_kv(g.get(), cache.get(), i, one);
      if (net_.owns(i)) mica_kv_shift(g.get(), &kv, &rope[i]);
    }
    return g;
  }

  const Net& net_;
  int32_t cancel_ = 0;
  mica_plan* plans_[2] = {};
};

}  // namespace mica::kv_test
